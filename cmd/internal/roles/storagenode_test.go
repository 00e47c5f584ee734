package roles

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/node"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
	"kintsugi/storagenode/vfs"
)

// hastyClock waits a hundredth of what it is asked to.
type hastyClock struct{}

func (hastyClock) Now() time.Time                         { return time.Now() }
func (hastyClock) After(d time.Duration) <-chan time.Time { return time.After(d / 100) }
func (hastyClock) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d / 100):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// registrar answers announcements, after some that it does not.
type registrar struct {
	mu      sync.Mutex
	refuse  int
	waits   bool // it does not lead
	cluster storagenode.UUID
	drives  []storagenode.KnownDrive
	heard   []storagenode.Announcement
}

func (r *registrar) Announce(_ context.Context, a storagenode.Announcement) (storagenode.Welcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = append(r.heard, a)
	if len(r.heard) <= r.refuse {
		return storagenode.Welcome{}, storagenode.ErrUnavailable
	}
	return storagenode.Welcome{Cluster: r.cluster, Leads: !r.waits, Drives: r.drives}, nil
}

func (r *registrar) first() storagenode.Announcement {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard[0]
}

func (r *registrar) last() (a storagenode.Announcement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.heard) > 0 {
		a = r.heard[len(r.heard)-1]
	}
	return a
}

func nodeConfig(t *testing.T, root string, repairers ...storagenode.Membership) StorageNodeConfig {
	t.Helper()
	key, err := auth.NewKey([]byte(strings.Repeat("s", auth.MinSecret)))
	if err != nil {
		t.Fatal(err)
	}
	return StorageNodeConfig{
		FS: vfs.OS(), Dirs: []string{filepath.Join(root, "d1"), filepath.Join(root, "d2")}, Name: "n1", Zone: "z1",
		Address: "http://n1:9100", Version: "v1", Key: key, Repairers: repairers, Clock: hastyClock{}, SegmentSize: 1 << 20,
	}
}

