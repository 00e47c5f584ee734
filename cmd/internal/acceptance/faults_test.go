package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"kintsugi/cmd/internal/load"
)

// status is what of `kintsugi admin status --json` these tests read.
type status struct {
	Whole  bool `json:"whole"`
	Drives []struct {
		ID    string `json:"id"`
		Dir   string `json:"dir"`
		State string `json:"state"`
	} `json:"drives"`
}

// underLoad starts writers and readers on a bucket of their own.
func underLoad(t *testing.T, s *site, seed uint64) *load.Load {
	t.Helper()
	s.bucket("load")
	t.Logf("seed %d", seed)
	return load.Start(load.Config{
		Target: s3{s.client(), "load"}, Writers: 3, Readers: 3, Keys: 60, MaxSize: 12 << 20,
		DeletePercent: 15, Seed: seed, Pause: 5 * time.Millisecond, Timeout: 20 * time.Second,
	})
}

// empty removes everything in a drive directory, as rm -rf dir/* would.
func empty(t *testing.T, dir string) {
	t.Helper()
	for range 20 {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
		if err == nil {
			return
		}
	}
	t.Fatalf("%s cannot be emptied", dir)
}

// repairUntilWhole asks for repair until an independent recount finds every
// shard in its place.
func repairUntilWhole(t *testing.T, s *site) {
	t.Helper()
	var out string
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(2 * time.Second) {
		var err error
		if out, err = s.try(3*time.Minute, binary, "admin", "repair", "--watch"); err == nil {
			var st status
			if s.adminJSON(&st, "status"); st.Whole {
				return
			}
		}
	}
	t.Fatalf("not whole after repair: %s\n%s", tail(out), s.adminCLI("status"))
}

// driveIDs gives the id of the active drive in each directory.
func driveIDs(s *site) map[string]string {
	s.t.Helper()
	var st status
	s.adminJSON(&st, "drives")
	ids := map[string]string{}
	for _, d := range st.Drives {
		if d.State == "ACTIVE" {
			ids[d.Dir] = d.ID
		}
	}
	return ids
}

// writesGoOn fails unless puts and gets succeed within the limit.
func writesGoOn(t *testing.T, l *load.Load, limit time.Duration) {
	t.Helper()
	ok, _ := l.Counts()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if now, _ := l.Counts(); now["put"] > ok["put"]+20 && now["get"] > ok["get"]+20 {
			return
		}
	}
	now, failed := l.Counts()
	t.Fatalf("the load does not go on: %v, then %v, failed %v", ok, now, failed)
}

func TestTwoOfSixDrivesEmptiedUnderLoad(t *testing.T) {
	s := newServer(t, 6, "--scheme", "4+2")
	l := underLoad(t, s.site, rand.Uint64())
	writesGoOn(t, l, 20*time.Second)
	for _, pair := range [][2]int{{0, 1}, {2, 5}} { // journal members and Pebble's drive are among the first
		before := driveIDs(s.site)
		empty(t, s.dirs[pair[0]])
		empty(t, s.dirs[pair[1]])
		writesGoOn(t, l, 30*time.Second)
		repairUntilWhole(t, s.site)
		after := driveIDs(s.site)
		for _, i := range pair {
			if dir := s.dirs[i]; before[dir] == after[dir] || after[dir] == "" {
				t.Fatalf("%s was emptied, but its drive is still %q", dir, after[dir])
			}
		}
	}
	l.Stop()
	if _, failed := l.Counts(); failed["get"] > 0 {
		t.Errorf("%d reads failed", failed["get"])
	}
	if err := l.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.adminCLI("verify", "load")
}

func TestAnEmptiedDriveIsNeverCalledWhole(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newServer(t, 6, "--scheme", "4+2")
	s.bucket("data")
	x := s3{s.client(), "data"}
	p := load.Payload(1, 2<<20)
	if err := x.Put(context.Background(), "k", p); err != nil {
		t.Fatal(err)
	}
	before := driveIDs(s.site)
	empty(t, s.dirs[3]) // and ask at once, with no write that would notice
	s.adminCLI("repair")
	after := driveIDs(s.site)
	if dir := s.dirs[3]; after[dir] == before[dir] || after[dir] == "" {
		t.Fatalf("called healed while %s is still %q", dir, after[dir])
	}
	empty(t, s.dirs[0])
	empty(t, s.dirs[1])
	if got, found, err := x.Get(context.Background(), "k"); err != nil || !found || !bytes.Equal(got, p) {
		t.Fatalf("found %v, %v", found, err)
	}
}

