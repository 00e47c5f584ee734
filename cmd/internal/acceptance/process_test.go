package acceptance

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a running kintsugi whose data outlives it.
type process struct {
	t     *testing.T
	name  string
	admin string // host:port of the route that says it lives
	args  []string
	env   []string
	path  string // of the binary; "": the one that is built
	log   *os.File

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// newProcess opens the log in dir and arranges for the end; start starts it.
func newProcess(t *testing.T, dir, name, admin string, env, args []string) *process {
	t.Helper()
	p := &process{t: t, name: name, admin: admin, args: args, env: env}
	var err error
	if p.log, err = os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("log of %s, the end:\n%s", name, p.tail(6000))
		}
		_ = p.log.Close()
	})
	return p
}

func (p *process) tail(n int) string {
	text, _ := os.ReadFile(p.log.Name())
	return string(text[max(0, len(text)-n):])
}

// address is the one that its --address names.
func (p *process) address() string { return p.args[slices.Index(p.args, "--address")+1] }

// launch starts the process and waits until it is ready.
func (p *process) launch() {
	p.t.Helper()
	err := p.begin()
	if err == nil {
		err = p.lives()
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// begin starts the process.
func (p *process) begin() error {
	path := p.path
	if path == "" {
		path = binary
	}
	cmd := exec.Command(path, p.args...)
	cmd.Env = p.env
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	return nil
}

// lives waits until the process says that it is ready, or that it lives where
// there is nothing else that it could say.
func (p *process) lives() error {
	client := &http.Client{Timeout: 5 * time.Second}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, path := range []string{"/ready", "/live"} {
			resp, err := client.Get("http://" + p.admin + path)
			if err != nil {
				break
			}
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			if resp.StatusCode != http.StatusNotFound {
				break
			}
		}
		if !p.alive() {
			return fmt.Errorf("%s ended at once:\n%s", p.name, p.tail(2000))
		}
	}
	return fmt.Errorf("%s is not ready after 30 s", p.name)
}

// signal sends sig and waits for the end, which is due within limit.
func (p *process) signal(sig os.Signal, limit time.Duration) error {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if cmd == nil || !p.alive() {
		return nil
	}
	_ = cmd.Process.Signal(sig)
	select {
	case <-done:
		return nil
	case <-time.After(limit):
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s did not end within %s of %v", p.name, limit, sig)
	}
}

// stop ends the process as an operator would; it has 10 s.
func (p *process) stop() {
	p.t.Helper()
	if err := p.signal(syscall.SIGTERM, 15*time.Second); err != nil {
		p.t.Error(err)
	}
}

func (p *process) kill() { _ = p.signal(syscall.SIGKILL, 10*time.Second) }

// pause freezes the process, resume lets it go on.
func (p *process) pause()  { p.send(syscall.SIGSTOP) }
func (p *process) resume() { p.send(syscall.SIGCONT) }

func (p *process) send(sig syscall.Signal) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// alive says whether the process runs.
func (p *process) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// rss is the process's resident memory in bytes, now and at its highest.
func (p *process) rss() (now, peak int64) {
	p.mu.Lock()
	pid := p.cmd.Process.Pid
	p.mu.Unlock()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		p.t.Fatal(err)
	}
	field := func(name string) int64 {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name+":"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				return kb << 10
			}
		}
		return 0
	}
	return field("VmRSS"), field("VmHWM")
}
