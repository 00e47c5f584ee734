package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
)

// process is a node that can be stopped and started at its address.
type process struct {
	t       *testing.T
	address string
	drives  drives
	cluster storagenode.UUID
	look    atomic.Pointer[func()]
	server  *http.Server
	listen  net.Listener
}

func newProcess(t *testing.T, stores map[storagenode.DriveID]storagenode.ShardStore) *process {
	p := &process{t: t, address: "127.0.0.1:0", cluster: testCluster}
	for id, s := range stores {
		p.drives.set(id, s)
	}
	p.start()
	t.Cleanup(p.stop)
	return p
}

func (p *process) url() string { return "http://" + p.address }

func (p *process) start() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.address = l.Addr().String()
	s := NewServer(ServerConfig{
		Drives: &p.drives, Guard: auth.NewGuard(auth.GuardConfig{Key: testKey(p.t)}), Cluster: p.cluster, Name: "node at " + p.address,
		Look: func(context.Context) {
			if look := p.look.Load(); look != nil {
				(*look)()
			}
		},
	})
	p.server = &http.Server{Handler: s}
	p.listen = l
	Configure(p.server)
	go func(h *http.Server) { _ = h.Serve(l) }(p.server) // ends with stop
}

// stop ends the process as kill -9 would.
func (p *process) stop() {
	_ = p.listen.Close()
	_ = p.server.Close()
}

func (p *process) drive(id byte) storagenode.DriveID { return storagenode.DriveID{id} }

// openFleet opens a fleet whose list of nodes can be changed.
func openFleet(t *testing.T, cfg FleetConfig, addresses ...string) *Fleet {
	t.Helper()
	transport := NewTransport(nil)
	cfg.Transport = auth.NewTransport(testKey(t), transport, nil)
	if cfg.Nodes == nil {
		cfg.Nodes = func(context.Context) ([]string, error) { return addresses, nil }
	}
	if cfg.Poll == 0 {
		cfg.Poll = 50 * time.Millisecond
	}
	f, err := OpenFleet(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close(); transport.CloseIdleConnections() })
	return f
}

// eventually waits for what happens by itself.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for range 3000 {
		if happened() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("did not happen: %s", what)
}

func (p *process) state(f *Fleet, id byte) storagenode.DriveState {
	_, state := f.Drive(p.drive(id))
	return state
}

func report(t *testing.T, f *Fleet, id storagenode.DriveID) storagenode.DriveReport {
	t.Helper()
	for _, r := range f.Reports() {
		if r.ID == id {
			return r
		}
	}
	t.Fatalf("drive %s is not reported", id)
	return storagenode.DriveReport{}
}

func TestBreaker(t *testing.T) {
	cut, refused := errors.New("cut"), fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	for name, c := range map[string]struct {
		steps string // f failure, r connection refused, a answered, p polled, s a poll without an answer, S while others had one
		open  bool
	}{
		"nothing": {"", false}, "two": {"ff", false}, "three": {"fff", true}, "refused": {"r", true},
		"an answer between": {"ffaff", false}, "an old answer": {"fffa", true}, "a poll closes": {"fffp", false},
		"silence": {"s", true}, "an old answer to silence": {"sa", true}, "silence after an answer": {"as", true}, "answers beside": {"aSS", false}, "and more": {"aSSS", true},
		"and starts anew": {"fffpff", false}, "and opens again": {"fffpfff", true}, "refused after": {"fffpr", true},
	} {
		b := breaker{strikes: 3}
		for _, s := range c.steps {
			switch s {
			case 'f':
				b.failed(cut)
			case 'r':
				b.failed(refused)
			case 'a':
				b.answered()
			case 'p':
				b.polled()
			case 's':
				b.unanswered(cut, b.answers.Load())
			case 'S':
				b.unanswered(cut, b.answers.Load()-1)
			}
		}
		err := b.allow()
		if (err != nil) != c.open || err != nil && !errors.Is(err, storagenode.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFleet(t *testing.T) {
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory(), {2}: storetest.NewMemory()})
	b := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{3}: storetest.NewMemory()})
	f := openFleet(t, FleetConfig{Cluster: testCluster}, a.url(), b.url())
	if len(f.Reports()) != 3 || len(f.Nodes()) != 2 {
		t.Fatalf("%+v, %+v", f.Reports(), f.Nodes())
	}
	for _, id := range []byte{1, 2, 3} {
		s, state := f.Drive(a.drive(id))
		if state != storagenode.DriveActive {
			t.Fatalf("drive %d is %s", id, state)
		}
		put(t, s, storetest.NewShard(shardID(1, 0), 1000))
		rep := report(t, f, a.drive(id))
		if rep.State != storagenode.DriveActive || rep.Replaces != (storagenode.DriveID{9}) || rep.Heard.IsZero() || rep.Space.Total != 100 {
			t.Errorf("%+v", rep)
		}
	}
	if s, state := f.Drive(storagenode.DriveID{77}); s != nil || state != storagenode.DriveDown {
		t.Errorf("an unknown drive is %v, %s", s, state)
	}
	for _, n := range f.Nodes() {
		if n.State != storagenode.DriveActive || !strings.HasPrefix(n.Name, "node at") || n.Drives == 0 {
			t.Errorf("%+v", n)
		}
	}
}

