package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// signalled starts the program with these arguments against an endpoint that has handle
// answer, and calls f with the process and what it says.
func signalled(t *testing.T, handle http.HandlerFunc, f func(p *os.Process), args ...string) (state *os.ProcessState, said string) {
	t.Helper()
	server := httptest.NewServer(handle)
	defer server.Close()
	c := exec.Command(os.Args[0], append(args, server.URL)...)
	c.Env = append(os.Environ(), envMain+"=1", envAccessKey+"=AKIDEXAMPLE0000", envSecretKey+"=a-secret-key-of-some-length")
	var text bytes.Buffer
	c.Stderr = &text
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	f(c.Process)
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState, text.String()
}

// TestExitCodeTellsTheSignal: 128 and its number, as shells have it.
func TestExitCodeTellsTheSignal(t *testing.T) {
	for sig, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		asked := make(chan bool, 10)
		state, said := signalled(t, func(_ http.ResponseWriter, r *http.Request) {
			asked <- true
			<-r.Context().Done()
		}, func(p *os.Process) {
			<-asked
			if err := p.Signal(sig); err != nil {
				t.Error(err)
			}
		}, "admin", "status", "--admin-url")
		if state.ExitCode() != want || !strings.Contains(said, "interrupted") {
			t.Errorf("%s: %s: %s", sig, state, said)
		}
	}
}

// TestSecondSignalEndsBench: the first one has the objects removed, and says where they
// are; where that takes too long the second ends the process.
func TestSecondSignalEndsBench(t *testing.T) {
	putting, removing := make(chan bool, 100), make(chan bool, 100)
	state, said := signalled(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case r.Method == http.MethodPut:
			select {
			case putting <- true:
			default:
			}
			w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
		case r.URL.Query().Has("list-type"):
			removing <- true
			<-r.Context().Done()
		}
	}, func(p *os.Process) {
		for _, wait := range []chan bool{putting, removing} {
			<-wait
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
	}, "bench", "--op", "put", "--size", "1", "-c", "1", "-d", "1h", "--bucket", "bkt", "--endpoint")
	if s, ok := state.Sys().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %s", state)
	}
	if !strings.Contains(said, "bucket bkt under bench/") {
		t.Errorf("said: %s", said)
	}
}

// TestServerOutlivesWhoReadsItsLog: what reads the log may end, as where journald is
// started anew; the store goes on, and ends as it is told to.
func TestServerOutlivesWhoReadsItsLog(t *testing.T) {
	c := exec.Command(os.Args[0], "server", "--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", t.TempDir())
	c.Env = append(os.Environ(), envMain+"=1", envAccessKey+"=AKIDEXAMPLE0000", envSecretKey+"=a-secret-key-of-some-length")
	logged, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill() }()
	if _, err := said.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = logged.Close()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil { // which it logs
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, said); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}
