package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
	"kintsugi/metadata/kv/kvtest"
	"kintsugi/storagenode/clock"
)

func through(p *proxy, timeout time.Duration) func(*etcd.Config) {
	return func(c *etcd.Config) { c.Endpoints, c.Timeout = []string{p.address()}, timeout }
}

// retried repeats a write that must end, whatever its own outcomes were.
func retried(t *testing.T, within time.Duration, s kv.Store, key, value string) {
	t.Helper()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); {
		if err = put(t, s, key, value); err == nil {
			return
		}
		if !errors.Is(err, kv.ErrUnknown) && !errors.Is(err, kv.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	t.Fatalf("no commit within %v, the last: %v", within, err)
}

// An answer that is lost must not come back as a conflict with ourselves.
func TestCutAfterDelivery(t *testing.T) {
	s := start(t, 1)
	p := newProxy(t, s.clients[0])
	st, direct := s.open("/x/", through(p, 20*time.Second)), s.open("/x/")
	lost := 0
	for i := range 20 {
		key := fmt.Sprint("k", i)
		x, err := st.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantGetTxn(t, x, key, "")
		x.Put([]byte(key), []byte("once"))
		p.set(func(p *proxy) { p.cutOnAnswer = true })
		err = x.Commit(t.Context())
		p.set(func(p *proxy) { p.cutOnAnswer = false })
		switch {
		case errors.Is(err, kv.ErrUnknown):
			lost++
		case errors.Is(err, kv.ErrUnavailable): // the cut came before it was sent
			wantGet(t, direct, key, "")
		default:
			t.Fatalf("commit %d whose answer was cut: %v", i, err)
		}
		// A later commit decides it, and was not held up by the earlier one.
		mustPut(t, st, key+"/after", "1")
		if v, err := direct.Get(t.Context(), []byte(key)); err != nil || v != nil && string(v) != "once" {
			t.Fatalf("%q, %v", v, err)
		}
	}
	if lost < 5 {
		t.Fatalf("only %d answers were lost", lost)
	}
}

func wantGetTxn(t *testing.T, x kv.Txn, key, want string) {
	t.Helper()
	v, err := x.Get(t.Context(), []byte(key))
	if err != nil || string(v) != want {
		t.Fatalf("Get(%q) = %q, %v; want %q", key, v, err, want)
	}
}

// A request that is delivered late must not take place after a later commit
// wrote its key.
func TestLateRequestIsFenced(t *testing.T) {
	s := start(t, 1)
	p := newProxy(t, s.clients[0])
	st := s.open("/x/", through(p, 3*time.Second))
	mustPut(t, st, "key", "first")
	p.set(func(p *proxy) { p.holdUp = true })
	done := make(chan error, 1)
	go func() { done <- put(t, st, "key", "late") }()
	late, n := p.heldBack()
	if err := <-done; !errors.Is(err, kv.ErrUnknown) {
		t.Fatalf("a commit without an answer: %v", err)
	}
	p.set(func(p *proxy) { p.holdUp = false })
	retried(t, time.Minute, st, "key", "second")
	p.release(late, n)
	for range 10 {
		wantGet(t, st, "key", "second")
		time.Sleep(20 * time.Millisecond)
	}
	mustPut(t, st, "key", "third")
	wantGet(t, st, "key", "third")
}

// A member that accepts and says nothing costs reads a bounded time, and few of
// them.
func TestSilentMember(t *testing.T) {
	s := start(t, 3)
	leader := s.leader()
	p := newProxy(t, s.clients[(leader+1)%3])
	st := s.open("/x/", func(c *etcd.Config) {
		c.Endpoints = []string{s.clients[leader], p.address(), s.clients[(leader+2)%3]}
		c.Timeout = 20 * time.Second
	})
	mustPut(t, st, "a", "1")
	p.set(func(p *proxy) { p.holdUp, p.holdDown = true, true })
	slow := 0
	for range 60 {
		begun := time.Now()
		wantGet(t, st, "a", "1")
		if time.Since(begun) > 900*time.Millisecond {
			slow++
		}
	}
	if slow > 20 {
		t.Fatalf("%d of 60 reads waited for a silent member", slow)
	}
	p.set(func(p *proxy) { p.holdUp, p.holdDown = false, false })
	p.cut()
	retried(t, time.Minute, st, "a", "2")
}

// A member that clients reach, but the others do not, says so at once: what it was
// asked is asked elsewhere, instead of waiting for it in vain.
func TestMemberCutOffFromTheOthers(t *testing.T) {
	s := start(t, 3)
	st := s.open("/x/", func(c *etcd.Config) { c.Timeout = 20 * time.Second })
	mustPut(t, st, "a", "0")
	lone := s.members[(s.leader()+1)%3].Server
	for _, m := range s.members {
		if m.Server != lone {
			lone.CutPeer(m.Server.MemberID())
			m.Server.CutPeer(lone.MemberID())
		}
	}
	for lone.Leader() != 0 {
		time.Sleep(10 * time.Millisecond)
	}
	slow := 0
	for i := range 60 {
		begun := time.Now()
		for range i % 3 { // members are asked in turn: each is to get each kind
			wantGet(t, st, "a", fmt.Sprint(i))
		}
		mustPut(t, st, "a", fmt.Sprint(i+1))
		if time.Since(begun) > 900*time.Millisecond {
			slow++
		}
	}
	if slow > 5 {
		t.Fatalf("%d of 60 waited for a member without a leader", slow)
	}
}

func TestLostMemberAndKilledLeader(t *testing.T) {
	s := start(t, 3)
	st := s.open("/x/", func(c *etcd.Config) { c.Timeout = 5 * time.Second })
	mustPut(t, st, "a", "1")
	leader := s.leader()
	other := (leader + 1) % 3
	s.stop(other)
	for i := range 20 {
		retried(t, time.Minute, st, "a", fmt.Sprint("lost ", i))
	}
	wantGet(t, st, "a", "lost 19")
	s.run(other)
	leader = s.leader()
	s.stop(leader)
	begun := time.Now()
	retried(t, time.Minute, st, "a", "resumed")
	took := time.Since(begun)
	t.Logf("writes resumed %v after the leader was gone", took)
	if took > 10*time.Second {
		t.Fatalf("writes resumed only after %v", took)
	}
	wantGet(t, st, "a", "resumed")
	s.run(leader)
	retried(t, time.Minute, st, "a", "whole")
	wantGet(t, st, "a", "whole")
}

func TestNoMajority(t *testing.T) {
	s := start(t, 3)
	st := s.open("/x/", func(c *etcd.Config) { c.Timeout = 2 * time.Second })
	retried(t, time.Minute, st, "a", "1")
	leader := s.leader()
	s.stop((leader + 1) % 3)
	s.stop((leader + 2) % 3)
	begun := time.Now()
	if _, err := st.Get(t.Context(), []byte("a")); !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("a read without a majority: %v", err)
	}
	outcomes := map[bool]int{}
	for range 3 {
		err := put(t, st, "a", "2")
		if !errors.Is(err, kv.ErrUnknown) && !errors.Is(err, kv.ErrUnavailable) {
			t.Fatalf("a commit without a majority: %v", err)
		}
		outcomes[errors.Is(err, kv.ErrUnknown)]++
	}
	if _, err := st.Snapshot(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("a snapshot without a majority: %v", err)
	}
	if took := time.Since(begun); took > 40*time.Second {
		t.Fatalf("five requests took %v", took)
	}
	if outcomes[true] > 1 {
		t.Fatalf("%d commits of unknown outcome: the fence lets requests out", outcomes[true])
	}
	s.run((leader+1)%3, (leader+2)%3)
	retried(t, time.Minute, st, "b", "3")
	v, err := st.Get(t.Context(), []byte("a"))
	if err != nil || string(v) != "1" && string(v) != "2" {
		t.Fatalf("%q, %v", v, err)
	}
}

