package rpc

import (
	"context"
	"flag"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// drives is a process's set of drives.
type drives struct {
	mu     sync.Mutex
	stores map[storagenode.DriveID]storagenode.ShardStore
	states map[storagenode.DriveID]storagenode.DriveState
}

func (d *drives) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stores[id]
	if s == nil {
		return nil, storagenode.DriveDown
	}
	return s, d.states[id]
}

func (d *drives) Reports() []storagenode.DriveReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []storagenode.DriveReport
	for id := range d.stores {
		all = append(all, storagenode.DriveReport{
			ID: id, Node: "n1", Zone: "z1", Dir: "/d", State: d.states[id], Replaces: storagenode.DriveID{9},
			Space: storagenode.Space{Total: 100, Used: 10, Free: 90},
		})
	}
	return all
}

// set puts a store in a drive's place; nil closes it.
func (d *drives) set(id storagenode.DriveID, s storagenode.ShardStore) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stores == nil {
		d.stores, d.states = map[storagenode.DriveID]storagenode.ShardStore{}, map[storagenode.DriveID]storagenode.DriveState{}
	}
	d.stores[id] = s
}

var (
	testDrive   = storagenode.DriveID{1, 15: 2}
	testCluster = storagenode.UUID{7, 15: 8}
)

func testKey(t testing.TB) *auth.Key {
	t.Helper()
	k, err := auth.NewKey([]byte(strings.Repeat("s", auth.MinSecret)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rig is one node and a client of it.
type rig struct {
	t      testing.TB
	drives drives
	cfg    ServerConfig
	mu     sync.Mutex
	server *Server // of the node's life now; guarded by mu
	http   *httptest.Server
	client *Client
	posts  atomic.Int64 // calls so far
	fresh  func()       // has the client that was dialled last make new connections
}

func newRig(t testing.TB, store storagenode.ShardStore) *rig {
	return newRigWith(t, ServerConfig{}, store)
}

func newRigWith(t testing.TB, cfg ServerConfig, store storagenode.ShardStore) *rig {
	r := &rig{t: t, cfg: cfg}
	r.drives.set(testDrive, store)
	r.restart()
	r.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		s := r.server
		r.mu.Unlock()
		if q.Method == http.MethodPost {
			r.posts.Add(1)
		}
		s.ServeHTTP(w, q)
	}))
	Configure(r.http.Config)
	r.http.Start()
	t.Cleanup(func() { r.http.CloseClientConnections(); r.http.Close() })
	r.client = r.dial(r.http.URL)
	return r
}

// restart begins another life of the node, with the drives there are.
func (r *rig) restart() {
	cfg := r.cfg
	cfg.Drives, cfg.Cluster, cfg.Name = &r.drives, testCluster, "n1"
	cfg.Guard = auth.NewGuard(auth.GuardConfig{Key: testKey(r.t)})
	s := NewServer(cfg)
	r.mu.Lock()
	old := r.server
	r.server = s
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	r.t.Cleanup(s.Close)
}

// without makes the node one of a version that does not have a call yet.
func (r *rig) without(op string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	mux := http.NewServeMux()
	for _, known := range r.server.routes() {
		if !strings.HasSuffix(known.path, "/"+op) {
			mux.HandleFunc(known.method+" "+known.path, known.handle)
		}
	}
	r.server.handler = r.server.cfg.Guard.Wrap(mux)
}

// dial makes a client with connections of its own.
func (r *rig) dial(address string) *Client {
	r.t.Helper()
	return r.dialFor(address, 30*time.Second)
}

func (r *rig) dialFor(address string, opTime time.Duration) *Client {
	r.t.Helper()
	transport := NewTransport(nil)
	r.t.Cleanup(transport.CloseIdleConnections)
	r.fresh = transport.CloseIdleConnections
	c, err := NewClient(Config{Address: address, Transport: auth.NewTransport(testKey(r.t), transport, nil), OpTime: opTime})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// drive binds to the life that the node's drive has now.
func (r *rig) drive(c *Client) *Drive {
	r.t.Helper()
	reports, err := c.Reports(context.Background(), false)
	if err != nil {
		r.t.Fatal(err)
	}
	return c.Drive(testDrive, reports.Lives[testDrive])
}

func put(t testing.TB, s storagenode.ShardStore, sh storagenode.Shard) {
	t.Helper()
	tok, err := s.Put(t.Context(), sh)
	if err == nil {
		err = s.Sync(t.Context(), tok)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func shardID(blob uint64, stripe uint32) storagenode.ShardID {
	return storagenode.ShardID{PG: 1, Slot: 2, Blob: storetest.Blob(blob), Stripe: stripe}
}
