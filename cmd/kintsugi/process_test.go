package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv/kvtest"
	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
)

// envMain makes the test's binary the program itself.
const envMain = "KINTSUGI_TEST_IS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// startProcess runs the program with these arguments until the test ends.
func startProcess(t *testing.T, secret string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), envMain+"=1", envClusterSecret+"="+secret)
	var log bytes.Buffer
	c.Stderr = &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // or it has ended
		_ = c.Wait()
		if t.Failed() {
			t.Logf("%v: %s", args, log.String())
		}
	})
	return c
}

// TestNodeIsPausedAndKilled: a real process is stopped, goes on, is killed and
// started again. While it is away its drive is DOWN and nobody waits long for
// it; what it acknowledged is there when it is back.
func TestNodeIsPausedAndKilled(t *testing.T) {
	secret := strings.Repeat("s", auth.MinSecret)
	key, err := auth.NewKey([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	g := &greeter{}
	repairer := httptest.NewServer(auth.NewGuard(auth.GuardConfig{Key: key}).Wrap(rpc.NewMembershipHandler(g)))
	defer repairer.Close()
	address := kvtest.FreeAddress(t)
	args := []string{"storagenode", "--name", "n1", "--address", address, "--admin-address", "127.0.0.1:0",
		"--join", repairer.URL, filepath.Join(t.TempDir(), "d1")}
	node := startProcess(t, secret, args...)
	for n := 0; len(g.announced().Drives) != 1; n++ {
		if n == 6000 {
			t.Fatal("the node does not announce itself")
		}
		time.Sleep(10 * time.Millisecond)
	}
	id := g.announced().Drives[0].ID
	transport := rpc.NewTransport(nil)
	defer transport.CloseIdleConnections()
	f, err := rpc.OpenFleet(t.Context(), rpc.FleetConfig{
		Nodes:     func(context.Context) ([]string, error) { return []string{"http://" + address}, nil },
		Transport: auth.NewTransport(key, transport, nil), Poll: 100 * time.Millisecond, PollTime: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wait := func(want storagenode.DriveState) storagenode.ShardStore {
		t.Helper()
		for range 6000 {
			if d, state := f.Drive(id); state == want {
				return d
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("the drive does not become %s", want)
		return nil
	}
	acked := map[storagenode.ShardID][]byte{}
	write := func(d storagenode.ShardStore, n int) {
		for range n {
			sh := storetest.NewShard(storagenode.ShardID{PG: 1, Blob: storetest.Blob(uint64(len(acked) + 1))}, 1000+len(acked)*10_000)
			tok, err := d.Put(t.Context(), sh)
			if err == nil {
				err = d.Sync(t.Context(), tok)
			}
			if err != nil {
				t.Fatal(err)
			}
			acked[sh.ID] = sh.Payload
		}
	}
	write(wait(storagenode.DriveActive), 5)

	signal := func(s syscall.Signal) {
		t.Helper()
		if err := node.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	old := wait(storagenode.DriveActive)
	signal(syscall.SIGSTOP)
	wait(storagenode.DriveDown)
	began := time.Now()
	if _, err := old.Stat(t.Context(), storagenode.ShardID{}); !errors.Is(err, storagenode.ErrUnavailable) || time.Since(began) > 5*time.Second {
		t.Errorf("a call to a paused node: %v after %s", err, time.Since(began))
	}
	signal(syscall.SIGCONT)
	write(wait(storagenode.DriveActive), 5)

	signal(syscall.SIGKILL)
	_ = node.Wait() // says that it was killed
	wait(storagenode.DriveDown)
	node = startProcess(t, secret, args...)
	d := wait(storagenode.DriveActive)
	for id, payload := range acked {
		p := make([]byte, len(payload)+1)
		if n, err := d.ReadAt(t.Context(), id, 0, p); err != io.EOF || !bytes.Equal(p[:n], payload) {
			t.Errorf("an acknowledged shard after a kill: %d bytes, %v", n, err)
		}
	}
	write(d, 1)
	signal(syscall.SIGTERM)
	if err := node.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
}