// Where no majority is to be had, only what comes first waits for all of its time,
// and nothing is sent that would be of unknown outcome; when it is back it is asked
// again.
func TestOutage(t *testing.T) {
	s := start(t, 1)
	p := newProxy(t, s.clients[0])
	var ahead later
	told := make(chan string, 100)
	st := s.open("/x/", through(p, 4*time.Second), func(c *etcd.Config) {
		c.Clock, c.Logger = &ahead, slog.New(slog.NewTextHandler(linesTo(told), nil))
	})
	mustPut(t, st, "a", "1")
	p.set(func(p *proxy) { p.holdUp, p.holdDown = true, true })
	begun := time.Now()
	if _, err := st.Get(t.Context(), []byte("a")); !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("a read without an answer: %v", err)
	}
	first := time.Since(begun)
	begun = time.Now()
	for range 5 {
		if _, err := st.Get(t.Context(), []byte("a")); !errors.Is(err, kv.ErrUnavailable) {
			t.Fatalf("a read in an outage: %v", err)
		}
		if err := put(t, st, "a", "2"); !errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrUnknown) {
			t.Fatalf("a commit in an outage: %v", err)
		}
	}
	if each := time.Since(begun) / 10; each > first/2 {
		t.Fatalf("requests in an outage take %v each, the first took %v", each, first)
	}
	// The log is told of it again, with what is wrong by then.
	wantLine(t, told, "no majority of the metadata members answers")
	ahead.by.Store(int64(90 * time.Second))
	wantLine(t, told, "still no majority of the metadata members answers", "for=", "err=")
	p.set(func(p *proxy) { p.holdUp, p.holdDown = false, false })
	p.cut()
	retried(t, time.Minute, st, "b", "3")
	wantGet(t, st, "a", "1")
	wantLine(t, told, "the metadata members answer again")
}

