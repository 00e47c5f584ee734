package repair

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// repairCycles bounds how often RepairNow starts over because a recount found
// more; repairRounds, how often it goes over the same damage.
const (
	repairCycles = 4
	repairRounds = 8
)

// Phase is a step of RepairNow.
type Phase string

// The phases, in order; Healed or NotHealed ends them.
const (
	Detecting     Phase = "detecting"
	Inventorying  Phase = "inventory"
	Repairing     Phase = "repairing"
	Recounting    Phase = "recounting"
	Healed        Phase = "healed"
	NotHealed     Phase = "not healed"
	progressEvery       = 500 * time.Millisecond
)

// Progress is how far RepairNow is.
type Progress struct {
	Phase      Phase   `json:"phase"`
	BytesDone  int64   `json:"bytesDone"`
	BytesTotal int64   `json:"bytesTotal"`
	Rate       float64 `json:"bytesPerSecond"`
	ETASeconds float64 `json:"etaSeconds"`
	// Why says what is in the way, with NotHealed.
	Why string `json:"why,omitempty"`
}

// herald passes progress on, one call at a time.
type herald struct {
	r     *Repairer
	tell  func(Progress)
	mu    sync.Mutex
	now   Progress
	began time.Time
}

func (h *herald) phase(p Phase, total int64, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.began = h.r.cfg.Clock.Now()
	h.now = Progress{Phase: p, BytesTotal: total, Why: why}
	if h.tell != nil {
		h.tell(h.now)
	}
}

// follow tells of what is done from now on, until stop, by whichever pass: often the
// background has begun already with what somebody wants to see repaired.
func (h *herald) follow(ctx context.Context, bytes func() int64) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	was, ended := bytes(), make(chan struct{})
	go func() {
		defer close(ended)
		for last := was; ; {
			stopped := h.r.cfg.Clock.Sleep(ctx, progressEvery) != nil
			if now := bytes(); now != last {
				last = now
				h.done(now - was)
			}
			if stopped {
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}

func (h *herald) done(n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now.BytesDone = n
	if h.now.BytesTotal > 0 {
		h.now.BytesTotal = max(h.now.BytesTotal, n) // more was found or written meanwhile
	}
	h.now.Rate, h.now.ETASeconds = speed(n, h.now.BytesTotal, h.r.cfg.Clock.Now().Sub(h.began))
	if h.tell != nil {
		h.tell(h.now)
	}
}

// RepairNow looks at all drives, takes the inventory of every slot, repairs
// all damage that can be repaired, and counts everything afresh. tell, which
// may be nil, is told of its progress, one call at a time; the last has the
// phase Healed, said only after the recount found every blob with all its
// shards, or NotHealed and why. It works beside Run, and without it where the
// process is the sole one. ErrNotLeader.
func (r *Repairer) RepairNow(ctx context.Context, tell func(Progress)) (Report, error) {
	ctx, done, err := r.leader.enter(ctx)
	if err != nil {
		return Report{}, err
	}
	defer done()
	h := &herald{r: r, tell: tell}
	var rep Report
	var trouble error
	for range repairCycles {
		refusals := r.worker.refusalCount()
		h.phase(Detecting, 0, "")
		if err := r.detectAndPlan(ctx); err != nil {
			trouble = err
		}
		h.phase(Inventorying, 0, "")
		r.inventory.all.Store(true)
		stop := h.follow(ctx, func() int64 { return r.progress.bytes(Inventory) })
		if _, err := r.inventory.pass(ctx); err != nil {
			trouble = err
		}
		stop()
		total, err := r.toRepair(ctx)
		if err != nil {
			trouble = err
		}
		h.phase(Repairing, total, "")
		stop = h.follow(ctx, r.worker.bytes)
		worked, err := r.repairAll(ctx)
		stop()
		if err != nil {
			trouble = err
		}
		h.phase(Recounting, 0, "")
		stop = h.follow(ctx, func() int64 { return r.progress.bytes(Counting) })
		rep, err = r.Recount(ctx)
		if stop(); err != nil {
			h.phase(NotHealed, 0, err.Error())
			return rep, err
		}
		r.census.fresh.Store(true)
		if err := r.census.pass(ctx); err != nil {
			trouble = err
		}
		if rep.Whole && r.worker.damaged.Load() > 0 { // they were in the hands of another pass
			if _, err := r.worker.repairDamage(ctx); err != nil {
				trouble = err
			}
		}
		if rep.Whole {
			h.phase(Healed, 0, "")
			return rep, nil
		}
		if worked == 0 && rep.Found == 0 && r.worker.refusalCount() == refusals {
			break
		}
	}
	h.phase(NotHealed, 0, r.obstacle(rep, trouble))
	return rep, context.Cause(ctx)
}

// repairAll repeats until nothing is left or nothing moves any more; it gives
// the number of shards repaired.
func (r *Repairer) repairAll(ctx context.Context) (int64, error) {
	start := r.worker.shards()
	var trouble error
	for range repairRounds {
		before := r.worker.shards()
		slots, clean, err1 := r.rebuild(ctx)
		blobs, err2 := r.worker.repairDamage(ctx)
		trouble = errors.Join(err1, err2)
		if slots == 0 && blobs == 0 || r.worker.shards() == before && clean == 0 || ctx.Err() != nil {
			break
		}
	}
	return r.worker.shards() - start, trouble
}

// toRepair counts the bytes of all shards that can be repaired now.
func (r *Repairer) toRepair(ctx context.Context) (int64, error) {
	total := int64(0)
	groups, err := r.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return 0, err
	}
	byPG := map[storagenode.PG]metadata.GroupRecord{}
	for _, g := range groups {
		byPG[g.PG] = g
		for i, s := range g.Slots {
			store := r.inventory.ask(s.Drive)
			if s.State != storagenode.SlotRebuilding || store == nil || r.worker.writable(g.Group, erasure.SlotMask(0).With(i)) == 0 {
				continue
			}
			err := r.worker.lacking(ctx, g.Group, i, store, func(rec metadata.BlobRecord) error {
				if !rec.Blob.Missing.Has(i) {
					total += slotBytes(g.Scheme, rec.Blob)
				}
				return nil
			})
			if err != nil {
				return total, err
			}
		}
	}
	for rec, err := range r.cfg.Blobs.ScanDamaged(ctx) {
		if err != nil {
			return total, fmt.Errorf("scan damaged blobs: %w", err)
		}
		g, ok := byPG[rec.PG]
		if !ok {
			continue // made after the groups were listed
		}
		total += slotBytes(g.Scheme, rec.Blob) * int64(r.worker.writable(g.Group, rec.Blob.Missing).Count())
	}
	return total, nil
}

// obstacle says in a sentence why not all is well.
func (r *Repairer) obstacle(rep Report, trouble error) string {
	why := fmt.Sprintf("%d of %d blobs lack shards", rep.Blobs-rep.Full, rep.Blobs)
	if w := r.planner.list(); len(w) > 0 {
		why += fmt.Sprintf("; %d slots wait, the first: %s", len(w), w[0].Why)
		if n := w[0].Needs; n > 0 {
			why += fmt.Sprintf(", %d bytes", n)
		}
	}
	if trouble != nil {
		why += "; " + trouble.Error()
	}
	return why
}