func openNode(t *testing.T, cfg StorageNodeConfig) *StorageNode {
	t.Helper()
	s, err := OpenStorageNode(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStorageNodeJoins: an empty node asks until a repairer knows the cluster,
// serves, tells of its drives, and needs nobody when it starts again.
func TestStorageNodeJoins(t *testing.T) {
	root := t.TempDir()
	silent := &registrar{refuse: 1 << 30}
	r := &registrar{refuse: 3, cluster: storagenode.UUID{42}}
	cfg := nodeConfig(t, root, silent, r)
	s := openNode(t, cfg)
	if s.Node.Cluster() != r.cluster {
		t.Fatalf("cluster %s", s.Node.Cluster())
	}
	if first := r.first(); !first.Cluster.IsZero() || first.Name != "n1" || first.Zone != "z1" || first.Address != cfg.Address || len(first.Drives) != 0 {
		t.Errorf("asked with %+v", first)
	}
	for len(r.last().Drives) != 2 {
		time.Sleep(time.Millisecond)
	}
	if last := r.last(); last.Cluster != r.cluster || last.Drives[0].State != storagenode.DriveActive || last.Version != "v1" {
		t.Errorf("announced %+v", last)
	}

	sh := storetest.NewShard(storagenode.ShardID{PG: 1, Blob: storetest.Blob(1)}, 10_000)
	serve := func(s *StorageNode) (*rpc.Fleet, func()) {
		server := httptest.NewServer(s.Handler())
		f, err := rpc.OpenFleet(t.Context(), rpc.FleetConfig{
			Nodes:     func(context.Context) ([]string, error) { return []string{server.URL}, nil },
			Transport: auth.NewTransport(cfg.Key, rpc.NewTransport(nil), nil), Cluster: storagenode.UUID{42},
		})
		if err != nil {
			t.Fatal(err)
		}
		return f, func() { _ = f.Close(); s.Drain(); server.CloseClientConnections(); server.Close() }
	}
	f, stop := serve(s)
	reports := f.Reports()
	if len(reports) != 2 || reports[0].Zone != "z1" {
		t.Fatalf("%+v", reports)
	}
	id := reports[0].ID
	d, _ := f.Drive(id)
	tok, err := d.Put(t.Context(), sh)
	if err == nil {
		err = d.Sync(t.Context(), tok)
	}
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	again := openNode(t, nodeConfig(t, root)) // nobody to ask
	defer again.Close()
	f, stop = serve(again)
	defer stop()
	d, state := f.Drive(id)
	for end := time.Now().Add(20 * time.Second); state != storagenode.DriveActive && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		d, state = f.Drive(id) // a hasty clock calls a busy machine's drive late
	}
	if state != storagenode.DriveActive || again.Node.Cluster() != r.cluster {
		t.Fatalf("drive is %s, cluster %s", state, again.Node.Cluster())
	}
	p := make([]byte, 10_000)
	if _, err := d.ReadAt(t.Context(), sh.ID, 0, p); err != nil || !bytes.Equal(p, sh.Payload) {
		t.Fatal(err)
	}
}

// TestStorageNodeWithoutItsDisks: a node all of whose disks are away serves
// nothing, formats nothing and says so, and does as it is told then.
func TestStorageNodeWithoutItsDisks(t *testing.T) {
	root := t.TempDir()
	r := &registrar{cluster: storagenode.UUID{42}}
	cfg := nodeConfig(t, root, r)
	for i, dir := range cfg.Dirs {
		r.drives = append(r.drives, storagenode.KnownDrive{Drive: storagenode.UUID{byte(i + 1)}, Dir: dir, Device: 1<<63 + 1, Total: 1})
	}
	s := openNode(t, cfg)
	defer s.Close()
	for len(r.last().Drives) != 2 {
		time.Sleep(time.Millisecond)
	}
	if a := r.last(); a.Cluster != r.cluster || a.Drives[0].ID != r.drives[0].Drive || a.Drives[0].State != storagenode.DriveDown || a.Drives[1].State != storagenode.DriveDown {
		t.Fatalf("announced %+v", a)
	}
	left, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil || len(left) != 0 {
		t.Fatalf("made: %v, %v", left, err)
	}
	if err := s.Node.Replace(t.Context(), cfg.Dirs[1]); err != nil {
		t.Fatal(err)
	}
	if d := s.Node.Reports()[1]; d.State != storagenode.DriveActive || d.Replaces != r.drives[1].Drive {
		t.Fatalf("%+v", d)
	}
}

func TestStorageNodeWithoutACluster(t *testing.T) {
	root := t.TempDir()
	if _, err := OpenStorageNode(t.Context(), nodeConfig(t, root)); !errors.Is(err, ErrNoRepairers) {
		t.Errorf("with nobody to ask: %v", err)
	}
	for name, r := range map[string]*registrar{"silence": {refuse: 1 << 30}, "not founded": {}} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := OpenStorageNode(ctx, nodeConfig(t, root, r))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || len(r.heard) < 2 {
			t.Errorf("%s: %v after %d questions", name, err, len(r.heard))
		}
	}
	left, err := filepath.Glob(filepath.Join(root, "*", node.IdentityName))
	if err != nil || len(left) != 0 {
		t.Errorf("formatted: %v, %v", left, err)
	}
}

// TestStorageNodeTellsOfDamage: what a node finds damaged is announced until a
// leader has heard of it, and then no more.
func TestStorageNodeTellsOfDamage(t *testing.T) {
	r := &registrar{cluster: storagenode.UUID{42}, waits: true}
	s := openNode(t, nodeConfig(t, t.TempDir(), r))
	defer s.Close()
	until := func(what string, ok func(storagenode.Announcement) bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(r.last()); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: last announced %+v", what, r.last())
			}
		}
	}
	heard := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.heard)
	}
	blob := storetest.Blob(1)
	for stripe := range uint32(3) { // one claim for all stripes
		s.damaged(storagenode.DriveID{}, storagenode.ShardID{PG: 7, Slot: 2, Blob: blob, Stripe: stripe}, storagenode.ErrCorrupt)
	}
	claimed := func(a storagenode.Announcement) bool {
		return len(a.Damaged) == 1 && a.Damaged[0] == storagenode.ShardClaim{PG: 7, Slot: 2, Blob: blob.String()}
	}
	until("not told", claimed)
	n := heard()
	until("told once only to who does not lead", func(a storagenode.Announcement) bool { return heard() > n+3 && claimed(a) })
	r.mu.Lock()
	r.waits = false
	r.mu.Unlock()
	until("told for ever", func(a storagenode.Announcement) bool { return len(a.Damaged) == 0 })
	for i := range uint64(2 * storagenode.MaxClaims) {
		s.damaged(storagenode.DriveID{}, storagenode.ShardID{PG: 8, Blob: storetest.Blob(i)}, storagenode.ErrCorrupt)
	}
	if n := len(s.claimed()); n > storagenode.MaxClaims {
		t.Fatalf("%d claims", n)
	}
}