// TestDeadNode: the first call that is refused makes the node's drives DOWN,
// with no time passing; when it is back, they come back by themselves.
func TestDeadNode(t *testing.T) {
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory(), {2}: storetest.NewMemory()})
	b := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{3}: storetest.NewMemory()})
	f := openFleet(t, FleetConfig{Poll: time.Hour}, a.url(), b.url()) // no poll helps
	old, _ := f.Drive(a.drive(1))
	a.stop()
	if _, err := old.Stat(t.Context(), shardID(1, 0)); !errors.Is(err, storagenode.ErrUnavailable) {
		t.Fatal(err)
	}
	eventually(t, "DOWN after calls that failed", func() bool {
		_, _ = old.Stat(t.Context(), shardID(1, 0))
		return a.state(f, 1) == storagenode.DriveDown
	})
	if s, state := f.Drive(a.drive(2)); s != nil || state != storagenode.DriveDown {
		t.Errorf("the node's other drive: %v, %s", s, state)
	}
	if rep := report(t, f, a.drive(1)); rep.State != storagenode.DriveDown || rep.Reason == "" || rep.Since.IsZero() {
		t.Errorf("%+v", rep)
	}
	if state := b.state(f, 3); state != storagenode.DriveActive {
		t.Errorf("the other node's drive is %s", state)
	}
	a.drives.set(storagenode.DriveID{1}, storetest.NewFaulty(storetest.NewMemory()))
	a.start()
	f.nodes[a.url()].pollNow()
	eventually(t, "ACTIVE again", func() bool { return a.state(f, 1) == storagenode.DriveActive })
	now, _ := f.Drive(a.drive(1))
	put(t, now, storetest.NewShard(shardID(1, 0), 10))
	if _, err := old.Put(t.Context(), storetest.NewShard(shardID(1, 1), 10)); !errors.Is(err, errOtherLife) {
		t.Errorf("a put through the store of the former life: %v", err)
	}
}

