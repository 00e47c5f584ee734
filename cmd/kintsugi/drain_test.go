package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"kintsugi/repair"
	"kintsugi/storagenode"
)

// TestDrainIsWatchedOverAChangeOfLeaders: a repairer that dies does not end the
// watch, and one that does not know of the drive yet is not taken for a drained
// drive.
func TestDrainIsWatchedOverAChangeOfLeaders(t *testing.T) {
	t.Setenv(envAccessKey, "AKIDEXAMPLE0000")
	t.Setenv(envSecretKey, "a-secret-key-of-some-length")
	id := storagenode.DriveID{1}
	status := func(drives ...repair.DriveStatus) any { return adminStatus{Status: repair.Status{Drives: drives}} }
	answers := []any{
		commanded{map[storagenode.DriveID]storagenode.DriveState{id: storagenode.DriveDraining}},
		status(repair.DriveStatus{ID: id, State: storagenode.DriveDraining}),
		nil, // the leader is gone
		status(),
		status(repair.DriveStatus{ID: id, State: storagenode.DriveDrained}),
	}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer := answers[min(asked, len(answers)-1)]
		asked++
		if answer == nil {
			w.WriteHeader(http.StatusBadGateway)
			answer = map[string]string{"error": "the leading repairer does not answer"}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer server.Close()
	var out, progress bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&progress)
	root.SetArgs([]string{"admin", "--admin-url", server.URL, "drives", "drain", "--watch", "/d1"})
	if err := root.Execute(); err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	if asked != len(answers) || !strings.Contains(out.String(), "it may be taken out") || !strings.Contains(progress.String(), "the drain goes on, but") {
		t.Errorf("%d questions\n%s%s", asked, &out, &progress)
	}
}

// TestDrainThatIsNoLongerWatched goes on, and who pressed Ctrl-C is told.
func TestDrainThatIsNoLongerWatched(t *testing.T) {
	t.Setenv(envAccessKey, "AKIDEXAMPLE0000")
	t.Setenv(envSecretKey, "a-secret-key-of-some-length")
	ctx, cancel := context.WithCancel(t.Context())
	id := storagenode.DriveID{1}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(adminStatus{Status: repair.Status{Drives: []repair.DriveStatus{{ID: id, State: storagenode.DriveDraining}}}})
		cancel()
	}))
	defer server.Close()
	client, err := newAdminClient(server.URL, "us-east-1", "")
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot()
	root.SetErr(&bytes.Buffer{})
	root.SetContext(ctx)
	err = watchDrain(root, client, commanded{map[storagenode.DriveID]storagenode.DriveState{id: storagenode.DriveDraining}})
	text, code := ending(err, syscall.SIGINT)
	if code != 130 || !strings.HasPrefix(text, "interrupted, but the drain goes on") {
		t.Errorf("exit code %d: %s", code, text)
	}
}

// TestDrainOfANode: nodes and zones are asked for as such, and nothing named is refused
// before anybody is asked.
func TestDrainOfANode(t *testing.T) {
	t.Setenv(envAccessKey, "AKIDEXAMPLE0000")
	t.Setenv(envSecretKey, "a-secret-key-of-some-length")
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+"?"+r.URL.RawQuery)
		_, _ = w.Write([]byte("{}"))
	}))
	defer server.Close()
	for line, want := range map[string]string{
		"drives drain --node n3 --node n4":   "/admin/v1/drives/drain?node=n3&node=n4",
		"drives undrain n1:/d1 --zone rack1": "/admin/v1/drives/undrain?drive=n1%3A%2Fd1&zone=rack1",
		"what-if --zone rack1":               "/admin/v1/what-if?zone=rack1",
		"drives drain":                       "",
		"what-if --json":                     "",
	} {
		asked = nil
		root := newRoot()
		root.SetOut(io.Discard)
		root.SetArgs(append([]string{"admin", "--admin-url", server.URL}, strings.Fields(line)...))
		err := root.ExecuteContext(t.Context())
		if got := strings.Join(asked, " "); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: asked %q, %v", line, got, err)
		}
	}
}
