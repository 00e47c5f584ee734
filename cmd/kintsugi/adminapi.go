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
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv/journal"
	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc"
)

// adminAPI is what the operator may ask of a store. The process that repairs
// answers: `kintsugi server`, or the leading repairer of a cluster.
type adminAPI struct {
	repairer *repair.Repairer
	catalog  *catalog.Catalog
	drives   storagenode.Reporter
	// look has the drives looked at now, so that nothing is said of one that
	// was emptied a moment ago.
	look func(context.Context)
	// nodes are those of a cluster, as this process finds them at their addresses;
	// nil: there is but this one.
	nodes func() []rpc.NodeState
	// replace takes an empty directory for its drive's replacement.
	replace  func(ctx context.Context, dir string) error
	metadata func() metadataStatus
	// check reads what the metadata is kept in, so that metadata speaks of what is
	// there now; nil: that is not for this process to do.
	check func(context.Context)
}

// metadataStatus says how the metadata is kept.
type metadataStatus struct {
	Engine  string `json:"engine"`
	Summary string `json:"summary"`
	// Degraded says what keeps the metadata from its full tolerance.
	Degraded string          `json:"degraded,omitempty"`
	Journal  *journal.Status `json:"journal,omitempty"`
}

// adminStatus is the answer of GET /admin/v1/status.
type adminStatus struct {
	Version string `json:"version"`
	repair.Status
	Metadata metadataStatus `json:"metadata"`
	// Unreached are nodes that announce themselves at an address where they are not.
	Unreached []unreachedNode `json:"unreached,omitempty"`
}

// embeddedAPI is the API of a store in one process.
func embeddedAPI(store *embedded.Store) *adminAPI {
	return &adminAPI{
		repairer: store.Repairer, catalog: store.Catalog, drives: store.Node,
		look: store.Node.Check, replace: store.Node.Replace, check: store.Journal.Check,
		metadata: func() metadataStatus {
			st := store.Journal.Status()
			return metadataStatus{
				Engine: "journal", Degraded: st.Degraded, Journal: &st,
				Summary: fmt.Sprintf("commit %d on %d drives", st.Commit, len(st.Members)),
			}
		},
	}
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
		{Method: "GET", Path: "/admin/v1/drives", Answer: a.listDrives},
		{Method: "GET", Path: "/admin/v1/nodes", Answer: a.listNodes},
		{Method: "POST", Path: "/admin/v1/nodes/forget", Answer: a.forget},
		{Method: "GET", Path: "/admin/v1/pgs", Answer: a.listGroups},
		{Method: "POST", Path: "/admin/v1/drives/replace", Answer: a.replaceDrive},
		{Method: "POST", Path: "/admin/v1/drives/drain", Answer: a.drain},
		{Method: "POST", Path: "/admin/v1/drives/undrain", Answer: a.undrain},
		{Method: "GET", Path: "/admin/v1/what-if", Answer: a.whatIf},
		{Method: "POST", Path: "/admin/v1/repair", Stream: a.repair},
		{Method: "POST", Path: "/admin/v1/verify", Stream: a.verify},
		{Method: "POST", Path: "/admin/v1/start", Answer: a.start},
		{Method: "POST", Path: "/admin/v1/pause", Answer: a.pause},
		{Method: "POST", Path: "/admin/v1/resume", Answer: a.resume},
		{Method: "POST", Path: "/admin/v1/orphans/agree", Answer: a.agree},
	}
}

func (a *adminAPI) status(r *http.Request) (any, error) {
	st := adminStatus{Version: version(), Status: a.repairer.StatusNow(r.Context()), Metadata: a.metadata(), Unreached: a.unreachedNodes()}
	st.Whole = st.Whole && st.Metadata.Degraded == ""
	return st, nil
}

func (a *adminAPI) listDrives(*http.Request) (any, error) {
	return map[string]any{"drives": a.repairer.Status().Drives}, nil
}

func (a *adminAPI) replaceDrive(r *http.Request) (any, error) {
	if err := a.replace(r.Context(), r.URL.Query().Get("dir")); err != nil {
		return nil, &console.Error{Status: http.StatusConflict, Message: err.Error()}
	}
	return map[string]bool{"replaced": true}, nil
}

func (a *adminAPI) whatIf(r *http.Request) (any, error) {
	ids, err := a.drivesOf(r)
	if err != nil {
		return nil, err
	}
	return a.repairer.WhatIf(r.Context(), ids)
}

