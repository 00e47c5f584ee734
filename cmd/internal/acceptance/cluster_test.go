package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"kintsugi/metadata/kv/kvtest"
)

// cluster is every role as processes of their own: three metadata members, six
// storage nodes with two drives each in three zones, two repairers, two
// gateways, all on the loopback interface.
type cluster struct {
	*site
	procs map[string]*process
}

const clusterSecret = "the-cluster-secret-of-the-acceptance-tests"

// Names of the processes by role, as docker-compose.yml has them.
var (
	members   = []string{"metadata1", "metadata2", "metadata3"}
	nodes     = []string{"node1", "node2", "node3", "node4", "node5", "node6"}
	repairers = []string{"repair1", "repair2"}
	gateways  = []string{"gateway1", "gateway2"}
)

func zoneOf(node int) string { return string(rune('a' + node/2)) }

// newCluster starts a cluster of 4+2 and waits until it takes writes.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	return clusterAt(newSite(t), "")
}

// clusterAt starts a cluster of another binary; "": the one that is built.
func clusterAt(s *site, path string) *cluster {
	t := s.t
	t.Helper()
	c := &cluster{site: s, procs: map[string]*process{}}
	ports := map[string]string{}
	for _, name := range []string{"metadata1", "metadata2", "metadata3", "repair1", "repair2", "gateway1", "gateway2"} {
		ports[name] = kvtest.FreeAddress(t)
	}
	var initial, urls, join []string
	peers := map[string]string{}
	for _, m := range members {
		peers[m] = kvtest.FreeAddress(t)
		initial = append(initial, m+"="+peers[m])
		urls = append(urls, ports[m])
	}
	for _, r := range repairers {
		join = append(join, "http://"+ports[r])
	}
	for _, g := range gateways {
		c.s3 = append(c.s3, ports[g])
		c.admin = append(c.admin, kvtest.FreeAddress(t))
	}
	engine := "etcd://" + strings.Join(urls, ",") + "/kintsugi"
	c.more = []string{"KINTSUGI_METADATA=" + engine, "KINTSUGI_CLUSTER_SECRET=" + clusterSecret}
	for _, m := range members {
		c.add(path, m, kvtest.FreeAddress(t), "metadata", "--name", m, "--data-dir", filepath.Join(c.root, m), "--address", ports[m],
			"--peer-address", peers[m], "--initial-cluster", strings.Join(initial, ","),
			"--snapshot-dir", c.snapshots(m), "--snapshot-every", "5s", "--snapshot-keep", "3")
	}
	for _, r := range repairers {
		c.add(path, r, kvtest.FreeAddress(t), "repair", "--address", ports[r], "--scheme", "4+2", "--out-after", "15s")
	}
	for i, n := range nodes {
		c.add(path, n, kvtest.FreeAddress(t), "storagenode", "--name", n, "--zone", zoneOf(i), "--address", kvtest.FreeAddress(t),
			"--join", strings.Join(join, ","), c.drive(i, 1), c.drive(i, 2))
	}
	for i, g := range gateways {
		c.add(path, g, c.admin[i], "gateway", "--address", ports[g], "--scheme", "4+2")
	}
	for _, names := range [][]string{members, repairers, nodes, gateways} {
		for _, name := range names {
			if err := c.procs[name].begin(); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.ready()
	return c
}

// drive is the directory of a node's drive.
func (c *cluster) drive(node, n int) string {
	return filepath.Join(c.root, nodes[node], fmt.Sprintf("d%d", n))
}

// snapshots is where a metadata member writes its snapshots.
func (c *cluster) snapshots(member string) string {
	return filepath.Join(c.root, "snapshots of "+member)
}

// add makes a process of a role; admin is where it says that it lives.
func (c *cluster) add(path, name, admin, role string, args ...string) {
	c.t.Helper()
	p := newProcess(c.t, c.root, name, admin, c.env(), append([]string{role, "--admin-address", admin}, args...))
	p.path = path
	c.procs[name] = p
}

// ready waits until all processes live and each gateway writes to all drives.
func (c *cluster) ready() {
	c.t.Helper()
	for _, p := range c.procs {
		if err := p.lives(); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, admin := range c.admin {
		out, err := c.try(time.Minute, binary, "admin", "ready", "--admin-url", "http://"+admin, "--wait", "40s", "--drives", fmt.Sprint(2*len(nodes)))
		if err != nil {
			c.t.Fatalf("the cluster is not ready for writes: %v, %s", err, tail(out))
		}
	}
}

// both is a cluster as a target of load: each try goes to the next gateway.
type both struct {
	gateways []s3
	next     *atomic.Uint64
}

func (s *site) both(bucket string) both {
	b := both{next: new(atomic.Uint64)}
	for _, address := range s.s3 {
		b.gateways = append(b.gateways, s3{s.clientOf(address), bucket})
	}
	return b
}

func (b both) one() s3 { return b.gateways[b.next.Add(1)%uint64(len(b.gateways))] }

func (b both) Put(ctx context.Context, key string, p []byte) error { return b.one().Put(ctx, key, p) }
func (b both) Get(ctx context.Context, key string) ([]byte, bool, error) {
	return b.one().Get(ctx, key)
}
func (b both) Delete(ctx context.Context, key string) error { return b.one().Delete(ctx, key) }

// TestClusterStoresAndSurvives is the cluster's first light: what one gateway
// takes the other gives, also with any two nodes gone, and all is whole again
// when they are back.
func TestClusterStoresAndSurvives(t *testing.T) {
	t.Parallel() // it mostly waits
	c := newCluster(t)
	c.bucket("data")
	ctx := t.Context()
	a, b := s3{c.clientOf(c.s3[0]), "data"}, s3{c.clientOf(c.s3[1]), "data"}
	want := map[string][]byte{}
	for i, size := range []int{0, 1, 4 << 10, 64 << 10, 64<<10 + 1, 1 << 20, 9 << 20} {
		key := fmt.Sprint("k", i)
		want[key] = bytes.Repeat([]byte{byte(i + 1)}, size)
		if err := a.Put(ctx, key, want[key]); err != nil {
			t.Fatalf("put %s: %v", key, err)
		}
	}
	read := func(from s3, when string) {
		t.Helper()
		for key, p := range want {
			if got, found, err := from.Get(ctx, key); err != nil || !found || !bytes.Equal(got, p) {
				t.Fatalf("%s: get %s: found %v, %d bytes of %d, %v", when, key, found, len(got), len(p), err)
			}
		}
	}
	read(b, "through the other gateway")
	n := 0
	for o := range b.c.ListObjects(ctx, "data", minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		n++
	}
	if n != len(want) {
		t.Fatalf("the other gateway lists %d keys of %d", n, len(want))
	}
	c.procs["node1"].kill()
	c.procs["node4"].kill()
	read(a, "two nodes killed")
	if err := os.RemoveAll(filepath.Join(c.root, "node4")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node1", "node4"} {
		if err := c.procs[name].begin(); err != nil {
			t.Fatal(err)
		}
	}
	repairUntilWhole(t, c.site)
	read(b, "whole again")
	// Whole is what two others can be taken from.
	c.procs["node2"].kill()
	c.procs["node6"].kill()
	read(a, "two others killed, after all was said to be whole")
}

// TestClusterOutlivesItsMetadata: all metadata members lose their disks. The
// newest snapshot, loaded into new members, brings everything back that was
// written before it, and the cluster goes on.
func TestClusterOutlivesItsMetadata(t *testing.T) {
	t.Parallel() // it mostly waits
	c := newCluster(t)
	c.bucket("data")
	ctx := t.Context()
	x := s3{c.clientOf(c.s3[0]), "data"}
	want := map[string][]byte{}
	for i, size := range []int{0, 1, 64 << 10, 1 << 20, 9 << 20} {
		key := fmt.Sprint("k", i)
		want[key] = bytes.Repeat([]byte{byte(i + 1)}, size)
		if err := x.Put(ctx, key, want[key]); err != nil {
			t.Fatal(err)
		}
	}
	newest := ""
	for begun, n := time.Now(), 0; ; n++ {
		files, err := filepath.Glob(filepath.Join(c.snapshots("metadata2"), "*.snapshot"))
		if err != nil || n > 300 {
			t.Fatalf("no snapshot: %v", err)
		}
		if len(files) > 0 {
			newest = files[len(files)-1]
			if st, err := os.Stat(newest); err == nil && st.ModTime().After(begun.Add(time.Second)) {
				break
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := x.Put(ctx, "after the snapshot", []byte("lost to the metadata")); err != nil {
		t.Fatal(err)
	}
	safe := filepath.Join(c.root, "newest.snapshot")
	if err := os.Link(newest, safe); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{gateways, repairers, nodes, members} {
		for _, name := range names {
			c.procs[name].kill()
		}
	}
	for _, m := range members {
		if err := os.RemoveAll(filepath.Join(c.root, m)); err != nil {
			t.Fatal(err)
		}
	}
	start := func(names ...string) {
		for _, name := range names {
			if err := c.procs[name].begin(); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range names {
			if err := c.procs[name].lives(); err != nil {
				t.Fatal(err)
			}
		}
	}
	start(members...)
	file := filepath.Join(c.root, "metadata.dump")
	c.adminCLI("metadata", "dump", "--from", "snapshot:"+safe, "--to", file)
	engine, _ := strings.CutPrefix(c.more[0], "KINTSUGI_METADATA=")
	c.adminCLI("metadata", "load", "--from", file, "--to", engine)
	start(append(append(append([]string(nil), nodes...), repairers...), gateways...)...)
	c.ready()
	for key, p := range want {
		if got, found, err := x.Get(ctx, key); err != nil || !found || !bytes.Equal(got, p) {
			t.Fatalf("get %s: found %v, %d bytes of %d, %v", key, found, len(got), len(p), err)
		}
	}
	for i := range 20 {
		key := fmt.Sprint("new", i)
		want[key] = bytes.Repeat([]byte{byte(i)}, 200_000*i)
		if err := x.Put(ctx, key, want[key]); err != nil {
			t.Fatalf("put %s: %v", key, err)
		}
	}
	repairUntilWhole(t, c.site)
	c.procs["node2"].kill()
	c.procs["node5"].kill()
	for key, p := range want {
		if got, found, err := x.Get(ctx, key); err != nil || !found || !bytes.Equal(got, p) {
			t.Fatalf("get %s: found %v, %d bytes of %d, %v", key, found, len(got), len(p), err)
		}
	}
}
