package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"kintsugi/cmd/internal/load"
)

// clusterLoad is three writers and three readers through both gateways, which
// try again as an SDK does. Large objects go by multipart.
func clusterLoad(t *testing.T, c *site, seed uint64) *load.Load {
	t.Helper()
	c.bucket("load")
	t.Logf("seed %d", seed)
	return load.Start(load.Config{
		Target: c.both("load"), Writers: 3, Readers: 3, Keys: 60, MaxSize: 12 << 20,
		DeletePercent: 15, Seed: seed, Pause: 10 * time.Millisecond, Timeout: 30 * time.Second, Patience: time.Minute,
	})
}

// settle ends a load: nothing may have failed for good or taken too long (what
// was needed is logged), the history must be linearizable, and all must be whole
// again.
func settle(t *testing.T, c *site, l *load.Load) {
	t.Helper()
	l.Stop()
	ok, failed := l.Counts()
	tries, longest, last := l.Retries()
	t.Logf("acknowledged %v, failed %v, tried again %v, the longest %v", ok, failed, tries, longest)
	if len(failed) > 0 {
		t.Errorf("operations failed for good: %v, the last: %v", failed, last)
	}
	judgeWaits(t, c, l.Slow())
	if err := l.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	repairUntilWhole(t, c)
}

// during lets something be broken for a while, with the load going on. The next
// fault must find all whole again, or more than may be lost would be away of what
// was written meanwhile: also of what was written right after, without drives that
// had made others wait.
func during(t *testing.T, s *site, l *load.Load, what string, fault, heal func()) {
	t.Helper()
	broken(t, s, l, what, fault, heal, 3*time.Second, 5*time.Second)
}

// aside is during for what takes no drive away: nothing is written with less, so
// there is nothing to wait for.
func aside(t *testing.T, s *site, l *load.Load, what string, fault, heal func()) {
	t.Helper()
	broken(t, s, l, what, fault, heal, 0, 0)
}

func broken(t *testing.T, s *site, l *load.Load, what string, fault, heal func(), noticed, forgotten time.Duration) {
	t.Helper()
	began := time.Now()
	s.while(what, false, func() {
		fault()
		writesGoOn(t, l, 60*time.Second)
		time.Sleep(noticed)
		writesGoOn(t, l, 60*time.Second)
		heal()
		writesGoOn(t, l, 60*time.Second)
	})
	time.Sleep(forgotten)
	repairUntilWhole(t, s)
	_, longest, _ := l.Retries()
	t.Logf("%s: %s, the longest so far %v", what, time.Since(began).Round(time.Millisecond), longest)
}

// TestClusterUnderFire breaks each kind of process in turn under one load.
func TestClusterUnderFire(t *testing.T) {
	t.Parallel() // what a busy machine costs is allowed for: see judgeWaits
	c := newCluster(t)
	seed := rand.Uint64()
	l := clusterLoad(t, c.site, seed)
	rng := rand.New(rand.NewPCG(seed, 9))
	writesGoOn(t, l, time.Minute)
	kill := func(names ...string) func() {
		return func() {
			for _, n := range names {
				c.procs[n].kill()
			}
		}
	}
	start := func(names ...string) func() {
		return func() {
			for _, n := range names {
				c.procs[n].launch()
			}
		}
	}
	pause := func(names ...string) func() {
		return func() {
			for _, n := range names {
				c.procs[n].pause()
			}
			time.Sleep(8 * time.Second) // who waited for their return would wait too long
		}
	}
	resume := func(names ...string) func() {
		return func() {
			for _, n := range names {
				c.procs[n].resume()
			}
		}
	}
	two := func() []string {
		p := rng.Perm(len(nodes))
		return []string{nodes[p[0]], nodes[p[1]]}
	}
	one := nodes[rng.IntN(len(nodes))]
	during(t, c.site, l, "a node killed: "+one, kill(one), start(one))
	pair := two()
	during(t, c.site, l, fmt.Sprint("two nodes killed: ", pair), kill(pair...), start(pair...))
	one = nodes[rng.IntN(len(nodes))]
	during(t, c.site, l, "a node paused: "+one, pause(one), resume(one))
	pair = two()
	during(t, c.site, l, fmt.Sprint("two nodes paused: ", pair), pause(pair...), resume(pair...))
	during(t, c.site, l, "a zone killed", kill("node3", "node4"), func() {
		c.narrowed("node3", "node4")
		start("node3", "node4")()
	})
	for range 3 {
		for _, g := range gateways {
			aside(t, c.site, l, "a gateway killed: "+g, kill(g), start(g))
		}
	}
	leader := c.leadingRepairer()
	aside(t, c.site, l, "the leading repairer killed: "+leader, kill(leader), func() {
		if now := c.otherLeader(leader); now == leader {
			t.Fatalf("%s still leads", now)
		}
		c.procs[leader].launch()
	})
	member := c.metadataLeader()
	aside(t, c.site, l, "the metadata leader killed: "+member, kill(member), start(member))
	member = c.metadataLeader()
	aside(t, c.site, l, "the metadata leader paused: "+member, pause(member), resume(member))
	aside(t, c.site, l, "a metadata member paused", pause("metadata1"), resume("metadata1"))
	aside(t, c.site, l, "a metadata member lost for good and replaced", func() { c.loseMember("metadata3") }, func() { c.replaceMember("metadata3") })
	settle(t, c.site, l)
}

