package journal

import (
	"errors"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestStateGivenUpWhileItOpens: where a drive fails before Pebble was asked to open,
// nobody holds its cache any more when it is. That must not end the process.
func TestStateGivenUpWhileItOpens(t *testing.T) {
	lost := errors.New("the drive is lost")
	var opens sync.WaitGroup
	for range 200 {
		opens.Go(func() {
			st := &state{failed: make(chan struct{}), cause: lost, onFail: func() {}}
			close(st.failed)
			cache := pebble.NewCache(1 << 20)
			err := st.open("state", &pebble.Options{Cache: cache, FS: vfs.NewMem(), Logger: quiet{}})
			cache.Unref()
			if err != nil && !errors.Is(err, lost) {
				t.Error(err)
			}
		})
	}
	opens.Wait()
}

// quiet is a pebble.Logger.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(string, ...any) {}