// later is a clock that may be set ahead.
type later struct {
	clock.System
	by atomic.Int64
}

func (c *later) Now() time.Time { return c.System.Now().Add(time.Duration(c.by.Load())) }

// linesTo is a writer that hands on each line.
type linesTo chan string

func (l linesTo) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}

// wantLine waits for the next line, which holds each of parts.
func wantLine(t *testing.T, told <-chan string, parts ...string) {
	t.Helper()
	select {
	case line := <-told:
		for _, part := range parts {
			if !strings.Contains(line, part) {
				t.Fatalf("no %q in %s", part, line)
			}
		}
	case <-time.After(time.Minute):
		t.Fatalf("the log is not told: %q", parts)
	}
}

func TestRefusesAndEnds(t *testing.T) {
	begun := time.Now()
	_, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{kvtest.FreeAddress(t)}, Timeout: time.Second})
	if !errors.Is(err, kv.ErrUnavailable) || time.Since(begun) > 30*time.Second {
		t.Fatalf("open without a member: %v after %v", err, time.Since(begun))
	}
	if _, err := etcd.Open(t.Context(), etcd.Config{}); err == nil {
		t.Fatal("open without endpoints")
	}
	long := strings.Repeat("p", 257)
	if _, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{"127.0.0.1:1"}, Prefix: long}); err == nil {
		t.Fatal("open with a prefix that is too long")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{kvtest.FreeAddress(t)}}); !errors.Is(err, context.Canceled) {
		t.Fatalf("open with an ended context: %v", err)
	}
}

// A transaction without writes is checked against the newest state, also by a
// member that is a little behind.
func TestCheckOfReadsIsNotStale(t *testing.T) {
	s := start(t, 3)
	leader := s.leader()
	at := func(i int) func(*etcd.Config) {
		return func(c *etcd.Config) { c.Endpoints = []string{s.clients[i]} }
	}
	writer, reader := s.open("/x/", at(leader)), s.open("/x/", at((leader+1)%3))
	for i := range 400 {
		x, err := reader.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Get(t.Context(), []byte("a")); err != nil {
			t.Fatal(err)
		}
		mustPut(t, writer, "a", fmt.Sprint(i))
		if err := x.Commit(t.Context()); !errors.Is(err, kv.ErrConflict) {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}
