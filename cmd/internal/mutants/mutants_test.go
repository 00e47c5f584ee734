package mutants

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// seeds is how many a mutant may live through.
const seeds = "150"

// always is the mutant that also runs where KINTSUGI_MUTANTS is not set.
const always = "a commit of unknown outcome is taken for a success"

// TestMutantsAreUpToDate: the text that each changes is there.
func TestMutantsAreUpToDate(t *testing.T) {
	for _, m := range all {
		m.overlay(t, root(t))
	}
}

// TestMutantsAreCaught builds each mutant's cluster tests and lets its seeds
// run until one fails, as it has to.
func TestMutantsAreCaught(t *testing.T) {
	word, set := os.LookupEnv("KINTSUGI_MUTANTS")
	if testing.Short() {
		t.Skip("takes long")
	}
	for _, m := range all {
		if set && (word == "1" || strings.Contains(m.name, word)) || !set && m.name == always {
			t.Run(strings.ReplaceAll(m.name, " ", "_"), m.caught)
		}
	}
}

// reason is the line in which a seed says why it failed.
var reason = regexp.MustCompile(`KINTSUGI_SEED=\d+: .*`)

// root is the module's.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// overlay makes what the compiler is given.
func (m mutant) overlay(t *testing.T, root string) string {
	t.Helper()
	path := filepath.Join(root, m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m.edits {
		if n := bytes.Count(text, []byte(e.old)); n != 1 {
			t.Fatalf("the mutant must be brought up to date: %s has its text %d times, want once:\n%s", m.file, n, e.old)
		}
		text = bytes.Replace(text, []byte(e.old), []byte(e.new), 1)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, "mutant.go")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := errors.Join(os.WriteFile(changed, text, 0o600), os.WriteFile(overlay, list, 0o600)); err != nil {
		t.Fatal(err)
	}
	return overlay
}

// caught demands that a seed fails, by one of its proofs.
func (m mutant) caught(t *testing.T) {
	root := root(t)
	overlay := m.overlay(t, root)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	binary := filepath.Join(filepath.Dir(overlay), "cluster.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "bubble", "-ldflags=-checklinkname=0", "-overlay", overlay, "-o", binary, "./cmd/internal/cluster")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the mutant does not compile and must be brought up to date: %v\n%s", err, out)
	}
	began := time.Now()
	run := exec.CommandContext(ctx, binary, "-test.run", "^TestNemeses$", "-test.timeout", "14m")
	run.Dir = filepath.Join(root, "cmd/internal/cluster")
	run.Env = append(os.Environ(), "KINTSUGI_SEEDS="+seeds, "KINTSUGI_FAILURES=1", "KINTSUGI_SEED=", "KINTSUGI_FIRST=", "KINTSUGI_LOG=")
	out, err := run.CombinedOutput()
	var failed *exec.ExitError
	text := string(out)
	switch {
	case err == nil:
		t.Fatalf("not noticed in %s seeds", seeds)
	case !errors.As(err, &failed) || ctx.Err() != nil:
		t.Fatalf("did not run to its end: %v, %v", err, ctx.Err())
	case !strings.Contains(text, "--- FAIL: TestNemeses") || strings.Contains(text, "panic: "):
		t.Fatalf("failed, but not by a proof:\n%s", text[max(0, len(text)-4000):])
	}
	line := reason.FindString(text)
	if line == "" {
		t.Fatalf("failed, and names no seed:\n%s", text[max(0, len(text)-4000):])
	}
	t.Logf("caught after %s: %.300s", time.Since(began).Round(time.Second/10), line)
}