// TestClusterThreeNodesGoneIsNeverALie takes more away than may be lost.
func TestClusterThreeNodesGoneIsNeverALie(t *testing.T) {
	t.Parallel() // it mostly waits
	c := newCluster(t)
	c.bucket("data")
	ctx := t.Context()
	x := c.both("data")
	want := map[string][]byte{}
	for i := range 40 {
		key, p := fmt.Sprintf("k%02d", i), load.Payload(uint64(i), 1000<<(i%12))
		want[key] = p
		if err := x.Put(ctx, key, p); err != nil {
			t.Fatal(err)
		}
	}
	gone := []string{"node1", "node3", "node5"}
	for _, n := range gone {
		c.procs[n].kill()
	}
	for _, wait := range []time.Duration{0, 5 * time.Second} { // before and after it is noticed
		time.Sleep(wait)
		if neverALie(t, x, want) == 0 {
			t.Fatal("all can be read without three of six nodes")
		}
	}
	for _, n := range gone[1:] {
		c.procs[n].launch()
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		bad := error(nil)
		for key, p := range want {
			if got, _, err := x.Get(ctx, key); err != nil || !bytes.Equal(got, p) {
				bad = fmt.Errorf("%s: %w", key, err)
				break
			}
		}
		if bad == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("two nodes are back, but %v", bad)
		}
	}
}

// TestClusterWithoutMajority: with two of three metadata members gone nothing
// is acknowledged and nothing is lost, and all goes on when one is back.
func TestClusterWithoutMajority(t *testing.T) {
	t.Parallel() // it mostly waits
	c := newCluster(t)
	c.bucket("data")
	ctx := t.Context()
	x := c.both("data")
	if err := x.Put(ctx, "before", load.Payload(1, 200<<10)); err != nil {
		t.Fatal(err)
	}
	c.procs["metadata1"].kill()
	c.procs["metadata2"].kill()
	for i := range 4 {
		limited, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := x.Put(limited, fmt.Sprint("k", i), load.Payload(uint64(i), 1000))
		cancel()
		if err == nil {
			t.Fatal("a write was acknowledged without a majority of the metadata")
		}
		if code := minio.ToErrorResponse(err).StatusCode; code != http.StatusServiceUnavailable && code != 0 {
			t.Errorf("%d, want 503: %v", code, err)
		}
	}
	c.procs["metadata1"].launch()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := x.Put(ctx, "after", load.Payload(9, 1000))
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("writes did not resume within 10 s: %v", err)
		}
	}
	if got, found, err := x.Get(ctx, "before"); err != nil || !found || !bytes.Equal(got, load.Payload(1, 200<<10)) {
		t.Fatalf("found %v, %v", found, err)
	}
}

// TestClusterRollingRestart stops and starts every process, one after another,
// under load: no operation may fail that an SDK would have tried again.
func TestClusterRollingRestart(t *testing.T) {
	t.Parallel() // what a busy machine costs is allowed for: see judgeWaits
	c := clusterAt(newSite(t), previousBinary(t))
	l := clusterLoad(t, c.site, rand.Uint64())
	writesGoOn(t, l, time.Minute)
	for _, name := range slices.Concat(members, nodes, repairers, gateways) {
		p := c.procs[name]
		c.while(name+" started anew", false, func() {
			p.stop()
			p.path = "" // the binary of this commit
			p.launch()
			c.ready()
			writesGoOn(t, l, time.Minute)
		})
	}
	settle(t, c.site, l)
}

