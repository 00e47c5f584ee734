package load

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// store is a right store, with faults to be switched on.
type store struct {
	mu    sync.Mutex
	m     map[string][]byte
	fault func(op, key string, p []byte) ([]byte, bool)
}

func (s *store) Put(_ context.Context, key string, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		if _, skip := s.fault("put", key, p); skip {
			return nil
		}
	}
	s.m[key] = p
	return nil
}

func (s *store) Get(_ context.Context, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.m[key]
	if ok && s.fault != nil {
		p, _ = s.fault("get", key, p)
	}
	return p, ok, nil
}

func (s *store) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		if _, skip := s.fault("delete", key, nil); skip {
			return nil
		}
	}
	delete(s.m, key)
	return nil
}

func check(fault func(op, key string, p []byte) ([]byte, bool)) error {
	l := Start(Config{
		Target: &store{m: map[string][]byte{}, fault: fault}, Writers: 2, Readers: 2, Keys: 5,
		MaxSize: 4000, DeletePercent: 20, Seed: 1, Pause: time.Millisecond,
	})
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok, _ := l.Counts(); ok["put"] >= 150 { // and some forty deletes
			break
		}
	}
	l.Stop()
	return l.Check(context.Background())
}

func TestARightStorePasses(t *testing.T) {
	if err := check(nil); err != nil {
		t.Fatal(err)
	}
}

func TestWrongStoresAreCaught(t *testing.T) {
	n := 0
	every := func(nth int, op string) func(string, string, []byte) ([]byte, bool) {
		return func(o, _ string, p []byte) ([]byte, bool) {
			if o == op {
				n++
			}
			return p, o == op && n%nth == 0
		}
	}
	for name, fault := range map[string]func(string, string, []byte) ([]byte, bool){
		"lost writes":        every(7, "put"),
		"deleted comes back": every(1, "delete"),
		"a flipped bit":      func(_, _ string, p []byte) ([]byte, bool) { q := append([]byte(nil), p...); flip(q); return q, false },
		"a short body":       func(_, _ string, p []byte) ([]byte, bool) { return p[:len(p)-min(1, len(p))], false },
	} {
		if err := check(fault); err == nil {
			t.Errorf("%s: not caught", name)
		} else if strings.Contains(name, "body") && !errors.Is(err, ErrWrongBytes) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func flip(p []byte) {
	if len(p) > 0 {
		p[len(p)-1] ^= 1
	}
}

// flaky fails every other try.
type flaky struct {
	store
	tries atomic.Int64
}

func (f *flaky) Put(ctx context.Context, key string, p []byte) error {
	if f.tries.Add(1)%2 == 1 {
		return errors.New("try again")
	}
	return f.store.Put(ctx, key, p)
}

// TestSlow: an operation that succeeds late is noted with all its tries.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Load{cfg: Config{Target: &flaky{store: store{m: map[string][]byte{}, fault: func(op, key string, _ []byte) ([]byte, bool) {
			if key == "late" {
				time.Sleep(slowFrom)
			}
			return nil, false
		}}}, Timeout: time.Minute, Patience: time.Minute},
			begin: time.Now(), errs: map[string]int{}, tries: map[string]int{}, waits: map[string]time.Duration{}, oks: map[string]int{}}
		l.Put(t.Context(), 0, "soon", 100)
		began := time.Now()
		l.Put(t.Context(), 0, "late", 100)
		want := Slow{"put", "late", began, slowFrom + 20*time.Millisecond}
		if got := l.Slow(); len(got) != 1 || got[0] != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestPatience(t *testing.T) {
	for _, patience := range []time.Duration{0, 30 * time.Second} {
		l := &Load{cfg: Config{Target: &flaky{store: store{m: map[string][]byte{}}}, Timeout: time.Minute, Patience: patience},
			begin: time.Now(), errs: map[string]int{}, tries: map[string]int{}, waits: map[string]time.Duration{}, oks: map[string]int{}}
		for range 2 {
			l.Put(t.Context(), 0, "k", 100)
		}
		ok, failed := l.Counts()
		tries, longest, last := l.Retries()
		if patience == 0 && (ok["put"] != 1 || failed["put"] != 1 || tries["put"] != 0 || last == nil) {
			t.Errorf("without patience: %v %v %v %v", ok, failed, tries, last)
		}
		if patience > 0 && (ok["put"] != 2 || failed["put"] != 0 || tries["put"] != 2 || longest["put"] < 20*time.Millisecond || last != nil) {
			t.Errorf("with patience: %v %v %v %v %v", ok, failed, tries, longest, last)
		}
		if len(l.ops) != 2+tries["put"] {
			t.Errorf("%d operations in the history, want every try", len(l.ops))
		}
	}
}