// TestCallsToASilentNodeAreGivenUp: a call that waits has the node polled, though
// no poll is due for long; that makes it DOWN, and ends the calls that are under
// way or wait for their turn. A call to a hung drive does not, while its node
// answers.
func TestCallsToASilentNodeAreGivenUp(t *testing.T) {
	hung := storetest.NewFaulty(storetest.NewMemory())
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: hung})
	n := newNetwork(t, a.address)
	f := openFleet(t, FleetConfig{Poll: time.Hour, PollTime: 300 * time.Millisecond, OpTime: time.Hour, Calls: 1}, "http://"+n.listener.Addr().String())
	s, _ := f.Drive(a.drive(1))
	hung.Inject(storetest.Fault{Hang: true})
	errs := make(chan error)
	for range 3 {
		go func() {
			_, err := s.Stat(t.Context(), shardID(1, 0))
			errs <- err
		}()
	}
	select {
	case err := <-errs:
		t.Fatalf("given up while the node answers: %v", err)
	case <-time.After(time.Second):
	}
	hung.Clear()
	<-errs // those under way are answered, so that nothing is on its way
	<-errs
	<-errs
	n.fault(false, -1, 0)
	for range 3 {
		go func() {
			_, err := s.Stat(t.Context(), shardID(1, 0))
			errs <- err
		}()
	}
	for range 3 {
		if err := <-errs; !errors.Is(err, storagenode.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
			t.Error(err)
		}
	}
	if state := a.state(f, 1); state != storagenode.DriveDown {
		t.Error(state)
	}
}

// TestSilentNode: the node accepts, and says nothing: stopped, or behind a
// network that swallows. A poll makes it DOWN; calls then fail at once.
func TestSilentNode(t *testing.T) {
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory()})
	n := newNetwork(t, a.address)
	f := openFleet(t, FleetConfig{PollTime: 200 * time.Millisecond, OpTime: time.Minute}, "http://"+n.listener.Addr().String())
	s, state := f.Drive(a.drive(1))
	if state != storagenode.DriveActive {
		t.Fatal(state)
	}
	n.fault(false, -1, 0)
	eventually(t, "DOWN", func() bool { return a.state(f, 1) == storagenode.DriveDown })
	if _, err := s.Stat(t.Context(), shardID(1, 0)); !errors.Is(err, storagenode.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a call while the breaker is open: %v", err)
	}
	n.fault(false, -1, -1)
	eventually(t, "ACTIVE again", func() bool { return a.state(f, 1) == storagenode.DriveActive })
}

// TestHungDriveIsNotItsNode: calls to one drive get no answer; the node, when
// polled, does answer, and stays.
func TestHungDriveIsNotItsNode(t *testing.T) {
	hung := storetest.NewFaulty(storetest.NewMemory())
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: hung, {2}: storetest.NewMemory()})
	f := openFleet(t, FleetConfig{OpTime: 50 * time.Millisecond}, a.url())
	hung.Inject(storetest.Fault{Hang: true})
	defer hung.Clear()
	s, _ := f.Drive(a.drive(1))
	for range 10 {
		if _, err := s.Stat(t.Context(), shardID(1, 0)); !errors.Is(err, storagenode.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	good, state := f.Drive(a.drive(2))
	if state != storagenode.DriveActive {
		t.Fatalf("the node's other drive is %s", state)
	}
	_, err := good.Stat(t.Context(), shardID(1, 0))
	if !errors.Is(err, storagenode.ErrNotFound) && !strings.Contains(err.Error(), "no answer") { // a slow machine
		t.Fatal(err)
	}
}

// stepClock tells the time it was set to; its waits end when it is closed.
type stepClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *stepClock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *stepClock) step(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}
func (c *stepClock) After(time.Duration) <-chan time.Time { return nil }
func (c *stepClock) Sleep(ctx context.Context, _ time.Duration) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestNodeThatIsNotHeardOf: without a poll that ends either way, time decides.
func TestNodeThatIsNotHeardOf(t *testing.T) {
	broken := storagenode.DriveID{2}
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory(), broken: storetest.NewMemory()})
	a.drives.states[broken] = storagenode.DriveBroken
	c := &stepClock{now: time.Now()}
	f := openFleet(t, FleetConfig{Clock: c}, a.url())
	for _, step := range []struct {
		after time.Duration
		want  storagenode.DriveState
		open  bool
	}{
		{0, storagenode.DriveActive, true}, {9 * time.Second, storagenode.DriveActive, true},
		{2 * time.Second, storagenode.DriveSuspect, true}, {18 * time.Second, storagenode.DriveSuspect, true},
		{2 * time.Second, storagenode.DriveDown, false},
	} {
		c.step(step.after)
		s, state := f.Drive(a.drive(1))
		if state != step.want || (s != nil) != step.open {
			t.Fatalf("after another %s: %v, %s, want %s", step.after, s, state, step.want)
		}
		if rep := report(t, f, a.drive(1)); rep.State != step.want {
			t.Errorf("after another %s reported %s", step.after, rep.State)
		}
		if rep := report(t, f, broken); rep.State != storagenode.DriveBroken {
			t.Errorf("a broken drive is reported %s", rep.State)
		}
	}
	f.nodes[a.url()].pollNow()
	eventually(t, "ACTIVE again", func() bool { return a.state(f, 1) == storagenode.DriveActive })
}

