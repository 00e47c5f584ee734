package segment

import (
	"time"

	"kintsugi/storagenode"
)

// spaceAge is how old a measurement of the file system may be before a Put to
// a full drive asks again.
const spaceAge = time.Second

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
	full := u.Total > 0 && u.Free < s.spare || s.idxFailed.Load() != nil
	if s.readOnly.Swap(full) != full {
		text := "drive takes writes again"
		switch {
		case full && u.Free < s.spare:
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
