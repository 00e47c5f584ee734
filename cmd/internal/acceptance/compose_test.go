package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kintsugi/cmd/internal/load"
	"kintsugi/metadata/kv/kvtest"
)

// composed is the cluster of docker-compose.yml, run by scripts/cluster in a
// folder that holds what a checkout does, with the binary already built.
type composed struct {
	*site
	dir   string
	ports []string // of its environment
}

func newComposed(t *testing.T) *composed {
	t.Helper()
	need(t, "docker")
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		t.Skipf("a Docker engine is not here: %s", tail(string(out)))
	}
	if exec.Command("docker", "compose", "version").Run() != nil {
		need(t, "docker-compose")
	}
	c := &composed{site: newSite(t)}
	c.dir = filepath.Join(c.root, "kintsugi")
	top := filepath.Join("..", "..", "..")
	for _, name := range []string{"docker-compose.yml", "Dockerfile", ".dockerignore", "scripts/cluster", "README.md"} {
		copyFile(t, filepath.Join(top, name), filepath.Join(c.dir, name))
	}
	copyFile(t, binary, filepath.Join(c.dir, "bin", "kintsugi"))
	for range 2 {
		c.s3 = append(c.s3, kvtest.FreeAddress(t))
		c.admin = append(c.admin, kvtest.FreeAddress(t))
	}
	port := func(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
	project := fmt.Sprintf("kintsugi-test-%x", rand.Uint32())
	c.ports = []string{
		"COMPOSE_PROJECT_NAME=" + project, "KINTSUGI_IMAGE=" + project, "KINTSUGI_BUILD_TARGET=prebuilt", "DOCKER_BUILDKIT=0",
		"KINTSUGI_PORT1=" + port(c.s3[0]), "KINTSUGI_ADMIN_PORT1=" + port(c.admin[0]), "KINTSUGI_PORT2=" + port(c.s3[1]), "KINTSUGI_ADMIN_PORT2=" + port(c.admin[1]),
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := c.script("logs", "--tail=40")
			t.Logf("logs:\n%s", out[max(0, len(out)-20000):])
		}
		if out, err := c.script("down", "--wipe"); err != nil {
			t.Errorf("down: %v\n%s", err, tail(out))
		}
		_ = exec.Command("docker", "image", "rm", project).Run() // nothing else uses it
	})
	return c
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, st.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}

// script runs scripts/cluster.
func (c *composed) script(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", append([]string{"scripts/cluster"}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(clean(), c.ports...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *composed) cluster(args ...string) string {
	c.t.Helper()
	out, err := c.script(args...)
	if err != nil {
		c.t.Fatalf("scripts/cluster %s: %v\n%s", strings.Join(args, " "), err, tail(out))
	}
	return out
}

// TestComposeFromCheckoutToFirstObject: the cluster in containers takes its
// first object soon after its image was built, survives what scripts/cluster can
// do to it, and keeps its promises while cut in two.
func TestComposeFromCheckoutToFirstObject(t *testing.T) {
	c := newComposed(t)
	need(t, "aws")
	began := time.Now()
	c.cluster("up") // the image takes a second: the binary is there
	for name, to := range map[string]*string{"root/access-key": &c.access, "root/secret-key": &c.secret} {
		path := filepath.Join(c.dir, "data", "cluster", "secrets", name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
		*to = strings.TrimSpace(string(text))
	}
	c.run("aws", "s3", "mb", "s3://first")
	c.run("aws", "s3", "cp", filepath.Join(c.dir, "README.md"), "s3://first/")
	t.Logf("from up to the first object: %s", time.Since(began).Round(time.Second))
	if took := time.Since(began); took > 2*time.Minute {
		t.Errorf("the first object took %s, at most 2 minutes", took)
	}
	if out := c.cluster("status"); !strings.Contains(out, "zone c") || !strings.Contains(out, "12 ACTIVE") {
		t.Errorf("status:\n%s", tail(out))
	}
	l := clusterLoad(t, c.site, rand.Uint64())
	writesGoOn(t, l, time.Minute)
	each := func(verb string, nodes ...string) func() {
		return func() {
			for _, n := range nodes {
				c.cluster(verb, n)
			}
		}
	}
	during(t, c.site, l, "two nodes cut off", each("cut", "node1", "node4"), each("heal", "node1", "node4"))
	during(t, c.site, l, "a node killed, another paused", func() { c.cluster("kill", "node2"); c.cluster("pause", "node5") }, each("heal", "node2", "node5"))
	during(t, c.site, l, "a zone cut off", each("cut", "node5", "node6"), each("heal", "node5", "node6"))
	during(t, c.site, l, "a metadata member cut off", each("cut", "metadata2"), each("heal", "metadata2"))
	c.while("a gateway cut off", true, func() { c.minority("gateway1") })
	settle(t, c.site, l)
}

// minority cuts a gateway off the cluster while clients still reach it: it must
// acknowledge nothing, and say nothing that is not so.
func (c *composed) minority(name string) {
	c.t.Helper()
	x := s3{c.clientOf(c.s3[0]), "first"}
	p := load.Payload(1, 5000)
	if err := x.Put(context.Background(), "seen", p); err != nil {
		c.t.Fatal(err)
	}
	c.cluster("cut", name)
	for i := range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := x.Put(ctx, fmt.Sprint("unseen", i), p); err == nil {
			c.t.Errorf("a gateway that is cut off acknowledged a write")
		}
		if got, found, err := x.Get(ctx, "seen"); err == nil && (!found || !bytes.Equal(got, p)) {
			c.t.Errorf("a gateway that is cut off answered wrongly: found %v, %d bytes", found, len(got))
		}
		cancel()
	}
	c.cluster("heal", name)
	for end := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
		err := x.Put(context.Background(), "again", p)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("a minute after it was connected again: %v", err)
		}
	}
}