// TestDriveOpenedAnewIsFoundByItself: the first refused put has it looked for.
func TestDriveOpenedAnewIsFoundByItself(t *testing.T) {
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory()})
	f := openFleet(t, FleetConfig{Poll: time.Hour}, a.url())
	a.drives.set(storagenode.DriveID{1}, storetest.NewMemory())
	eventually(t, "a put", func() bool {
		s, _ := f.Drive(a.drive(1))
		_, err := s.Put(t.Context(), storetest.NewShard(shardID(1, 0), 10))
		return err == nil
	})
}

// TestLook: what the fleet says after a look is what the nodes found in it, and
// a node that does not answer only costs time.
func TestLook(t *testing.T) {
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory()})
	b := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{2}: storetest.NewMemory()})
	f := openFleet(t, FleetConfig{Poll: time.Hour, Strikes: 1}, a.url(), b.url())
	look := func() { a.drives.set(storagenode.DriveID{1}, nil) }
	a.look.Store(&look)
	if a.state(f, 1) != storagenode.DriveActive {
		t.Fatal("looked at without being asked")
	}
	b.stop()
	f.Look(t.Context())
	if a.state(f, 1) != storagenode.DriveDown || b.state(f, 2) != storagenode.DriveDown {
		t.Fatalf("after the look: %s and %s", a.state(f, 1), b.state(f, 2))
	}
}

func TestReplaceByCommand(t *testing.T) {
	var got string
	refused := errors.New("directory refused: not empty")
	r := newRigWith(t, ServerConfig{Replace: func(_ context.Context, dir string) error {
		if got = dir; dir == "/full" {
			return refused
		}
		return nil
	}}, storetest.NewMemory())
	f := openFleet(t, FleetConfig{}, r.http.URL)
	if err := f.Replace(t.Context(), "n1", "/mnt/d 1"); err != nil || got != "/mnt/d 1" {
		t.Errorf("%q, %v", got, err)
	}
	if err := f.Replace(t.Context(), "n1", "/full"); err == nil || !strings.Contains(err.Error(), refused.Error()) {
		t.Error(err)
	}
	if err := f.Replace(t.Context(), "n2", "/mnt/d"); !errors.Is(err, storagenode.ErrUnavailable) {
		t.Error(err)
	}
	other := newRig(t, storetest.NewMemory())
	if err := other.client.Replace(t.Context(), "/mnt/d"); err == nil {
		t.Error("replaced where nothing can be")
	}
}

func TestNodesComeAndGo(t *testing.T) {
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory()})
	b := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{2}: storetest.NewMemory()})
	foreign := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{3}: storetest.NewMemory()})
	foreign.stop()
	foreign.cluster = storagenode.UUID{66}
	foreign.start()
	var mu sync.Mutex
	list, listErr := []string{a.url(), foreign.url(), "not a url"}, error(nil)
	set := func(l []string, err error) { mu.Lock(); list, listErr = l, err; mu.Unlock() }
	f := openFleet(t, FleetConfig{Cluster: testCluster, Refresh: 20 * time.Millisecond, Nodes: func(context.Context) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		return list, listErr
	}})
	if a.state(f, 1) != storagenode.DriveActive || b.state(f, 2) != storagenode.DriveDown {
		t.Fatalf("%+v", f.Nodes())
	}
	if s, _ := f.Drive(a.drive(3)); s != nil || len(f.Reports()) != 1 {
		t.Fatal("a drive of another cluster is there")
	}
	set(nil, errors.New("metadata is away"))
	time.Sleep(60 * time.Millisecond)
	if a.state(f, 1) != storagenode.DriveActive {
		t.Fatal("a list that cannot be had takes nodes away")
	}
	set([]string{b.url()}, nil)
	eventually(t, "one came, one went", func() bool {
		return a.state(f, 1) == storagenode.DriveDown && b.state(f, 2) == storagenode.DriveActive && len(f.Nodes()) == 1
	})
}

