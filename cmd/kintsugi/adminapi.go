package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"kintsugi/cmd/internal/embedded"
	"kintsugi/gateway/console"
	"kintsugi/metadata"
	"kintsugi/metadata/kv/journal"
	"kintsugi/repair"
	"kintsugi/storagenode"
)

// adminAPI is what the operator may ask of the store.
type adminAPI struct{ store *embedded.Store }

// adminStatus is the answer of GET /admin/v1/status.
type adminStatus struct {
	Version string `json:"version"`
	repair.Status
	Metadata journal.Status `json:"metadata"`
}

// verifyLine is a line of the answer of POST /admin/v1/verify; the last has
// Done.
type verifyLine struct {
	repair.VerifyReport
	Done bool `json:"done"`
}

// repairLine is a line of the answer of POST /admin/v1/repair.
type repairLine struct {
	repair.Progress
	Report *repair.Report `json:"report,omitempty"`
}

func (a *adminAPI) routes() []console.Route {
	return []console.Route{
		{Method: "GET", Path: "/admin/v1/status", Answer: a.status},
		{Method: "GET", Path: "/admin/v1/drives", Answer: a.drives},
		{Method: "POST", Path: "/admin/v1/drives/replace", Answer: a.replace},
		{Method: "GET", Path: "/admin/v1/what-if", Answer: a.whatIf},
		{Method: "POST", Path: "/admin/v1/repair", Stream: a.repair},
		{Method: "POST", Path: "/admin/v1/verify", Stream: a.verify},
		{Method: "POST", Path: "/admin/v1/start", Answer: a.start},
		{Method: "POST", Path: "/admin/v1/pause", Answer: a.pause},
		{Method: "POST", Path: "/admin/v1/resume", Answer: a.resume},
		{Method: "POST", Path: "/admin/v1/orphans/agree", Answer: a.agree},
	}
}

func (a *adminAPI) status(*http.Request) (any, error) {
	st := adminStatus{Version: version(), Status: a.store.Repairer.Status(), Metadata: a.store.Journal.Status()}
	st.Whole = st.Whole && st.Metadata.Degraded == ""
	return st, nil
}

func (a *adminAPI) drives(*http.Request) (any, error) {
	return map[string]any{"drives": a.store.Repairer.Status().Drives}, nil
}

func (a *adminAPI) replace(r *http.Request) (any, error) {
	if err := a.store.Node.Replace(r.Context(), r.URL.Query().Get("dir")); err != nil {
		return nil, &console.Error{Status: http.StatusConflict, Message: err.Error()}
	}
	return map[string]bool{"replaced": true}, nil
}

func (a *adminAPI) whatIf(r *http.Request) (any, error) {
	var ids []storagenode.DriveID
	for _, text := range r.URL.Query()["drive"] {
		id, err := a.drive(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return a.store.Repairer.WhatIf(r.Context(), ids)
}

// drive finds a drive by its id or its directory.
func (a *adminAPI) drive(text string) (storagenode.DriveID, error) {
	for _, d := range a.store.Node.Reports() {
		if d.Dir == text || d.ID.String() == text {
			return d.ID, nil
		}
	}
	return storagenode.DriveID{}, &console.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no drive %q: name an id or a directory as `kintsugi admin drives` lists them", text)}
}

// look has every drive's identity checked now, so that nothing is said of one
// that was emptied a moment ago.
func (a *adminAPI) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	a.store.Node.Check(ctx)
}

func (a *adminAPI) repair(r *http.Request, send func(any) error) error {
	a.look(r.Context())
	gone := error(nil)
	rep, err := a.store.Repairer.RepairNow(r.Context(), func(p repair.Progress) {
		if p.Phase != repair.Healed { // not said before the journal is whole too
			gone = errors.Join(gone, send(repairLine{Progress: p}))
		}
	})
	if err != nil {
		return err
	}
	end := repair.Progress{Phase: repair.NotHealed}
	if rep.Whole {
		end.Phase = repair.Healed
		if why := a.awaitJournal(r.Context()); why != "" {
			rep.Whole = false
			end = repair.Progress{Phase: repair.NotHealed, Why: "all blobs are whole, but metadata is not: " + why}
		}
	}
	return errors.Join(gone, send(repairLine{Progress: end, Report: &rep}))
}

// awaitJournal gives the metadata journal time to take in drives again, and
// says what it still lacks.
func (a *adminAPI) awaitJournal(ctx context.Context) (why string) {
	for range 600 {
		if why = a.store.Journal.Status().Degraded; why == "" || ctx.Err() != nil {
			return why
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return why
}

func (a *adminAPI) verify(r *http.Request, send func(any) error) error {
	q := r.URL.Query()
	var filter repair.Filter
	if name := q.Get("bucket"); name != "" {
		b, err := a.store.Catalog.Bucket(r.Context(), name)
		if err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
		filter.Bucket, filter.Key = b.ID, q.Get("key")
		if filter.Key != "" {
			if _, err := a.store.Catalog.Object(r.Context(), b.ID, filter.Key); errors.Is(err, metadata.ErrNoSuchKey) {
				return fmt.Errorf("%s/%s: %w", name, filter.Key, err)
			}
		}
	}
	a.look(r.Context())
	lines := newThrottle()
	rep, err := a.store.Repairer.VerifyAll(r.Context(), filter, func(rep repair.VerifyReport) {
		if lines.due() {
			_ = send(verifyLine{VerifyReport: rep}) // the end tells
		}
	})
	if err != nil {
		return err
	}
	return send(verifyLine{VerifyReport: rep, Done: true})
}

func (a *adminAPI) start(r *http.Request) (any, error) {
	kind := repair.Kind(r.URL.Query().Get("pass"))
	if !a.store.Repairer.Start(kind) {
		return nil, &console.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("no pass %q", kind)}
	}
	return map[string]any{"started": kind}, nil
}

func (a *adminAPI) pause(*http.Request) (any, error) {
	a.store.Repairer.Pause()
	return map[string]bool{"paused": true}, nil
}

func (a *adminAPI) resume(*http.Request) (any, error) {
	a.store.Repairer.Resume()
	return map[string]bool{"paused": false}, nil
}

func (a *adminAPI) agree(*http.Request) (any, error) {
	a.store.Repairer.AgreeToOrphans()
	return map[string]bool{"agreed": true}, nil
}
