package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
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

	"github.com/minio/minio-go/v7"
	mcredentials "github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	accessKey = "acceptance"
	secretKey = "acceptance-secret"
)

// binary is the built kintsugi, made by TestMain.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv("KINTSUGI_ACCEPTANCE") == "" {
		fmt.Println("skipped: acceptance tests run with KINTSUGI_ACCEPTANCE=1, as scripts/test does")
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "kintsugi-acceptance-")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "kintsugi")
	build := exec.Command("go", "build", "-o", binary, "kintsugi/cmd/kintsugi")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// server is a kintsugi process on drive directories that outlive it.
type server struct {
	t           *testing.T
	root        string
	dirs        []string
	port, admin int
	flags       []string
	log         *os.File

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// newServer makes n empty drive directories and starts a server on them.
func newServer(t *testing.T, n int, flags ...string) *server {
	t.Helper()
	s := &server{t: t, root: t.TempDir(), port: freePort(t), admin: freePort(t), flags: flags}
	for i := range n {
		s.dirs = append(s.dirs, filepath.Join(s.root, fmt.Sprintf("d%d", i+1)))
	}
	s.launch()
	return s
}

// launch opens the log and starts the process, and arranges for its end.
func (s *server) launch() {
	s.t.Helper()
	var err error
	if s.log, err = os.Create(filepath.Join(s.root, "log")); err != nil {
		s.t.Fatal(err)
	}
	// Version 1 of the CLI presigns by Signature V2 if it is not told otherwise.
	if err := os.WriteFile(filepath.Join(s.root, "aws-config"), []byte("[default]\ns3 =\n  signature_version = s3v4\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		s.stop()
		if s.t.Failed() {
			text, _ := os.ReadFile(s.log.Name())
			s.t.Logf("server log, the end:\n%s", text[max(0, len(text)-6000):])
		}
		_ = s.log.Close()
	})
	s.start()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *server) start() {
	s.t.Helper()
	if err := s.startErr(); err != nil {
		s.t.Fatal(err)
	}
}

// startErr starts the process and waits until it is live.
func (s *server) startErr() error {
	args := append([]string{"server", "--address", s.address(), "--admin-address", s.adminAddress()}, s.flags...)
	cmd := exec.Command(binary, append(args, s.dirs...)...)
	cmd.Env = s.env()
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	s.mu.Lock()
	s.cmd, s.done = cmd, done
	s.mu.Unlock()
	for range 600 {
		resp, err := http.Get("http://" + s.adminAddress() + "/live")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-done:
			text, _ := os.ReadFile(s.log.Name())
			return fmt.Errorf("server ended at once:\n%s", text[max(0, len(text)-2000):])
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("server is not live after 30 s")
}

func (s *server) address() string      { return "127.0.0.1:" + strconv.Itoa(s.port) }
func (s *server) adminAddress() string { return "127.0.0.1:" + strconv.Itoa(s.admin) }
func (s *server) url() string          { return "http://" + s.address() }

// signal sends sig and waits for the end, which is due within limit.
func (s *server) signal(sig os.Signal, limit time.Duration) error {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.mu.Unlock()
	select {
	case <-done:
		return nil
	default:
	}
	_ = cmd.Process.Signal(sig)
	select {
	case <-done:
		return nil
	case <-time.After(limit):
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("server did not end within %s of %v", limit, sig)
	}
}

// stop ends the server as an operator would; it has 10 s.
func (s *server) stop() {
	s.t.Helper()
	if err := s.signal(syscall.SIGTERM, 15*time.Second); err != nil {
		s.t.Error(err)
	}
}

func (s *server) kill() { _ = s.signal(syscall.SIGKILL, 10*time.Second) }

// alive says whether the process runs.
func (s *server) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// rss is the process's resident memory in bytes, now and at its highest.
func (s *server) rss() (now, peak int64) {
	s.mu.Lock()
	pid := s.cmd.Process.Pid
	s.mu.Unlock()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		s.t.Fatal(err)
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

// env is the environment that server and clients run in: nothing of the
// machine's own set-up of S3 clients or proxies.
func (s *server) env() []string {
	clean := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(v), "=")
		return strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "RCLONE_") || strings.HasPrefix(name, "KINTSUGI_") || strings.HasSuffix(name, "_PROXY")
	})
	return append(clean,
		"KINTSUGI_ROOT_ACCESS_KEY="+accessKey, "KINTSUGI_ROOT_SECRET_KEY="+secretKey,
		"KINTSUGI_ADMIN_URL=http://"+s.adminAddress(),
		"AWS_ACCESS_KEY_ID="+accessKey, "AWS_SECRET_ACCESS_KEY="+secretKey, "AWS_DEFAULT_REGION=us-east-1",
		"AWS_CONFIG_FILE="+filepath.Join(s.root, "aws-config"), "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=",
		"AWS_ENDPOINT_URL="+s.url(),
		"HOME="+s.root,
	)
}

// run runs a client and fails the test when it fails.
func (s *server) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(10*time.Minute, name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail(out))
	}
	return out
}

func (s *server) try(limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = s.env()
	cmd.Dir = s.root
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func tail(text string) string { return text[max(0, len(text)-3000):] }

// adminCLI runs kintsugi admin and gives what it prints.
func (s *server) adminCLI(args ...string) string {
	s.t.Helper()
	return s.run(binary, append([]string{"admin"}, args...)...)
}

// adminJSON runs kintsugi admin … --json into v.
func (s *server) adminJSON(v any, args ...string) {
	s.t.Helper()
	text := s.adminCLI(append(args, "--json")...)
	if err := json.Unmarshal([]byte(text), v); err != nil {
		s.t.Fatalf("admin %v: %v in %s", args, err, text)
	}
}

// need skips the test where a client is not installed.
func need(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
}

// client is minio-go on the server.
func (s *server) client() *minio.Client {
	s.t.Helper()
	c, err := minio.New(s.address(), &minio.Options{Creds: mcredentials.NewStaticV4(accessKey, secretKey, ""), Region: "us-east-1", MaxRetries: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *server) bucket(name string) {
	s.t.Helper()
	if err := s.client().MakeBucket(context.Background(), name, minio.MakeBucketOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// s3 is the server as a target of load.
type s3 struct {
	c      *minio.Client
	bucket string
}

func (x s3) Put(ctx context.Context, key string, p []byte) error {
	_, err := x.c.PutObject(ctx, x.bucket, key, bytes.NewReader(p), int64(len(p)), minio.PutObjectOptions{DisableMultipart: true})
	return err
}

func (x s3) Get(ctx context.Context, key string) ([]byte, bool, error) {
	o, err := x.c.GetObject(ctx, x.bucket, key, minio.GetObjectOptions{})
	if err == nil {
		defer o.Close()
		var p []byte
		if p, err = io.ReadAll(o); err == nil {
			return p, true, nil
		}
	}
	if minio.ToErrorResponse(err).Code == "NoSuchKey" {
		return nil, false, nil
	}
	return nil, false, err
}

func (x s3) Delete(ctx context.Context, key string) error {
	return x.c.RemoveObject(ctx, x.bucket, key, minio.RemoveObjectOptions{})
}