// TestDriveThatMoved: two nodes speak of a drive, one of them has it open.
func TestDriveThatMoved(t *testing.T) {
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: nil})
	b := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory()})
	c := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: nil})
	f := openFleet(t, FleetConfig{}, a.url(), b.url(), c.url())
	if s, state := f.Drive(a.drive(1)); s == nil || state != storagenode.DriveActive || len(f.Reports()) != 1 {
		t.Fatalf("%v, %s, %+v", s, state, f.Reports())
	}
	// It moves on.
	b.drives.set(storagenode.DriveID{1}, nil)
	c.drives.set(storagenode.DriveID{1}, storetest.NewMemory())
	eventually(t, "the drive at its third node", func() bool {
		s, _ := f.Drive(a.drive(1))
		d, ok := s.(*Drive)
		return ok && strings.HasSuffix(d.client.String(), c.address)
	})
}

// TestFind: drives of a node that came after the last look at the list are
// found when they are wanted, and what is nowhere does not cost a look each time.
func TestFind(t *testing.T) {
	a := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory()})
	b := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{2}: storetest.NewMemory()})
	var both, slow atomic.Bool
	var looks atomic.Int64
	f := openFleet(t, FleetConfig{Poll: time.Hour, Refresh: time.Hour, Nodes: func(context.Context) ([]string, error) {
		if slow.Load() {
			time.Sleep(2 * findEvery)
		}
		if looks.Add(1); both.Load() {
			return []string{a.url(), b.url()}, nil
		}
		return []string{a.url()}, nil
	}})
	id := func(n byte) storagenode.DriveID { return storagenode.DriveID{n} }
	if f.Find(t.Context(), id(1)) || looks.Load() != 1 {
		t.Fatalf("looked for a drive that is known: %d looks", looks.Load())
	}
	both.Store(true)
	var found, many sync.WaitGroup
	var n atomic.Int64
	found.Add(1)
	for range 8 {
		many.Go(func() {
			found.Wait()
			if f.Find(t.Context(), id(1), id(2)) {
				n.Add(1)
			}
		})
	}
	found.Done()
	many.Wait()
	if s, state := f.Drive(id(2)); s == nil || state != storagenode.DriveActive || n.Load() == 0 || looks.Load() != 2 {
		t.Fatalf("drive of the new node: %v after %d finds and %d looks", state, n.Load(), looks.Load())
	}
	// A drive that is new on a node that was known.
	a.drives.set(id(3), storetest.NewMemory())
	eventually(t, "the new drive is found", func() bool { return f.Find(t.Context(), id(3)) })
	// Nor does each of those who waited for a slow look make one of their own.
	time.Sleep(findEvery)
	slow.Store(true)
	before := looks.Load()
	for range 8 {
		many.Go(func() { f.Find(t.Context(), id(9)) })
	}
	many.Wait()
	if n := looks.Load() - before; n != 1 {
		t.Fatalf("%d looks for what 8 wanted at once", n)
	}
	slow.Store(false)
	before, began := looks.Load(), time.Now()
	for range 1000 {
		if f.Find(t.Context(), id(9)) {
			t.Fatal("found what is not there")
		}
	}
	if most := int64(time.Since(began)/findEvery) + 2; looks.Load()-before > most {
		t.Fatalf("%d looks, at most %d wanted", looks.Load()-before, most)
	}
}
