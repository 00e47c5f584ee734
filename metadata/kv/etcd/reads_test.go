package etcd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
)

func (s *servers) raw(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + s.clients[0]}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCompacted(t *testing.T) {
	s := start(t, 1)
	st, raw := s.open("/x/"), s.raw(t)
	for i := range 100 {
		mustPut(t, st, fmt.Sprintf("k%02d", i), "1")
	}
	x, err := st.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantGetTxn(t, x, "k00", "1")
	snap, err := st.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	seen, scanErr := 0, error(nil)
	for _, err := range st.Scan(t.Context(), nil, nil) {
		if err != nil {
			scanErr = err
			break
		}
		if seen++; seen == 3 {
			mustPut(t, st, "k50", "2")
			r, err := raw.Get(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := raw.Compact(t.Context(), r.Header.Revision); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !errors.Is(scanErr, kv.ErrUnavailable) || seen >= 100 {
		t.Fatalf("a scan of a compacted revision saw %d pairs, then %v", seen, scanErr)
	}
	if _, err := x.Get(t.Context(), []byte("k50")); !errors.Is(err, kv.ErrConflict) {
		t.Fatalf("a transaction at a compacted revision: %v", err)
	}
	if _, err := snap.Get(t.Context(), []byte("k50")); !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("a snapshot of a compacted revision: %v", err)
	}
	wantGet(t, st, "k50", "2")
}

// Values of the largest size make pages that no answer could hold.
func TestScanLargeValues(t *testing.T) {
	s := start(t, 1)
	st := s.open("/x/")
	const n = 60
	for i := range n {
		mustPut(t, st, fmt.Sprintf("k%02d", i), string(bytes.Repeat([]byte{byte(i + 1)}, kv.MaxValue-i)))
	}
	i := 0
	for p, err := range st.Scan(t.Context(), nil, nil) {
		if err != nil || string(p.Key) != fmt.Sprintf("k%02d", i) || len(p.Value) != kv.MaxValue-i || p.Value[9] != byte(i+1) {
			t.Fatalf("pair %d: %q, %d bytes, %v", i, p.Key, len(p.Value), err)
		}
		i++
	}
	if i != n {
		t.Fatalf("%d pairs of %d", i, n)
	}
}

// However keys lie, scans see each once, in order, and nothing else.
func TestScanDensities(t *testing.T) {
	s := start(t, 1)
	raw := s.raw(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(1, seed))
	var keys []string
	for i := range 9000 { // thick, in order
		keys = append(keys, fmt.Sprintf("c0001user-%08d", i))
	}
	for range 6000 { // thick, random
		keys = append(keys, string(binary.BigEndian.AppendUint64([]byte("c0002"), rng.Uint64())))
	}
	for i := range 5000 { // in clusters, with wide gaps
		keys = append(keys, fmt.Sprintf("c0003%c%c/%05d", 'a'+byte(i%7)*3, byte(i%5)*50, i))
	}
	for i := range 30 {
		keys = append(keys, fmt.Sprintf("z\xff\xff%c", i))
	}
	slices.Sort(keys)
	for chunk := range slices.Chunk(keys, 100) {
		var ops []clientv3.Op
		for _, k := range chunk {
			ops = append(ops, clientv3.OpPut("/x/k/"+k, "v"))
		}
		if _, err := raw.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	st := s.open("/x/")
	check := func(from, to string, most int) {
		t.Helper()
		i, _ := slices.BinarySearch(keys, from)
		n := 0
		bound := []byte(nil)
		if to != "" {
			bound = []byte(to)
		}
		for p, err := range st.Scan(t.Context(), []byte(from), bound) {
			if err != nil || i >= len(keys) || string(p.Key) != keys[i] {
				t.Fatalf("scan from %q: pair %d is %q, %v", from, n, p.Key, err)
			}
			i++
			if n++; n == most {
				return
			}
		}
		if i < len(keys) && (to == "" || keys[i] < to) {
			t.Fatalf("scan from %q to %q ended before %q", from, to, keys[i])
		}
	}
	check("", "", -1)
	check("", "", -1) // with what the first has learned
	for range 150 {
		from := keys[rng.IntN(len(keys))]
		switch rng.IntN(3) {
		case 0:
			check(from, "", 1+rng.IntN(2000))
		case 1:
			check(from+"\x00", keys[rng.IntN(len(keys))], -1)
		default:
			check(from[:1+rng.IntN(len(from))], "c0004", 1+rng.IntN(3000))
		}
	}
}

func TestLogin(t *testing.T) {
	s := start(t, 3)
	raw := s.raw(t)
	ctx := t.Context()
	_, e1 := raw.UserAdd(ctx, "root", "a secret word")
	_, e2 := raw.UserGrantRole(ctx, "root", "root")
	_, e3 := raw.AuthEnable(ctx)
	if err := errors.Join(e1, e2, e3); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []etcd.Config{{}, {User: "root", Password: "another secret"}, {User: "nobody", Password: "a secret word"}} {
		wrong.Endpoints = s.clients
		_, err := etcd.Open(ctx, wrong)
		if !errors.Is(err, kv.ErrUnavailable) || wrong.Password != "" && strings.Contains(err.Error(), wrong.Password) {
			t.Fatalf("open as %q: %v", wrong.User, err)
		}
	}
	st := s.open("/x/", func(c *etcd.Config) { c.User, c.Password = "root", "a secret word" })
	mustPut(t, st, "a", "1")
	for i := range 3 { // a member that starts anew has forgotten all tokens
		s.stop(i)
		s.run(i)
		for j := range 5 {
			retried(t, time.Minute, st, "a", fmt.Sprint(i, j))
			wantGet(t, st, "a", fmt.Sprint(i, j))
		}
	}
}