// TestDrainedDrivesAreTakenOut: two of eight drives, members of the journal among
// them, are drained under load and taken out for good. Then two more fail: nothing
// was lost or even degraded.
func TestDrainedDrivesAreTakenOut(t *testing.T) {
	s := newServer(t, 8, "--scheme", "4+2")
	l := underLoad(t, s.site, rand.Uint64())
	writesGoOn(t, l, 20*time.Second)
	ids := driveIDs(s.site)
	for range 100 { // the repairer looks at them soon
		if len(ids) == 8 {
			break
		}
		time.Sleep(100 * time.Millisecond)
		ids = driveIDs(s.site)
	}
	out, err := s.try(3*time.Minute, binary, "admin", "drives", "drain", "--watch", s.dirs[0], ids[s.dirs[1]])
	if err != nil || strings.Count(out, "is drained: it may be taken out") != 2 {
		t.Fatalf("%v: %s", err, tail(out))
	}
	for _, dir := range s.dirs[:2] {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	writesGoOn(t, l, 30*time.Second)
	s.stop()
	s.args = slices.DeleteFunc(s.args, func(arg string) bool { return slices.Contains(s.dirs[:2], arg) })
	s.launch()
	writesGoOn(t, l, 30*time.Second)
	repairUntilWhole(t, s.site)
	l.Stop()
	empty(t, s.dirs[2])
	empty(t, s.dirs[7])
	if err := l.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	if out, err = s.try(time.Minute, binary, "admin", "drives", "drain", s.dirs[2]+"x"); err == nil || !strings.Contains(out, "no drive") {
		t.Fatalf("a drive that is not there: %v: %s", err, out)
	}
}

func TestTwoOfSixDrivesGoneAndBackUnderLoad(t *testing.T) {
	s := newServer(t, 6, "--scheme", "4+2")
	l := underLoad(t, s.site, rand.Uint64())
	writesGoOn(t, l, 20*time.Second)
	for _, i := range []int{0, 4} {
		if err := os.Rename(s.dirs[i], s.dirs[i]+".away"); err != nil {
			t.Fatal(err)
		}
	}
	writesGoOn(t, l, 30*time.Second)
	time.Sleep(3 * time.Second)
	writesGoOn(t, l, 10*time.Second)
	for _, i := range []int{0, 4} {
		if err := os.Rename(s.dirs[i]+".away", s.dirs[i]); err != nil {
			t.Fatal(err)
		}
	}
	repairUntilWhole(t, s.site)
	l.Stop()
	if err := l.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	// Whole again: any other two may go, and everything still reads.
	empty(t, s.dirs[1])
	empty(t, s.dirs[2])
	if err := l.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestWritesDuringLossHaveTheFullTolerance(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newServer(t, 6, "--scheme", "4+2")
	s.bucket("data")
	for _, i := range []int{0, 1} {
		if err := os.Rename(s.dirs[i], s.dirs[i]+".away"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(5 * time.Second) // noticed
	c, ctx := s.client(), context.Background()
	want := load.Payload(7, 3<<20)
	put := func(key string, p []byte) {
		t.Helper()
		if _, err := c.PutObject(ctx, "data", key, bytes.NewReader(p), int64(len(p)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put("large", want)
	put("small", want[:4096])
	// Two more go; what was written narrow survives them. The metadata needs
	// four of six drives to open, but the running process goes on.
	for _, i := range []int{2, 3} {
		if err := os.Rename(s.dirs[i], s.dirs[i]+".away"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(5 * time.Second)
	for key, p := range map[string][]byte{"large": want, "small": want[:4096]} {
		got, found, err := s3{c, "data"}.Get(ctx, key)
		if err != nil || !found || !bytes.Equal(got, p) {
			t.Errorf("%s with two of its four drives gone: found %v, %v", key, found, err)
		}
	}
}

// neverALie reads what was stored while more is gone than may be: each read gives
// the right bytes, or 503, or right bytes and then a cut connection. It returns
// how many could not be read.
func neverALie(t *testing.T, store load.Target, want map[string][]byte) (unreadable int) {
	t.Helper()
	for key, p := range want {
		got, found, err := store.Get(t.Context(), key)
		switch {
		case err == nil && !found:
			t.Fatalf("%s: answered as absent", key)
		case err == nil && !bytes.Equal(got, p):
			t.Fatalf("%s: wrong bytes", key)
		case err != nil && (len(got) == len(p) || !bytes.HasPrefix(p, got)):
			t.Fatalf("%s: %d bytes, wrong or all of them, before %v", key, len(got), err)
		case err != nil && len(got) > 0:
			unreadable++
		case err != nil:
			unreadable++
			if code := minio.ToErrorResponse(err).StatusCode; code != http.StatusServiceUnavailable && code != 0 {
				t.Fatalf("%s: %d, want 503 or a cut connection: %v", key, code, err)
			}
		}
	}
	return unreadable
}

func TestThreeOfSixDrivesGoneIsNeverALie(t *testing.T) {
	t.Parallel() // it mostly waits
	s := newServer(t, 6, "--scheme", "4+2")
	s.bucket("data")
	c, ctx := s.client(), context.Background()
	want := map[string][]byte{}
	for i := range 40 {
		key, p := fmt.Sprintf("k%02d", i), load.Payload(uint64(i), 1000<<(i%12))
		want[key] = p
		if err := (s3{c, "data"}).Put(ctx, key, p); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{1, 3, 5} {
		if err := os.Rename(s.dirs[i], s.dirs[i]+".away"); err != nil {
			t.Fatal(err)
		}
	}
	for _, wait := range []time.Duration{0, 4 * time.Second} { // before and after it is noticed
		time.Sleep(wait)
		if neverALie(t, s3{c, "data"}, want) == 0 && wait > 0 {
			t.Fatal("all can be read without three of six drives")
		}
	}
	if err := os.Rename(s.dirs[3]+".away", s.dirs[3]); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		bad := error(nil)
		for key, p := range want {
			if got, _, err := (s3{c, "data"}).Get(ctx, key); err != nil || !bytes.Equal(got, p) {
				bad = fmt.Errorf("%s: %w", key, err)
				break
			}
		}
		if bad == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a drive is back, but %v", bad)
		}
	}
}

func TestKillUnderLoad(t *testing.T) {
	t.Parallel() // it mostly waits
	kills := 50
	s := newServer(t, 6, "--scheme", "4+2")
	seed := rand.Uint64()
	l := underLoad(t, s.site, seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range kills {
		time.Sleep(time.Duration(100+rng.IntN(500)) * time.Millisecond)
		s.kill()
		s.launch()
	}
	writesGoOn(t, l, 20*time.Second)
	l.Stop()
	if err := l.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	ok, failed := l.Counts()
	t.Logf("%d kills; acknowledged %v, failed %v", kills, ok, failed)
	repairUntilWhole(t, s.site)
}

func TestDriveFilledToTheLastByte(t *testing.T) {
	small := filepath.Join(t.TempDir(), "small")
	if err := os.MkdirAll(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", small).CombinedOutput(); err != nil {
		t.Skipf("mounting a small file system needs a privilege that is not here: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", small).Run() })
	at := newSite(t)
	dirs := []string{small} // the first drive: journal and Pebble's state are on it
	for i := range 5 {
		dirs = append(dirs, filepath.Join(at.root, fmt.Sprintf("d%d", i+2)))
	}
	s := serverOn(at, dirs, "--scheme", "4+2")
	l := underLoad(t, s.site, rand.Uint64())
	writesGoOn(t, l, 20*time.Second)
	filler, err := os.Create(filepath.Join(small, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(filler, endless{}); err == nil {
		t.Fatal("the disk was not filled")
	}
	for range 3 {
		writesGoOn(t, l, 30*time.Second)
		time.Sleep(3 * time.Second)
	}
	if !s.alive() {
		t.Fatal("the process died of a full drive")
	}
	_ = filler.Close()
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	writesGoOn(t, l, 30*time.Second)
	l.Stop()
	if err := l.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, failed := l.Counts(); failed["get"] > 0 {
		t.Errorf("%d reads failed", failed["get"])
	}
	repairUntilWhole(t, s.site)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestStopsInTime(t *testing.T) {
	s := newServer(t, 6, "--scheme", "4+2")
	l := underLoad(t, s.site, 1)
	writesGoOn(t, l, 20*time.Second)
	began := time.Now()
	s.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("SIGTERM took %s, at most 10 s", took)
	}
	s.launch()
	l.Stop()
	if err := l.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
}