func (a *adminAPI) drain(r *http.Request) (any, error) { return a.command(r, a.repairer.Drain) }

func (a *adminAPI) undrain(r *http.Request) (any, error) { return a.command(r, a.repairer.Undrain) }

// commanded is the answer of drain and undrain: the state that each drive has
// now, by its id.
type commanded struct {
	Drives map[storagenode.DriveID]storagenode.DriveState `json:"drives"`
}

func (a *adminAPI) command(r *http.Request, do func(context.Context, storagenode.DriveID) (storagenode.DriveState, error)) (any, error) {
	ids, err := a.drivesOf(r)
	if err != nil {
		return nil, err
	}
	answer := commanded{map[storagenode.DriveID]storagenode.DriveState{}}
	for _, id := range ids {
		state, err := do(r.Context(), id)
		if errors.Is(err, repair.ErrNotDrainable) {
			return nil, &console.Error{Status: http.StatusConflict, Message: err.Error()}
		}
		if err != nil {
			return nil, err
		}
		answer.Drives[id] = state
	}
	return answer, nil
}

// lookNow is look with a bound of time.
func (a *adminAPI) lookNow(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	a.look(ctx)
}

func (a *adminAPI) repair(r *http.Request, send func(any) error) error {
	a.lookNow(r.Context())
	gone := error(nil)
	rep, err := a.repairer.RepairNow(r.Context(), func(p repair.Progress) {
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
		if a.check != nil {
			a.check(r.Context())
		}
		if why := a.awaitMetadata(r.Context()); why != "" {
			rep.Whole = false
			end = repair.Progress{Phase: repair.NotHealed, Why: "all blobs are whole, but metadata is not: " + why}
		}
	}
	return errors.Join(gone, send(repairLine{Progress: end, Report: &rep}))
}

// awaitMetadata gives the metadata time to regain its tolerance, and says what
// it still lacks.
func (a *adminAPI) awaitMetadata(ctx context.Context) (why string) {
	for range 600 {
		if why = a.metadata().Degraded; why == "" || ctx.Err() != nil {
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
		b, err := a.catalog.Bucket(r.Context(), name)
		if err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
		filter.Bucket, filter.Key = b.ID, q.Get("key")
		if filter.Key != "" {
			if _, err := a.catalog.Object(r.Context(), b.ID, filter.Key); errors.Is(err, metadata.ErrNoSuchKey) {
				return fmt.Errorf("%s/%s: %w", name, filter.Key, err)
			}
		}
	}
	a.lookNow(r.Context())
	lines := newThrottle()
	rep, err := a.repairer.VerifyAll(r.Context(), filter, func(rep repair.VerifyReport) {
		if lines.due() {
			_ = send(verifyLine{VerifyReport: rep}) // the end tells
		}
	})
	if err != nil {
		return err
	}
	a.nameBuckets(r.Context(), rep.Named)
	return send(verifyLine{VerifyReport: rep, Done: true})
}

// nameBuckets adds the names of blobs' buckets, as far as they can be read: what was
// verified for hours is told without them.
func (a *adminAPI) nameBuckets(ctx context.Context, named []repair.UnreadableBlob) {
	for after, more := "", len(named) > 0; more; {
		some, next, err := a.catalog.ListBuckets(ctx, "", after, 1000)
		if err != nil {
			return
		}
		for _, b := range some {
			after = b.Name
			for i := range named {
				if named[i].BucketID == b.ID {
					named[i].Bucket = b.Name
				}
			}
		}
		more = next && len(some) > 0
	}
}

func (a *adminAPI) start(r *http.Request) (any, error) {
	kind := repair.Kind(r.URL.Query().Get("pass"))
	if !a.repairer.Start(kind) {
		return nil, &console.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("no pass %q: want one of %v", kind, repair.Kinds())}
	}
	return map[string]any{"started": kind}, nil
}

func (a *adminAPI) pause(r *http.Request) (any, error) {
	return map[string]bool{"paused": true}, a.repairer.Pause(r.Context())
}

func (a *adminAPI) resume(r *http.Request) (any, error) {
	return map[string]bool{"paused": false}, a.repairer.Resume(r.Context())
}

func (a *adminAPI) agree(r *http.Request) (any, error) {
	if err := a.catalog.AgreeToRestored(r.Context()); err != nil {
		return nil, err
	}
	a.repairer.AgreeToOrphans()
	return map[string]bool{"agreed": true}, nil
}
