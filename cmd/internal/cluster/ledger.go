package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"kintsugi/erasure"
	"kintsugi/metadata/catalog"
	"kintsugi/repair"
	"kintsugi/storagenode"
)

// ledger holds a cluster of many to what must be true at each moment, and not
// only in the end. It sees every commit at the engine itself, in order, and
// every answer. What must not be is a lie; err gives the first ones.
type ledger struct {
	many  *Many
	truth *catalog.Catalog // on the engine itself
	// lossy: what a drive held may be gone, so that repairers may find shards
	// missing that metadata did not know to be.
	lossy atomic.Bool

	mu     sync.Mutex
	lies   []error                     // guarded by mu, as all below
	once   map[placed]erasure.SlotMask // the slots of blobs that were committed at some time
	cutoff map[*life]*atomic.Bool      // true while a gateway cannot reach metadata
}

type placed struct {
	pg   storagenode.PG
	blob storagenode.BlobID
}

func newLedger(c *Many, truth *catalog.Catalog) *ledger {
	return &ledger{many: c, truth: truth, once: map[placed]erasure.SlotMask{}, cutoff: map[*life]*atomic.Bool{}}
}

// lie notes what must not be.
func (l *ledger) lie(format string, args ...any) error {
	err := fmt.Errorf("LIE: "+format, args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lies) < 8 {
		l.lies = append(l.lies, err)
		l.many.cfg.Logger.Error(err.Error())
	}
	return err
}

func (l *ledger) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.lies...)
}

// The keys of the catalog that the ledger reads, as ARCHITECTURE.md has them.
const (
	keyBlob   = 'b' // pg4 blob16
	keyDamage = 'm' // margin1 pg4 blob16
	keyLease  = 'L' // role
	keyBeat   = 'l' // role
)

// committed judges a commit the moment it was made.
func (l *ledger) committed(by string, writes []write) {
	process, _, _ := strings.Cut(by, ":")
	repairer := strings.HasPrefix(process, "r")
	margins := map[string]int{} // of the blobs that lack something after it
	lease := false
	for _, w := range writes {
		switch {
		case w.key[0] == keyLease || w.key[0] == keyBeat:
			lease = true
		case w.key[0] == keyBlob && !w.delete:
			l.blob(repairer, storagenode.PG(binary.BigEndian.Uint32(w.key[1:])), storagenode.BlobID(w.key[5:]))
		case w.key[0] == keyDamage && !w.delete:
			margins[string(w.key[2:])] = int(w.key[1])
		}
	}
	for _, w := range writes {
		if w.key[0] != keyDamage || !w.delete {
			continue
		}
		if now, ok := margins[string(w.key[2:])]; ok && int(w.key[1]) < now {
			delete(margins, string(w.key[2:])) // less is missing than before
		}
	}
	if repairer && len(margins) > 0 && !l.lossy.Load() {
		_ = l.lie("%s found shards missing that metadata took for written, and no drive has lost any", by)
	}
	if repairer && !lease {
		l.underLease(by)
	}
}

// blob takes note of a blob that was just committed, and holds gateways to the
// write quorum.
func (l *ledger) blob(repairer bool, pg storagenode.PG, id storagenode.BlobID) {
	rec, err := l.truth.Blob(context.Background(), pg, id)
	if err != nil || rec == nil {
		_ = l.lie("blob %s was committed and cannot be read: %v", id, err)
		return
	}
	group, err := l.truth.Group(context.Background(), pg)
	if have, want := (rec.Blob.Slots &^ rec.Blob.Missing).Count(), quorum(group.Scheme, rec.Blob.Mode); !repairer && (err != nil || have < want) {
		_ = l.lie("blob %s was committed with %d shards of a quorum of %d in a group of %s (%v)", id, have, want, group.Scheme, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.once[placed{pg, id}] |= rec.Blob.Slots
}

// quorum is how many shards a commit may rest on, as ARCHITECTURE.md has it.
func quorum(s erasure.Scheme, m erasure.Mode) int {
	switch {
	case m == erasure.Replicated:
		return min(2, int(s.M)+1)
	case s.M <= 1:
		return int(s.K)
	}
	return int(s.K) + 1
}

// slots are those that should ever have held something of a blob.
func (l *ledger) slots(pg storagenode.PG, id storagenode.BlobID) erasure.SlotMask {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.once[placed{pg, id}]
}

// underLease holds a repairer's commit to the lease as it is.
func (l *ledger) underLease(by string) {
	lease, err := l.truth.Lease(context.Background(), repair.Role)
	if err != nil || lease.Address != "http://"+by {
		_ = l.lie("%s changed metadata while the lease was with %q, term %d (%v)", by, lease.Address, lease.Term, err)
	}
}

// isolate notes that a gateway is cut off from metadata, or no more.
func (l *ledger) isolate(g *life, is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if is {
		l.cutoff[g] = &atomic.Bool{}
		l.cutoff[g].Store(true)
	} else if b := l.cutoff[g]; b != nil {
		b.Store(false)
		delete(l.cutoff, g)
	}
}

// cutOffNow gives, where a gateway is cut off, what says whether it still is.
func (l *ledger) cutOffNow(g *life) *atomic.Bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cutoff[g]
}

// answered judges an answer: a gateway that could not reach metadata from
// before the request until after the answer has acknowledged nothing, and
// knows nothing.
func (l *ledger) answered(g *life, cutOff *atomic.Bool, what string, a *answer) {
	failed := a.status == http.StatusServiceUnavailable || bytes.Contains(a.body.Bytes(), []byte("<Error>")) // some begin with 200
	if cutOff != nil && cutOff.Load() && !failed {
		_ = l.lie("%s, cut off from metadata, answered %d to %s", g.id, a.status, what)
	}
}
