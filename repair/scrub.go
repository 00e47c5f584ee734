package repair

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

const (
	scrubFloor = 8 << 20 // bytes per second, where nothing is configured
	// scrubSpread is the time over which the first scrubs after a start begin.
	scrubSpread = 24 * time.Hour
)

// driveScrubber is what a store offers that can verify itself.
type driveScrubber interface {
	Scrub(ctx context.Context, bytesPerSecond int64, damaged func(storagenode.ShardID, error)) (storagenode.ScrubReport, error)
}

// ScrubState is a drive's last full scrub and its next.
type ScrubState struct {
	Ended   time.Time `json:"ended,omitzero"`
	Next    time.Time `json:"next,omitzero"`
	Records int64     `json:"records"`
	Bytes   int64     `json:"bytes"`
	Corrupt int       `json:"corrupt"`
	Error   string    `json:"error,omitempty"`
	Running bool      `json:"running"`
}

// scrubber scrubs each drive once per interval, those that are due side by side:
// each at a rate of its own, at which a few one after the other would be late.
type scrubber struct {
	cfg      *Config
	fleet    *fleet
	reader   *readRepair
	progress *progress

	running sync.Mutex // one pass at a time
	mu      sync.Mutex
	state   map[storagenode.DriveID]*ScrubState // guarded by mu
	ended   map[storagenode.DriveID]time.Time   // last whole scrubs, as metadata has them; guarded by mu
	term    uint64                              // that ended was read under; guarded by mu
}

func newScrubber(cfg *Config, f *fleet, r *readRepair, p *progress) *scrubber {
	return &scrubber{cfg: cfg, fleet: f, reader: r, progress: p, state: map[storagenode.DriveID]*ScrubState{}}
}

// dueNow makes every drive due.
func (s *scrubber) dueNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.state {
		st.Next = s.cfg.Clock.Now()
	}
}

// pass scrubs the drives that are due.
func (s *scrubber) pass(ctx context.Context) error {
	s.running.Lock()
	defer s.running.Unlock()
	if err := s.load(ctx); err != nil {
		return err
	}
	var due []storagenode.DriveReport
	for _, rep := range s.cfg.Drives.Reports() {
		if s.due(rep.ID) {
			due = append(due, rep)
		}
	}
	errs := make([]error, len(due))
	var all sync.WaitGroup
	for i, rep := range due {
		all.Go(func() { errs[i] = s.scrub(ctx, rep) })
	}
	all.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// load reads when drives were last scrubbed, under each term anew: former
// leaders went on with it.
func (s *scrubber) load(ctx context.Context) error {
	term, _ := metadata.TermOf(ctx)
	s.mu.Lock()
	loaded := s.ended != nil && s.term == term.Number
	s.mu.Unlock()
	if loaded {
		return nil
	}
	ended, err := s.cfg.Rounds.Scrubs(ctx)
	if err != nil {
		return err
	}
	now := s.cfg.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.term = ended, term.Number
	for id, at := range ended {
		st := s.state[id]
		if st == nil {
			st = &ScrubState{}
			s.state[id] = st
		}
		if at.After(st.Ended) {
			// Not later than by this process's clock, whatever the other's said.
			st.Ended, st.Next = at, at.Add(s.cfg.ScrubInterval)
			if latest := now.Add(s.cfg.ScrubInterval); st.Next.After(latest) {
				st.Next = latest
			}
		}
	}
	return nil
}

// due also plans the first scrub of a drive, at a time that its id decides.
func (s *scrubber) due(id storagenode.DriveID) bool {
	now := s.cfg.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state[id]
	if st == nil {
		spread := uint64(min(scrubSpread, s.cfg.ScrubInterval))
		st = &ScrubState{Next: now.Add(time.Duration(binary.BigEndian.Uint64(id[8:]) % spread))}
		s.state[id] = st
	}
	return !now.Before(st.Next)
}

func (s *scrubber) scrub(ctx context.Context, rep storagenode.DriveReport) error {
	store, state := s.cfg.Drives.Drive(rep.ID)
	d, ok := store.(driveScrubber)
	if !ok || !state.Readable() {
		return nil
	}
	rate := s.cfg.ScrubBytesPerSecond
	if rate <= 0 {
		rate = max(scrubFloor, rep.Space.Used/max(1, int64(s.cfg.ScrubInterval/time.Second)/4))
	}
	// How much there is to read is not known: what is used of the file system
	// may be somebody else's.
	task := s.progress.begin(Scrub, "drive "+rep.ID.String(), 0)
	defer task.end()
	s.update(rep.ID, func(st *ScrubState) { st.Running = true })
	result, err := s.run(ctx, d, rep.ID, rate)
	now := s.cfg.Clock.Now()
	s.update(rep.ID, func(st *ScrubState) {
		st.Running = false
		st.Records, st.Bytes, st.Corrupt, st.Error = result.Records, result.Bytes, len(result.Corrupt), ""
		if err != nil {
			st.Error = err.Error()
			st.Next = now.Add(min(time.Hour, s.cfg.ScrubInterval))
			return
		}
		st.Ended, st.Next = now, now.Add(s.cfg.ScrubInterval)
	})
	if err != nil {
		return fmt.Errorf("scrub drive %s: %w", rep.ID, err)
	}
	return s.cfg.Rounds.PutScrub(ctx, rep.ID, now)
}

// run scrubs a drive until it is through, ctx ends, or the drive hangs.
func (s *scrubber) run(ctx context.Context, d driveScrubber, id storagenode.DriveID, rate int64) (storagenode.ScrubReport, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	go s.watch(ctx, cancel, id)
	return patiently(ctx, func() (storagenode.ScrubReport, error) {
		return d.Scrub(ctx, rate, func(id storagenode.ShardID, _ error) {
			// Not through the queue, which may drop: what a scrub found must not
			// wait for the next one.
			s.reader.verify(ctx, claim{id.PG, int(id.Slot), id.Blob})
		})
	})
}

// watch ends the scrub of a drive that is SUSPECT at two looks in a row.
func (s *scrubber) watch(ctx context.Context, cancel context.CancelCauseFunc, id storagenode.DriveID) {
	for hung := 0; hung < 2; {
		select {
		case <-ctx.Done():
			return
		case <-s.cfg.Clock.After(s.cfg.OpTimeout):
		}
		if _, state := s.cfg.Drives.Drive(id); state == storagenode.DriveSuspect {
			hung++
		} else {
			hung = 0
		}
	}
	cancel(storagenode.ErrSuspect)
}

func (s *scrubber) update(id storagenode.DriveID, f func(*ScrubState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state[id]
	if st == nil {
		st = &ScrubState{}
		s.state[id] = st
	}
	f(st)
}

// of gives the state of one drive's scrubbing.
func (s *scrubber) of(id storagenode.DriveID) ScrubState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.state[id]; st != nil {
		return *st
	}
	return ScrubState{}
}
