package roles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
)

// host is a storage node that can be killed and started again.
type host struct {
	t        *testing.T
	cfg      StorageNodeConfig
	address  string
	node     *StorageNode
	listener net.Listener
	server   *http.Server
}

func (h *host) start() {
	h.t.Helper()
	h.node = openNode(h.t, h.cfg)
	var err error
	if h.listener, err = net.Listen("tcp", h.address); err != nil {
		h.t.Fatal(err)
	}
	h.address = h.listener.Addr().String()
	h.server = &http.Server{Handler: h.node.Handler()}
	rpc.Configure(h.server)
	go func(s *http.Server, l net.Listener) { _ = s.Serve(l) }(h.server, h.listener) // ends with kill
}

// kill cuts every connection, and closes the drives.
func (h *host) kill() {
	if h.node == nil {
		return
	}
	defer func() { h.node = nil }()
	_ = h.listener.Close()
	_ = h.server.Close()
	_ = h.node.Close()
}

func (h *host) drive() storagenode.DriveID { return h.node.Node.Reports()[0].ID }

// site is n nodes of one drive each, and what a gateway has of them.
type site struct {
	hosts []*host
	fleet *rpc.Fleet
	set   *stripe.Set
	group erasure.Group
}

func newSite(t *testing.T, scheme erasure.Scheme) *site {
	t.Helper()
	s := &site{group: erasure.Group{PG: 1, Scheme: scheme}}
	var addresses []string
	r := &registrar{cluster: storagenode.UUID{42}}
	var key *auth.Key
	for i := range scheme.N() {
		cfg := nodeConfig(t, t.TempDir(), r)
		cfg.Dirs, cfg.Name = cfg.Dirs[:1], filepath.Base(cfg.Dirs[0])+string(rune('a'+i))
		key = cfg.Key
		h := &host{t: t, cfg: cfg, address: "127.0.0.1:0"}
		h.start()
		t.Cleanup(h.kill)
		h.cfg.Repairers = nil
		s.hosts = append(s.hosts, h)
		addresses = append(addresses, "http://"+h.address)
		s.group.Slots = append(s.group.Slots, storagenode.Slot{Drive: h.drive(), Epoch: 1})
	}
	transport := rpc.NewTransport(nil)
	var err error
	s.fleet, err = rpc.OpenFleet(t.Context(), rpc.FleetConfig{
		Nodes:     func(context.Context) ([]string, error) { return addresses, nil },
		Transport: auth.NewTransport(key, transport, nil), Cluster: storagenode.UUID{42}, Poll: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.fleet.Close(); transport.CloseIdleConnections() })
	s.set = stripe.New(stripe.Config{Drives: s.fleet})
	return s
}

func (s *site) state(i int) storagenode.DriveState {
	_, state := s.fleet.Drive(s.group.Slots[i].Drive)
	return state
}

func (s *site) put(t *testing.T, g erasure.Group, ids *storagenode.BlobIDs, data []byte) erasure.Blob {
	t.Helper()
	res, err := s.set.Put(t.Context(), g, ids.Next(), bytes.NewReader(data), int64(len(data)), stripe.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return res.Blob
}

func (s *site) read(t *testing.T, g erasure.Group, b erasure.Blob, want []byte) {
	t.Helper()
	h := sha256.New()
	if err := s.set.Read(t.Context(), g, b, 0, b.Size, h); err != nil {
		t.Fatalf("read of %s: %v", b.ID, err)
	}
	if sum := sha256.Sum256(want); !bytes.Equal(h.Sum(nil), sum[:]) {
		t.Fatalf("read of %s: wrong bytes", b.ID)
	}
}

// written is a blob, where it is, and what it is.
type written struct {
	group erasure.Group
	blob  erasure.Blob
	data  []byte
}

// TestBlobsOverNodes: blobs of all kinds over nodes. With m nodes gone all is
// read, and a narrower group over those left takes what is written; back
// again, they take part.
func TestBlobsOverNodes(t *testing.T) {
	s := newSite(t, erasure.Scheme{K: 4, M: 2})
	ids := storagenode.NewBlobIDs(time.Now)
	rng := rand.NewChaCha8([32]byte{3})
	var all []written
	write := func(g erasure.Group, missing erasure.SlotMask) {
		t.Helper()
		for _, n := range []int{0, 1, 4096, 65536, 65537, 1 << 20, 9<<20 + 5} {
			p := make([]byte, n)
			_, _ = rng.Read(p) // never fails
			w := written{g, s.put(t, g, ids, p), p}
			if want := missing; w.blob.Mode == erasure.Encoded && w.blob.Missing != want || w.blob.Mode == erasure.Replicated && w.blob.Missing != 0 {
				t.Errorf("%d bytes over %s: missing on %b", n, g.Scheme, w.blob.Missing)
			}
			all = append(all, w)
		}
	}
	readAll := func() {
		t.Helper()
		for _, w := range all {
			s.read(t, w.group, w.blob, w.data)
		}
	}
	wait := func(want storagenode.DriveState, hosts ...int) {
		for _, i := range hosts {
			for s.state(i) != want {
				time.Sleep(time.Millisecond)
			}
		}
	}
	write(s.group, 0)
	readAll()
	s.hosts[1].kill()
	readAll()
	wait(storagenode.DriveDown, 1) // polled, if no read was refused
	write(s.group, erasure.SlotMask(0).With(1))
	s.hosts[4].kill()
	readAll()
	wait(storagenode.DriveDown, 4)
	narrow := erasure.Group{PG: 2, Scheme: erasure.Scheme{K: 2, M: 2}}
	for _, i := range []int{0, 2, 3, 5} {
		narrow.Slots = append(narrow.Slots, s.group.Slots[i])
	}
	write(narrow, 0)
	readAll()
	for _, i := range []int{1, 4} {
		s.hosts[i].start()
	}
	wait(storagenode.DriveActive, 1, 4)
	write(s.group, 0)
	readAll()
}
