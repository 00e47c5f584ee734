package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv/kvtest"
)

// TestNobodyReadsTheLog: a server whose standard error is full, for nobody reads it,
// goes on noticing what becomes of its drives, and stops when it is told to.
func TestNobodyReadsTheLog(t *testing.T) {
	t.Setenv(envAccessKey, "root")
	t.Setenv(envSecretKey, "root-secret")
	dir := t.TempDir()
	fifo := filepath.Join(dir, "stderr")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kept.Close() })
	stderr, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	admin := kvtest.FreeAddress(t)
	t.Setenv("KINTSUGI_ADMIN_URL", "http://"+admin)
	server := exec.Command(os.Args[0], "server", "--address", kvtest.FreeAddress(t), "--admin-address", admin,
		filepath.Join(dir, "d1"), filepath.Join(dir, "d2"), filepath.Join(dir, "d3"))
	server.Env = append(os.Environ(), envMain+"=1")
	server.Stderr = stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		said := make([]byte, 16<<10)
		_ = kept.SetReadDeadline(time.Now().Add(time.Second))
		n, _ := kept.Read(said) // or nothing
		t.Logf("it said first: %s", said[:n])
	})
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	defer server.Process.Kill() //nolint:errcheck // or it has ended
	away := func(want int) {
		t.Helper()
		var out bytes.Buffer
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			out.Reset()
			root := newRoot()
			root.SetOut(&out)
			root.SetErr(io.Discard)
			root.SetArgs([]string{"admin", "drives"})
			if err := root.ExecuteContext(t.Context()); err != nil {
				out.WriteString(err.Error())
			} else if strings.Count(out.String(), "DOWN") == want && strings.Count(out.String(), "ACTIVE") == 3-want {
				return
			}
		}
		t.Fatalf("want %d of 3 drives away:\n%s", want, out.String())
	}
	away(0)
	for n := syscall.Getpagesize(); n > 0; { // until not a byte more goes in
		_ = kept.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := kept.Write(make([]byte, n)); err != nil {
			n /= 2
		}
	}
	for _, d := range []string{"d1", "d2"} {
		d = filepath.Join(dir, d)
		if err := os.Rename(d, d+".away"); err != nil {
			t.Fatal(err)
		}
		away(1)
		if err := os.Rename(d+".away", d); err != nil {
			t.Fatal(err)
		}
		away(0)
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(60 * time.Second):
		t.Error("it does not stop")
	}
}

// stubborn is a writer that nobody reads until it is let go.
type stubborn struct {
	asked, letGo chan struct{}
	got          bytes.Buffer
}

func (s *stubborn) Write(p []byte) (int, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-s.letGo
	return s.got.Write(p)
}

// TestLogThatIsReadLate: it says how much of it is missing where, and all else is there
// in order.
func TestLogThatIsReadLate(t *testing.T) {
	to := &stubborn{asked: make(chan struct{}, 1), letGo: make(chan struct{})}
	u := &unhurried{to: to}
	var want bytes.Buffer
	line := func(text string, kept bool) {
		text = fmt.Sprintf("%-4095s\n", text)
		if n, err := io.WriteString(u, text); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
		if kept {
			want.WriteString(text)
		}
	}
	line("first", true)
	<-to.asked
	for i := range waitingLogs/4096 + 7 {
		line(fmt.Sprint(i), i < waitingLogs/4096)
	}
	_, _ = io.WriteString(u, "short, but late\n")
	u.flush(time.Millisecond)
	if to.got.Len() > 0 {
		t.Error("it was read all the same")
	}
	want.WriteString("kintsugi: 8 lines of the log are missing here: it was not read\n")
	close(to.letGo)
	u.flush(time.Minute)
	line("last", true)
	u.flush(time.Minute)
	if to.got.String() != want.String() {
		t.Errorf("%d bytes, want %d", to.got.Len(), want.Len())
	}
}