// previousBinary builds the commit before this one. With -trimpath it does not
// matter where: what was compiled before is not compiled again.
func previousBinary(t *testing.T) string {
	t.Helper()
	s := newSite(t)
	src := filepath.Join(s.root, "src")
	if err := os.Mkdir(src, 0o700); err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.try(time.Minute, "sh", "-c", `cd "$(git -C "$0" rev-parse --show-toplevel)" && git archive -o "$1/src.tar" HEAD~1 && tar -x -C "$1" -f "$1/src.tar"`, wd, src); err != nil {
		t.Skipf("the commit before this one is not here, so only restarts with the same binary could be tried: %s", tail(out))
	}
	path := filepath.Join(s.root, "previous")
	s.run("sh", "-c", `cd "$0" && CGO_ENABLED=0 HOME="$2" go build -trimpath -o "$1" ./cmd/kintsugi`, src, path, os.Getenv("HOME"))
	return path
}

// leadingRepairer is the one that leads now.
func (c *cluster) leadingRepairer() string {
	c.t.Helper()
	var st struct {
		Leader struct {
			Address string `json:"address"`
		} `json:"leader"`
	}
	c.adminJSON(&st, "status")
	for _, r := range repairers {
		if st.Leader.Address == "http://"+c.procs[r].address() {
			return r
		}
	}
	c.t.Fatalf("no repairer at %q", st.Leader.Address)
	return ""
}

// otherLeader waits for another than was to lead.
func (c *cluster) otherLeader(was string) string {
	c.t.Helper()
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if _, err := c.try(10*time.Second, binary, "admin", "status"); err == nil {
			if now := c.leadingRepairer(); now != was {
				return now
			}
		}
		if time.Now().After(end) {
			return was
		}
	}
}

// narrowed: while nodes are gone new objects go to groups that lie on the others
// alone and have the full tolerance.
func (c *cluster) narrowed(gone ...string) {
	c.t.Helper()
	var answer struct {
		PGs []struct {
			Scheme string `json:"scheme"`
			Sealed bool   `json:"sealed"`
			Blobs  int64  `json:"blobs"`
			Slots  []struct {
				Node string `json:"node"`
			} `json:"slots"`
		} `json:"pgs"`
	}
	c.adminJSON(&answer, "pgs")
	for _, g := range answer.PGs {
		on := false
		for _, s := range g.Slots {
			on = on || slices.Contains(gone, s.Node)
		}
		if !on && !g.Sealed && g.Scheme == "2+2" {
			return
		}
	}
	c.t.Errorf("no group of 2+2 off %v was made: %+v", gone, answer.PGs)
}

type metadataMember struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Leader  bool   `json:"leader"`
	Learner bool   `json:"learner"`
	Healthy bool   `json:"healthy"`
}

func (c *cluster) metadataMembers() []metadataMember {
	c.t.Helper()
	var answer struct {
		Members []metadataMember `json:"members"`
	}
	c.adminJSON(&answer, "metadata", "members")
	return answer.Members
}

// loseMember ends a member and all it had.
func (c *cluster) loseMember(name string) {
	c.t.Helper()
	c.procs[name].kill()
	if err := os.RemoveAll(filepath.Join(c.root, name)); err != nil {
		c.t.Fatal(err)
	}
}

// replaceMember takes the lost member out and lets one with an empty directory
// join in its place.
func (c *cluster) replaceMember(name string) {
	c.t.Helper()
	for _, m := range c.metadataMembers() {
		if m.Name == name {
			c.adminCLI("metadata", "members", "remove", m.ID)
		}
	}
	p := c.procs[name]
	i := slices.Index(p.args, "--initial-cluster")
	var others []string
	for _, m := range members {
		if m != name {
			others = append(others, c.procs[m].address())
		}
	}
	p.args[i], p.args[i+1] = "--join", strings.Join(others, ",")
	p.launch()
	for end := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
		healthy := 0
		for _, m := range c.metadataMembers() {
			if m.Healthy && !m.Learner {
				healthy++
			}
		}
		if healthy == len(members) {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s has not joined: %+v", name, c.metadataMembers())
		}
	}
}

// metadataLeader is the member that leads the others.
func (c *cluster) metadataLeader() string {
	c.t.Helper()
	all := c.metadataMembers()
	for _, m := range all {
		if m.Leader {
			return m.Name
		}
	}
	c.t.Fatalf("no member leads: %+v", all)
	return ""
}
