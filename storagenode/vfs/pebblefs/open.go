package pebblefs

import (
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// Open is pebble.Open, but no compaction runs before it has succeeded. Pebble
// (2.1) begins compactions while it opens; where the opening fails after that,
// on a directory that cannot be listed, say, it takes their caches away from
// under them, and they end the process.
func Open(dir string, o *pebble.Options) (*pebble.DB, error) {
	s := &scheduler{ConcurrencyLimitScheduler: pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()}
	o.Experimental.CompactionScheduler = s
	db, err := pebble.Open(dir, o)
	if err == nil {
		s.begin()
	}
	return db, err
}

// scheduler lets compactions run once the database is open. Afterwards it is
// Pebble's own, without its ticker, which outlives an opening that failed: what
// waits is looked at after each flush and each compaction.
type scheduler struct {
	*pebble.ConcurrencyLimitScheduler
	db   pebble.DBForCompaction
	open atomic.Bool
}

// Register implements pebble.CompactionScheduler.
func (s *scheduler) Register(goroutines int, db pebble.DBForCompaction) {
	s.db = db
	s.ConcurrencyLimitScheduler.Register(goroutines, db)
}

// TrySchedule implements pebble.CompactionScheduler.
func (s *scheduler) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if !s.open.Load() {
		return false, nil
	}
	return s.ConcurrencyLimitScheduler.TrySchedule()
}

// begin grants what was asked for while the database was being opened.
func (s *scheduler) begin() {
	s.open.Store(true)
	ok, grant := s.ConcurrencyLimitScheduler.TrySchedule()
	if !ok {
		return
	}
	if waiting, _ := s.db.GetWaitingCompaction(); !waiting || !s.db.Schedule(grant) {
		grant.Done()
	}
}
