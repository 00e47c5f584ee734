package member_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
	"kintsugi/metadata/kv/etcd/member"
	"kintsugi/metadata/kv/kvtest"
)

const secret = "the secret of these tests"

// rig is a cluster of members in this process.
type rig struct {
	t       *testing.T
	log     *logBuffer
	configs []member.Config
	members []*member.Member
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newRig(t *testing.T, n int, change ...func(*member.Config)) *rig {
	t.Helper()
	r := &rig{t: t, log: &logBuffer{}, members: make([]*member.Member, n)}
	dir := t.TempDir()
	var cluster []string
	for i := range n {
		c := member.Config{
			Name: fmt.Sprintf("m%d", i), Dir: filepath.Join(dir, fmt.Sprint(i)), Secret: secret,
			Address: kvtest.FreeAddress(t), PeerAddress: kvtest.FreeAddress(t), Watch: 200 * time.Millisecond,
			Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		}
		for _, f := range change {
			f(&c)
		}
		r.configs = append(r.configs, c)
		cluster = append(cluster, c.Name+"="+c.PeerAddress)
	}
	for i := range r.configs {
		r.configs[i].Cluster = strings.Join(cluster, ",")
	}
	t.Cleanup(func() {
		for i := range r.members {
			r.stop(i)
		}
		if t.Failed() {
			t.Log(r.log.String())
		}
		password, _ := etcd.RootPassword(secret)
		if text := r.log.String(); strings.Contains(text, secret) || strings.Contains(text, password) {
			t.Error("the log holds a secret")
		}
	})
	started := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { r.members[i], started[i] = member.Start(t.Context(), r.configs[i]) })
	}
	all.Wait()
	if err := errors.Join(started...); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r.ready(i)
	}
	return r
}

func (r *rig) start(i int) {
	r.t.Helper()
	m, err := member.Start(context.Background(), r.configs[i])
	if err != nil {
		r.t.Fatal(err)
	}
	r.members[i] = m
}

func (r *rig) ready(i int) {
	r.t.Helper()
	select {
	case <-r.members[i].Ready():
	case err := <-r.members[i].Failed():
		r.t.Fatalf("member %d: %v", i, err)
	case <-time.After(time.Minute):
		r.t.Fatalf("member %d does not get ready: %s", i, r.log)
	}
}

func (r *rig) stop(i int) {
	if m := r.members[i]; m != nil {
		r.members[i] = nil
		if err := m.Close(); err != nil {
			r.t.Error(err)
		}
	}
}

