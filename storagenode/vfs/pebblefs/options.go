package pebblefs

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// stopWrites is the number of sublevels of L0 at which Pebble blocks writers.
// Where tables are damaged or gone, compactions fail for ever while flushes go
// on; at Pebble's own threshold of 12 every writer would soon hang, and the
// owner, who cannot close the database under them, with them.
const stopWrites = 1000

// Every other flush is merged with all of the first level below the newest
// files. Pebble lets that grow to 64 MiB before it makes another: a few entries
// would rewrite so much each time.
const baseLevel = 1 << 20

// Configure makes o the options of a database that can be rebuilt and is made
// durable by a flush every few seconds: without a log, and with an FS, Logger
// and EventListener that never end the process. log may be nil. Damage found in
// Pebble's files, and any error that ends its work in the background, poison the
// FS as failed writes do, since the remedy is the same. A read that fails, or
// meets damage, gives its error to the caller besides; a mere read error poisons
// nothing.
func (f *FS) Configure(o *pebble.Options, log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o.FS = f
	o.DisableWAL = true
	o.FormatMajorVersion = pebble.FormatNewest
	o.MaxOpenFiles = 256
	o.MemTableStopWritesThreshold = 4
	o.L0CompactionThreshold = 4
	o.L0StopWritesThreshold = stopWrites
	o.LBaseMaxBytes = baseLevel
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.Logger = f.Logger(log)
	o.EventListener = &pebble.EventListener{
		BackgroundError: func(err error) {
			if errors.Is(err, pebble.ErrCancelledCompaction) || errors.Is(err, pebble.ErrClosed) {
				return
			}
			f.failures.Add(1)
			f.poison(fmt.Errorf("index work in the background: %w", err))
		},
		// The default is Fatalf.
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			f.poison(fmt.Errorf("index damaged: %s: %w", i.Path, i.Details))
		},
		DiskSlow: func(i pebble.DiskSlowInfo) {
			log.Warn("index disk is slow", "path", i.Path, "duration", i.Duration)
		},
	}
}

// Logger gives a pebble.Logger that is quiet but for errors. Its Fatalf, after
// which Pebble counts on never going on, poisons the FS and blocks that
// goroutine for good instead of ending the process. A database that came there
// may never return from Close: leave it, without waiting. Write errors do not
// lead there, since FS hides them.
func (f *FS) Logger(log *slog.Logger) pebble.Logger { return quiet{f, log} }

type quiet struct {
	f   *FS
	log *slog.Logger
}

func (quiet) Infof(string, ...any) {}

func (q quiet) Errorf(format string, args ...any) {
	q.log.Warn("index: " + fmt.Sprintf(format, args...))
}

func (q quiet) Fatalf(format string, args ...any) {
	err := fmt.Errorf("index gave up: %s", fmt.Sprintf(format, args...))
	q.log.Error(err.Error())
	q.f.poison(err)
	select {}
}
