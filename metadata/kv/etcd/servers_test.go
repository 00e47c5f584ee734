package etcd_test

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
	"kintsugi/metadata/kv/kvtest"
)

// servers is an etcd of one or more members in this process.
type servers struct {
	t       testing.TB
	configs []*embed.Config
	members []*embed.Etcd
	clients []string // host:port
}

func start(t testing.TB, n int, change ...func(*embed.Config)) *servers {
	t.Helper()
	s := &servers{t: t, members: make([]*embed.Etcd, n)}
	var cluster []string
	peers := make([]string, n)
	for i := range n {
		peers[i] = kvtest.FreeAddress(t)
		s.clients = append(s.clients, kvtest.FreeAddress(t))
		cluster = append(cluster, fmt.Sprintf("m%d=http://%s", i, peers[i]))
	}
	dir := t.TempDir()
	for i := range n {
		c := embed.NewConfig()
		c.Name, c.Dir = fmt.Sprintf("m%d", i), filepath.Join(dir, fmt.Sprint(i))
		client, peer := url.URL{Scheme: "http", Host: s.clients[i]}, url.URL{Scheme: "http", Host: peers[i]}
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		c.InitialCluster = strings.Join(cluster, ",")
		c.EnableGRPCGateway = false
		c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		for _, f := range change {
			f(c)
		}
		s.configs = append(s.configs, c)
	}
	t.Cleanup(func() {
		for i := range s.members {
			s.stop(i)
		}
	})
	s.run(all(n)...)
	return s
}

func all(n int) (out []int) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

// run starts members and waits until they have joined.
func (s *servers) run(which ...int) {
	s.t.Helper()
	for _, i := range which {
		c := *s.configs[i]
		m, err := embed.StartEtcd(&c)
		if err != nil {
			s.t.Fatal(err)
		}
		s.members[i] = m
	}
	for _, i := range which {
		select {
		case <-s.members[i].Server.ReadyNotify():
		case <-time.After(time.Minute):
			s.t.Fatalf("member %d does not get ready", i)
		}
	}
}

// stop ends a member at once, without a word to its clients.
func (s *servers) stop(i int) {
	if m := s.members[i]; m != nil {
		s.members[i] = nil
		m.Server.HardStop()
		m.Close()
	}
}

func (s *servers) leader() int {
	s.t.Helper()
	for range 600 {
		for i, m := range s.members {
			if m != nil && m.Server.Leader() == m.Server.MemberID() {
				return i
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatal("no leader")
	return -1
}

// open opens a store that is patient with a busy machine.
func (s *servers) open(prefix string, change ...func(*etcd.Config)) *etcd.Store {
	s.t.Helper()
	cfg := etcd.Config{Endpoints: s.clients, Prefix: prefix, Timeout: 30 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	st, err := etcd.Open(context.Background(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = st.Close() })
	return st
}

func put(t testing.TB, s kv.Store, key, value string) error {
	t.Helper()
	x, err := s.Begin(t.Context())
	if err != nil {
		return err
	}
	x.Put([]byte(key), []byte(value))
	return x.Commit(t.Context())
}

func mustPut(t testing.TB, s kv.Store, key, value string) {
	t.Helper()
	if err := put(t, s, key, value); err != nil {
		t.Fatal(err)
	}
}

func wantGet(t testing.TB, s kv.Reader, key, want string) {
	t.Helper()
	v, err := s.Get(t.Context(), []byte(key))
	if err != nil || string(v) != want {
		t.Fatalf("Get(%q) = %q, %v; want %q", key, v, err, want)
	}
}
