package segment

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// spaceAge is how old a measurement of the file system may be before a Put to
// a full drive asks again.
const spaceAge = time.Second

// refusedFor is how long a drive counts as full after a write found no space.
const refusedFor = 5 * time.Second

// short says whether an error speaks of this process, and not of the drive. A sync
// that failed always speaks of the drive.
func short(err error) bool {
	return vfs.Short(err) && (!errors.Is(err, errSync) || !errors.Is(err, syscall.ENOMEM))
}

// passing gives what a write is refused with that may do better later, for want of
// space or of files or memory; nil where the drive is to blame.
func (s *Store) passing(err error) error {
	switch {
	case vfs.NoSpace(err):
		s.readOnly.Store(true)
		s.mu.Lock()
		s.refusedAt = s.cfg.Clock.Now()
		s.mu.Unlock()
		return fmt.Errorf("%w: %w", storagenode.ErrReadOnly, err)
	case short(err):
		now := s.cfg.Clock.Now().UnixNano()
		if last := s.shortAt.Load(); now-last >= int64(shortEvery) && s.shortAt.CompareAndSwap(last, now) {
			s.cfg.Logger.Error("the process is short of files or memory, the drive is not to blame: raise LimitNOFILE (ulimit -n), fs.file-max or the memory limit",
				"drive", s.cfg.Drive, "err", err)
		}
		return fmt.Errorf("%w: %w", storagenode.ErrUnavailable, err)
	}
	return nil
}

// shortEvery is how often the log says what the process is short of.
const shortEvery = 10 * time.Second

// measure learns the space of the file system, and from it segment size and
// reserve at first.
func (s *Store) measure() error {
	u, err := s.cfg.FS.Usage(s.cfg.Dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage, s.spaceAt = u, s.cfg.Clock.Now()
	if s.segSize == 0 {
		if s.segSize = s.cfg.SegmentSize; s.segSize == 0 {
			s.segSize = segmentSizeFor(u.Total)
		}
		// Two segments, and room for the index: a 16th up to 64 MiB.
		least := 2*s.segSize + min(64<<20, u.Total/16)
		s.spare = max(int64(float64(u.Total)*s.cfg.ReserveRatio), min(least, u.Total/2))
	}
	// A drive that was full takes writes again when clearly more than the reserve is
	// free, and one that found no space (a quota does not show in what is free) after
	// a while: else it would come and go with every segment.
	need := s.spare
	if s.full {
		need += min(s.segSize, s.spare/4)
	}
	s.full = u.Total > 0 && u.Free < need || !s.refusedAt.IsZero() && s.spaceAt.Sub(s.refusedAt).Abs() < refusedFor
	full := s.full || s.idxFailed.Load() != nil
	if s.readOnly.Swap(full) != full {
		text := "drive takes writes again"
		switch {
		case s.full:
			text = "drive is full: it takes no writes"
		case full:
			text = "drive has no index: it takes no writes"
		}
		s.cfg.Logger.Warn(text, "drive", s.cfg.Drive, "free", u.Free, "reserve", s.spare)
	}
	return nil
}

// checkSpace measures; where that fails, the old measurement stands.
func (s *Store) checkSpace() {
	if err := s.measure(); err != nil {
		s.cfg.Logger.Warn("cannot measure the file system", "err", err)
	}
}

func (s *Store) spaceStale() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Clock.Now().Sub(s.spaceAt) >= spaceAge
}

// tight says that less than 15% of the file system is free.
func (s *Store) tight() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usage.Total > 0 && s.usage.Free < s.usage.Total*15/100
}

// Space implements storagenode.Drive.
func (s *Store) Space() storagenode.Space {
	s.mu.Lock()
	sp := storagenode.Space{
		Total: s.usage.Total, Used: s.usage.Total - s.usage.Free - s.usage.Reserved,
		Free: max(0, s.usage.Free-s.spare), ReadOnly: s.readOnly.Load(),
	}
	s.mu.Unlock()
	sp.Dead = s.deadBytes.Load()
	return sp
}