func (r *rig) open(change ...func(*etcd.Config)) *etcd.Store {
	r.t.Helper()
	cfg := etcd.Config{User: etcd.RootUser, Timeout: 20 * time.Second}
	cfg.Password, _ = etcd.RootPassword(secret)
	for _, c := range r.configs {
		cfg.Endpoints = append(cfg.Endpoints, c.Address)
	}
	for _, f := range change {
		f(&cfg)
	}
	s, err := etcd.Open(context.Background(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t *testing.T, s kv.Store, key string, value []byte) error {
	t.Helper()
	x, err := s.Begin(t.Context())
	if err != nil {
		return err
	}
	x.Put([]byte(key), value)
	return x.Commit(t.Context())
}

// retried writes until it is acknowledged.
func retried(t *testing.T, within time.Duration, s kv.Store, key string, value []byte) {
	t.Helper()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = put(t, s, key, value); err == nil {
			return
		}
		if !errors.Is(err, kv.ErrUnknown) && !errors.Is(err, kv.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	t.Fatalf("no commit within %v, the last: %v", within, err)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func members(t *testing.T, s *etcd.Store) []etcd.Member {
	t.Helper()
	all, err := s.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func leader(t *testing.T, s *etcd.Store) string {
	t.Helper()
	name := ""
	eventually(t, "a leader", func() bool {
		for _, m := range members(t, s) {
			if m.Leader {
				name = m.Name
			}
		}
		return name != ""
	})
	return name
}

// Nobody gets an answer without the secret: every call that the server knows,
// every page of its HTTP side, and the port of the members.
func TestNothingAnswersWithoutTheSecret(t *testing.T) {
	r := newRig(t, 3)
	conn, err := grpc.NewClient(r.configs[0].Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	calls := 0
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			if name := string(service.FullName()); !strings.HasPrefix(name, "etcdserverpb.") && !strings.HasPrefix(name, "v3") {
				continue
			}
			for j := range service.Methods().Len() {
				calls++
				anonymous(t, conn, fmt.Sprintf("/%s/%s", service.FullName(), service.Methods().Get(j).Name()))
			}
		}
		return true
	})
	if calls < 40 {
		t.Fatalf("found only %d calls", calls)
	}
	client := http.Client{Timeout: 5 * time.Second}
	for _, path := range []string{"/", "/metrics", "/version", "/health", "/livez", "/debug/vars", "/debug/pprof/", "/v3/kv/range", "/v3/maintenance/status"} {
		for _, port := range []string{r.configs[0].Address, r.configs[0].PeerAddress} {
			if resp, err := client.Get("http://" + port + path); err == nil {
				body, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode < 400 {
					t.Errorf("GET %s answers %d: %.100s", path, resp.StatusCode, body)
				}
			}
		}
	}
	peer, err := tls.Dial("tcp", r.configs[0].PeerAddress, &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		if _, err = peer.Write([]byte("GET /version HTTP/1.0\r\n\r\n")); err == nil {
			_, err = peer.Read(make([]byte, 1))
		}
		_ = peer.Close()
	}
	if err == nil {
		t.Error("the members' port answers without a certificate")
	}
	for path, want := range map[string]string{"/metrics": "etcd_server_has_leader", "/health": "true"} {
		resp, err := (&http.Client{Transport: r.members[0].Inside(), Timeout: 10 * time.Second}).Get("http://inside" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("inside, %s is %.200s", path, body)
		}
	}
}

// anonymous makes a call without a login.
func anonymous(t *testing.T, conn *grpc.ClientConn, method string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err == nil {
		if err = s.SendMsg(&emptypb.Empty{}); err == nil || err == io.EOF {
			_ = s.CloseSend()
			err = s.RecvMsg(&emptypb.Empty{})
		}
	}
	if text := status.Convert(err).Message(); !strings.Contains(text, "user name is empty") && !strings.Contains(text, "authentication failed") {
		t.Errorf("%s without a login: %v", method, err)
	}
}

func TestRefusesToBeOpen(t *testing.T) {
	base := member.Config{Name: "m", Dir: t.TempDir(), Address: "127.0.0.1:1", PeerAddress: "127.0.0.1:2", Secret: secret}
	for name, change := range map[string]func(*member.Config){
		"KINTSUGI_CLUSTER": func(c *member.Config) { c.Secret = "" },
		"too short":        func(c *member.Config) { c.Secret = "short" },
		"--peer-ca":        func(c *member.Config) { c.Secret = ""; c.Files = etcd.Files{CA: "a", Cert: "b", Key: "c"} },
		"and a key":        func(c *member.Config) { c.Files = etcd.Files{CA: "a", Cert: "b"} },
		"either one":       func(c *member.Config) { c.Cluster, c.Join = "m=127.0.0.1:2", []string{"x:1"} },
		"cannot reach":     func(c *member.Config) { c.Address = "0.0.0.0:1" },
		"must name this":   func(c *member.Config) { c.Cluster = "other=127.0.0.1:2" },
		"want host:port":   func(c *member.Config) { c.PeerAddress = "nonsense" },
		"name, a data di":  func(c *member.Config) { c.Name = "" },
	} {
		c := base
		change(&c)
		if m, err := member.Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}

func TestAnotherSecret(t *testing.T) {
	r := newRig(t, 1)
	s := r.open()
	retried(t, time.Minute, s, "a", []byte("1"))
	r.stop(0)
	r.configs[0].Secret = "another secret, also long"
	r.start(0)
	select {
	case err := <-r.members[0].Failed():
		if !strings.Contains(err.Error(), "another cluster secret") {
			t.Fatal(err)
		}
	case <-r.members[0].Ready():
		t.Fatal("serves with another secret")
	case <-time.After(time.Minute):
		t.Fatal("neither")
	}
	r.stop(0)
	r.configs[0].Secret = secret
	r.start(0)
	r.ready(0)
	retried(t, time.Minute, s, "a", []byte("2"))
}

// A leader that is told to stop hands over; a fourth member joins, catches up
// and is promoted; one that is gone for good is removed.
func TestHandOverJoinAndRemove(t *testing.T) {
	r := newRig(t, 3)
	s := r.open()
	retried(t, time.Minute, s, "a", []byte("1"))
	first := leader(t, s)
	i := int(first[1] - '0')
	begun := time.Now()
	r.stop(i)
	if took := time.Since(begun); took > 15*time.Second {
		t.Fatalf("stopping took %v", took)
	}
	begun = time.Now()
	retried(t, time.Minute, s, "a", []byte("2"))
	t.Logf("writes went on %v after the leader had stopped", time.Since(begun))
	if time.Since(begun) > 10*time.Second {
		t.Fatal("too late")
	}
	if leader(t, s) == first {
		t.Fatal("a member that is gone leads")
	}
	c := r.configs[(i+1)%3]
	c.Name, c.Dir, c.Cluster, c.Join = "m3", filepath.Join(t.TempDir(), "3"), "", []string{r.configs[(i+1)%3].Address, r.configs[(i+2)%3].Address}
	c.Address, c.PeerAddress = kvtest.FreeAddress(t), kvtest.FreeAddress(t)
	var gone etcd.Member
	for _, m := range members(t, s) {
		if m.Name == first {
			gone = m
		}
	}
	if gone.Healthy || gone.ID == 0 {
		t.Fatalf("%+v", gone)
	}
	if err := s.RemoveMember(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	r.configs, r.members = append(r.configs, c), append(r.members, nil)
	r.start(3)
	r.ready(3)
	eventually(t, "the new member is full", func() bool {
		all := members(t, s)
		return len(all) == 3 && all[0].Healthy && all[1].Healthy && all[2].Healthy && !all[0].Learner && !all[1].Learner && !all[2].Learner
	})
	alone := r.open(func(e *etcd.Config) { e.Endpoints = []string{c.Address} })
	if v, err := alone.Get(t.Context(), []byte("a")); err != nil || string(v) != "2" {
		t.Fatalf("%q, %v", v, err)
	}
	r.stop(3)
	r.start(3) // with --join still given
	r.ready(3)
	retried(t, time.Minute, alone, "a", []byte("3"))
}

// A full member says what is wrong, and recovers by itself where it can.
func TestFull(t *testing.T) {
	r := newRig(t, 3, func(c *member.Config) { c.Quota, c.Watch = 24<<20, 3*time.Second })
	s := r.open()
	big := bytes.Repeat([]byte{7}, kv.MaxValue)
	// On a slow machine a commit may fail for want of an answer, too, which says
	// nothing of space.
	slow := func(err error) bool { return err != nil && !strings.Contains(err.Error(), "NOSPACE") }
	var err error
	for i := 0; i < 400 && (err == nil || slow(err)); i++ {
		err = put(t, s, "history", big)
	}
	refused := func() bool { return errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrUnknown) }
	if !refused() || !strings.Contains(err.Error(), "NOSPACE") || !strings.Contains(err.Error(), "--quota") {
		t.Fatalf("a full member: %v", err)
	}
	retried(t, 2*time.Minute, s, "after", []byte("1"))
	if v, err := s.Get(t.Context(), []byte("history")); err != nil || !bytes.Equal(v, big) {
		t.Fatalf("%d bytes, %v", len(v), err)
	}
	// Now with what is really there: nothing can be gained until some goes.
	full := 0
	for i := 0; i < 200; i++ {
		if err = put(t, s, fmt.Sprint("data", i), big); err != nil && !slow(err) {
			full = i
			break
		}
	}
	if !refused() || full < 20 {
		t.Fatalf("full after %d values: %v", full, err)
	}
	remove := func(key []byte) error {
		x, err := s.Begin(t.Context())
		if err != nil {
			return err
		}
		x.Delete(key)
		return x.Commit(t.Context())
	}
	for i := range full {
		key := fmt.Append(nil, "data", i)
		err = remove(key) // deletes work
		for n := 0; n < 10 && err != nil; n++ {
			s = r.open() // after a commit of unknown outcome the fence is due, which takes space
			err = remove(key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	retried(t, 2*time.Minute, s, "data", big)
}

func TestBackup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "snapshots")
	r := newRig(t, 1, func(c *member.Config) {
		c.BackupDir, c.BackupEvery, c.BackupKeep = dir, 200*time.Millisecond, 3
	})
	s := r.open()
	retried(t, time.Minute, s, "a", []byte("a value to be found"))
	for range 200 {
		if _, err := s.Get(t.Context(), []byte("a")); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(r.log.String(), "request stats"); n > 100 {
		t.Fatalf("%d of 200 requests were logged", n)
	}
	eventually(t, "three snapshots are kept", func() bool {
		names, _ := filepath.Glob(filepath.Join(dir, "metadata-*.snapshot"))
		return len(names) == 3
	})
	name, err := r.members[0].Backup(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil || !bytes.Contains(text, []byte("a value to be found")) {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	if err := member.VerifyBackup(name); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, len(text) / 2, len(text) - 1} {
		bad := bytes.Clone(text)
		bad[at] ^= 1
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := member.VerifyBackup(name); err == nil {
			t.Fatalf("a flipped bit at %d was not found", at)
		}
	}
	if err := os.WriteFile(name, text[:len(text)-100], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := member.VerifyBackup(name); err == nil {
		t.Fatal("a torn snapshot was not found")
	}
}

// TestBackupOfAClockSetBack: what a clock that was ahead has written does not
// have every later snapshot deleted.
func TestBackupOfAClockSetBack(t *testing.T) {
	r := newRig(t, 1, func(c *member.Config) { c.BackupDir, c.BackupEvery, c.BackupKeep = t.TempDir(), time.Hour, 3 })
	now := time.Now()
	for i := range 3 {
		if _, err := r.members[0].Backup(now.Add(time.Duration(24+i) * time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for i := range 4 {
		name, err := r.members[0].Backup(now.Add(time.Duration(i) * time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
		for _, name := range names[max(0, len(names)-3):] {
			if err := member.VerifyBackup(name); err != nil {
				t.Fatalf("after snapshot %d: %v", i, err)
			}
		}
	}
}

// TestSnapshotIsRead: what a member wrote gives back all pairs of its state, and
// nothing of before or of another prefix.
func TestSnapshotIsRead(t *testing.T) {
	r := newRig(t, 1, func(c *member.Config) { c.BackupDir, c.BackupEvery = t.TempDir(), time.Hour })
	s := r.open()
	want := map[string]string{}
	for i := range 2500 {
		key := fmt.Sprintf("key %05d", i)
		want[key] = fmt.Sprint("value ", i)
		if i%50 != 0 {
			continue
		}
		retried(t, time.Minute, s, key, []byte("an older value"))
	}
	for batch := range slices.Chunk(slices.Sorted(maps.Keys(want)), 50) {
		err := kv.Update(t.Context(), s, 10, func(t kv.Txn) error {
			for _, key := range batch {
				t.Put([]byte(key), []byte(want[key]))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	delete(want, "key 00007")
	if err := kv.Update(t.Context(), s, 10, func(t kv.Txn) error { t.Delete([]byte("key 00007")); return nil }); err != nil {
		t.Fatal(err)
	}
	name, err := r.members[0].Backup(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	retried(t, time.Minute, s, "key 99999", []byte("too late"))
	f, err := member.OpenSnapshot(name, "")
	if err != nil {
		t.Fatal(err)
	}
	got, last := map[string]string{}, ""
	for p, err := range f.Scan(t.Context(), nil, nil) {
		if err != nil || string(p.Key) <= last {
			t.Fatalf("%q after %q: %v", p.Key, last, err)
		}
		last = string(p.Key)
		got[last] = string(p.Value)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%d pairs of %d", len(got), len(want))
	}
	for key, value := range map[string]string{"key 00008": want["key 00008"], "key 00007": "", "key 99999": ""} {
		if v, err := f.Get(t.Context(), []byte(key)); err != nil || string(v) != value {
			t.Fatalf("%s: %q, %v", key, v, err)
		}
	}
	n := 0
	for range f.Scan(t.Context(), []byte("key 00100"), []byte("key 01200")) {
		n++
	}
	if _, err := f.Begin(t.Context()); n != 1100 || !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("%d pairs in a range; a transaction: %v", n, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = member.OpenSnapshot(name, "/other/"); err != nil {
		t.Fatal(err)
	}
	for p := range f.Scan(t.Context(), nil, nil) {
		t.Fatalf("%q is of another prefix", p.Key)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 100_000); err != nil {
		t.Fatal(err)
	}
	if _, err := member.OpenSnapshot(name, ""); err == nil {
		t.Fatal("a torn snapshot was opened")
	}
}

// Where much was deleted the members are defragmented one after another.
func TestDefragment(t *testing.T) {
	r := newRig(t, 3, func(c *member.Config) {
		c.Defragment, c.DefragmentFrom, c.Retention = time.Second, 1<<20, time.Second
	})
	s := r.open()
	for i := range 40 {
		retried(t, time.Minute, s, "history", bytes.Repeat([]byte{byte(i + 1)}, kv.MaxValue))
	}
	eventually(t, "every member's file is small again", func() bool {
		_ = put(t, s, "b", []byte("1")) // compaction looks at revisions
		for _, m := range members(t, s) {
			if m.DBSize > 4<<20 || m.DBSize == 0 {
				return false
			}
		}
		return true
	})
	if v, err := s.Get(t.Context(), []byte("history")); err != nil || len(v) != kv.MaxValue || v[0] != 40 {
		t.Fatalf("%d bytes, %v", len(v), err)
	}
}

// TestBackupsThatCannotBeWritten are told of at the start, not when the first is
// due.
func TestBackupsThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, 1, func(c *member.Config) { c.BackupDir, c.BackupEvery = filepath.Join(file, "snapshots"), time.Hour })
	eventually(t, "the directory is named", func() bool {
		return strings.Contains(r.log.String(), "snapshots of the metadata cannot be written") && strings.Contains(r.log.String(), file)
	})
}
