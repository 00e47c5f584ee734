package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	mcredentials "github.com/minio/minio-go/v7/pkg/credentials"

	"kintsugi/metadata/kv/kvtest"
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
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "kintsugi/cmd/kintsugi") // as scripts/run does
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// site is a running store, one process or many, as its clients see it.
type site struct {
	t         *testing.T
	root      string   // a folder for clients
	s3, admin []string // host:port, any of which may be used
	more      []string // of the environment
	broken    []span   // so far; see judgeWaits
	// access and secret are the root credentials.
	access, secret string
	// keeps has servers keep in memory what they do by themselves; otherwise
	// every read asks the drives, so that it says something of them.
	keeps bool
}

// newSite makes the clients' folder, with what they need in it.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, root: t.TempDir(), access: accessKey, secret: secretKey}
	s.bound()
	// Version 1 of the CLI presigns by Signature V2 if it is not told otherwise.
	if err := os.WriteFile(filepath.Join(s.root, "aws-config"), []byte("[default]\ns3 =\n  signature_version = s3v4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// longestTest is more than any test takes, on a slow machine as well.
const longestTest = 20 * time.Minute

// bound ends the run where a test hangs, with what the test and the store say.
func (s *site) bound() {
	limit := longestTest
	if os.Getenv("KINTSUGI_LONG") != "" {
		limit *= 3
	}
	timer := time.AfterFunc(limit, func() {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stdout, 2)
		logs, _ := filepath.Glob(filepath.Join(s.root, "*.log"))
		for _, path := range logs {
			text, _ := os.ReadFile(path)
			fmt.Printf("\nlog of %s, the end:\n%s", filepath.Base(path), tail(string(text)))
		}
		out, err := s.try(20*time.Second, binary, "admin", "status")
		fmt.Printf("\nadmin status: %v\n%s\n--- FAIL: %s hangs: %s\n", err, tail(out), s.t.Name(), limit)
		os.Exit(1)
	})
	s.t.Cleanup(func() { timer.Stop() })
}

// keepingSite is newSite for servers that keep what they do by themselves.
func keepingSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.keeps = true
	return s
}

func (s *site) address() string { return s.s3[0] }
func (s *site) url() string     { return "http://" + s.address() }

// clean is the machine's environment without its own set-up of S3 clients or
// proxies.
func clean() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(v), "=")
		return strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "RCLONE_") || strings.HasPrefix(name, "KINTSUGI_") || strings.HasSuffix(name, "_PROXY")
	})
}

// env is the environment that servers and clients run in.
func (s *site) env() []string {
	all := append(append(clean(), s.more...),
		"KINTSUGI_ROOT_ACCESS_KEY="+s.access, "KINTSUGI_ROOT_SECRET_KEY="+s.secret,
		"AWS_ACCESS_KEY_ID="+s.access, "AWS_SECRET_ACCESS_KEY="+s.secret, "AWS_DEFAULT_REGION=us-east-1",
		"AWS_CONFIG_FILE="+filepath.Join(s.root, "aws-config"), "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=",
		"HOME="+s.root, "RESTIC_PASSWORD=password",
	)
	if !s.keeps {
		all = append(all, "KINTSUGI_KEPT_MEMORY=0")
	}
	if len(s.s3) > 0 {
		all = append(all, "AWS_ENDPOINT_URL="+s.url(), "KINTSUGI_ADMIN_URL=http://"+s.admin[0])
	}
	return all
}

// server is a store in one process on drive directories that outlive it.
type server struct {
	*site
	*process
	dirs []string
}

// newServer makes n empty drive directories and starts a server on them.
func newServer(t *testing.T, n int, flags ...string) *server {
	t.Helper()
	return serverAt(newSite(t), n, flags...)
}

// serverAt is newServer with what a site says of it.
func serverAt(s *site, n int, flags ...string) *server {
	s.t.Helper()
	var dirs []string
	for i := range n {
		dirs = append(dirs, filepath.Join(s.root, fmt.Sprintf("d%d", i+1)))
	}
	return serverOn(s, dirs, flags...)
}

