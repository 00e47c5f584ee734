package mutants

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// root is the module's.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// asks is a file for each package that a mutant changes.
const asks = `package %s

import (
	"os"
	"sync"
)

var kept sync.Map // for mutants that remember

var brokenPromise = os.Getenv("KINTSUGI_BROKEN")

func isBroken(promise string) bool { return promise == brokenPromise }
`

// overlay makes what the compiler is given: all sources that mutants change.
func overlay(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	add := func(path string, text []byte) {
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(replace[path], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sources := map[string][]byte{}
	for _, m := range all {
		path := filepath.Join(root, m.file)
		if sources[path] == nil {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sources[path] = text
		}
		for _, e := range m.edits {
			if n := bytes.Count(sources[path], []byte(e.old)); n != 1 {
				t.Fatalf("%q must be brought up to date: %s has its text %d times, want once:\n%s", m.promise, m.file, n, e.old)
			}
			asked := strings.ReplaceAll(e.new, "BROKEN", fmt.Sprintf("isBroken(%q)", m.promise))
			sources[path] = bytes.Replace(sources[path], []byte(e.old), []byte(asked), 1)
		}
	}
	for path, text := range sources {
		add(path, text)
		if file := filepath.Join(filepath.Dir(path), "broken.go"); replace[file] == "" {
			add(file, fmt.Appendf(nil, asks, filepath.Base(filepath.Dir(path))))
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	file := filepath.Join(dir, "overlay.json")
	if err := errors.Join(err, os.WriteFile(file, list, 0o600)); err != nil {
		t.Fatal(err)
	}
	return file
}

// binary builds the cluster's tests with all mutants in them.
func binary(t *testing.T, root string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mutants.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "bubble", "-ldflags=-checklinkname=0", "-overlay", overlay(t, root), "-o", path, "./cmd/internal/cluster")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the mutants do not compile and must be brought up to date: %v\n%s", err, out)
	}
	return path
}

// TestMutantsAreUpToDate: the text that each changes is there.
func TestMutantsAreUpToDate(t *testing.T) {
	overlay(t, root(t))
}

// TestMutantsAreCaught lets each mutant live through seeds until one fails, as
// it has to. With nothing broken all of them pass.
func TestMutantsAreCaught(t *testing.T) {
	word := os.Getenv("KINTSUGI_MUTANTS")
	if word == "" {
		t.Skip("takes a minute: KINTSUGI_MUTANTS=1")
	}
	root := root(t)
	t.Chdir(filepath.Join(root, "cmd/internal/cluster"))
	trial := trial{binary: binary(t, root)}
	t.Run("all", func(t *testing.T) { // ends when they have
		sound := map[string]bool{}
		for _, m := range all {
			if word != "1" && !strings.Contains(m.promise, word) {
				continue
			}
			t.Run(m.promise, func(t *testing.T) {
				t.Parallel()
				trial.catches(t, m)
			})
			if !sound[m.nemeses] {
				sound[m.nemeses] = true
				t.Run("nothing is broken, "+m.nemeses, func(t *testing.T) {
					t.Parallel()
					if out, err := trial.run(t, "", m.nemeses, soundSeeds); err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				})
			}
		}
	})
}

// How many seeds a mutant may live through, and how many nothing broken must.
// Most mutants are caught by the first or the second.
const (
	seeds      = 40
	soundSeeds = 3
)

type trial struct{ binary string }

// run lets seeds run until one fails.
func (tr trial) run(t *testing.T, promise, nemeses string, seeds int) (out string, err error) {
	run := exec.CommandContext(t.Context(), tr.binary, "-test.run", "^TestNemeses$", "-test.timeout", "10m")
	run.Env = append(os.Environ(), "GOMAXPROCS=1", "KINTSUGI_BROKEN="+promise, "KINTSUGI_ONLY="+nemeses, "KINTSUGI_SEEDS="+strconv.Itoa(seeds),
		"KINTSUGI_FAILURES=1", "KINTSUGI_SEED=", "KINTSUGI_FIRST=", "KINTSUGI_PART=", "KINTSUGI_LOG=")
	text, err := run.CombinedOutput()
	t.Logf("CPU: %s", run.ProcessState.UserTime()+run.ProcessState.SystemTime())
	return string(text), err
}

// reason is the line in which a seed says why it failed.
var reason = regexp.MustCompile(`KINTSUGI_SEED=\d+: .*`)

// catches demands that a seed fails, by one of its proofs.
func (tr trial) catches(t *testing.T, m mutant) {
	text, err := tr.run(t, m.promise, m.nemeses, seeds)
	line := reason.FindString(text)
	end := text[max(0, len(text)-4000):]
	var failed *exec.ExitError
	switch {
	case err == nil:
		t.Fatalf("not noticed in %d seeds", seeds)
	case !errors.As(err, &failed) || t.Context().Err() != nil:
		t.Fatalf("did not run to its end: %v, %v", err, t.Context().Err())
	case !strings.Contains(text, "--- FAIL: TestNemeses") || strings.Contains(text, "panic: "):
		if at := strings.Index(text, "panic: "); at >= 0 { // what ran comes first
			end = text[at:min(len(text), at+8000)]
		}
		t.Fatalf("failed, but not by a proof:\n%s", end)
	case line == "":
		t.Fatalf("failed, and names no seed:\n%s", end)
	}
	t.Logf("caught: %.300s", line)
}