// serverOn starts a server on directories.
func serverOn(s *site, dirs []string, flags ...string) *server {
	s.t.Helper()
	s.s3 = []string{kvtest.FreeAddress(s.t)}
	s.admin = []string{kvtest.FreeAddress(s.t)}
	args := append([]string{"server", "--address", s.s3[0], "--admin-address", s.admin[0]}, flags...)
	p := newProcess(s.t, s.root, "server", s.admin[0], s.env(), append(args, dirs...))
	p.launch()
	return &server{site: s, process: p, dirs: dirs}
}

// everyStore runs a test of real clients on a store in one process and on a
// cluster of processes, side by side with each other and with other tests: most
// clients use one processor.
func everyStore(t *testing.T, test func(t *testing.T, s *site)) {
	t.Parallel()
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		test(t, clusterAt(keepingSite(t), "").site)
	})
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		test(t, serverAt(keepingSite(t), 6, "--scheme", "4+2").site)
	})
}

// run runs a client and fails the test when it fails.
func (s *site) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(10*time.Minute, name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail(out))
	}
	return out
}

func (s *site) try(limit time.Duration, name string, args ...string) (string, error) {
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
func (s *site) adminCLI(args ...string) string {
	s.t.Helper()
	return s.run(binary, append([]string{"admin"}, args...)...)
}

// adminJSON runs kintsugi admin … --json into v.
func (s *site) adminJSON(v any, args ...string) {
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

// client is minio-go on one of the store's addresses.
func (s *site) client() *minio.Client {
	s.t.Helper()
	return s.clientOf(s.address())
}

func (s *site) clientOf(address string) *minio.Client {
	s.t.Helper()
	c, err := minio.New(address, &minio.Options{Creds: mcredentials.NewStaticV4(s.access, s.secret, ""), Region: "us-east-1", MaxRetries: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *site) bucket(name string) {
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

// Put stores large payloads by multipart, as clients do.
func (x s3) Put(ctx context.Context, key string, p []byte) error {
	if len(p) > leastPart {
		return x.putParts(ctx, key, p)
	}
	_, err := x.c.PutObject(ctx, x.bucket, key, bytes.NewReader(p), int64(len(p)), minio.PutObjectOptions{DisableMultipart: true})
	return err
}

// leastPart is what a part other than the last has at least.
const leastPart = 5 << 20

func (x s3) putParts(ctx context.Context, key string, p []byte) error {
	core := minio.Core{Client: x.c}
	id, err := core.NewMultipartUpload(ctx, x.bucket, key, minio.PutObjectOptions{})
	if err != nil {
		return err
	}
	var parts []minio.CompletePart
	for n, part := range slices.Collect(slices.Chunk(p, leastPart)) {
		done, err := core.PutObjectPart(ctx, x.bucket, key, id, n+1, bytes.NewReader(part), int64(len(part)), minio.PutObjectPartOptions{})
		if err != nil {
			return err
		}
		parts = append(parts, minio.CompletePart{PartNumber: n + 1, ETag: done.ETag})
	}
	_, err = core.CompleteMultipartUpload(ctx, x.bucket, key, id, parts, minio.PutObjectOptions{})
	return err
}

func (x s3) Get(ctx context.Context, key string) ([]byte, bool, error) {
	var p []byte // what came, also where not all did
	o, err := x.c.GetObject(ctx, x.bucket, key, minio.GetObjectOptions{})
	if err == nil {
		defer o.Close()
		if p, err = io.ReadAll(o); err == nil {
			return p, true, nil
		}
	}
	if minio.ToErrorResponse(err).Code == "NoSuchKey" {
		return nil, false, nil
	}
	return p, false, err
}

func (x s3) Delete(ctx context.Context, key string) error {
	return x.c.RemoveObject(ctx, x.bucket, key, minio.RemoveObjectOptions{})
}
