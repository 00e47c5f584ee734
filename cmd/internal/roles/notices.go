package roles

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

const (
	// NoticesPath is where the leading repairer takes notices.
	NoticesPath = "/v1/notices"
	noticeEvery = 100 * time.Millisecond // while there is something to tell
	noticeTime  = 3 * time.Second        // for one to arrive
	leaderAge   = 2 * time.Second        // how long the leader's address is believed
)

// notice is what a gateway tells the leading repairer. It may get lost: claims
// of damage are made again by later readers and by the daily inventory, and
// deletes that are owed are found in metadata.
type notice struct {
	Damage  []storagenode.ShardClaim `json:"damage,omitempty"`
	Deletes bool                     `json:"deletes,omitempty"`
}

// ErrNoLeader: no repairer leads now, or none has said where it is.
var ErrNoLeader = errors.New("no repairer leads at the moment; try again in a few seconds")

// Leader finds the leading repairer through metadata.
type Leader struct {
	Leaders metadata.Leaders
	Clock   clock.Clock

	mu      sync.Mutex
	address string
	at      time.Time
}

// Address gives the base URL of the leader, at most 2 s old. ErrNoLeader.
func (l *Leader) Address(ctx context.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.address != "" && l.Clock.Now().Sub(l.at) < leaderAge {
		return l.address, nil
	}
	lease, err := l.Leaders.Lease(ctx, repair.Role)
	if err != nil {
		return "", fmt.Errorf("find the leading repairer: %w", err)
	}
	if lease.Holder == "" || lease.Address == "" {
		return "", ErrNoLeader
	}
	l.address, l.at = lease.Address, l.Clock.Now()
	return l.address, nil
}

// Notices carries what a gateway has to tell to the leading repairer. Run
// sends; the other methods never block.
type Notices struct {
	Leader    *Leader
	Transport http.RoundTripper // that proves who we are
	Logger    *slog.Logger

	mu   sync.Mutex
	next notice
	wake chan struct{}
}

// NewNotices makes one; Run must run for anything to be sent.
func NewNotices(leader *Leader, transport http.RoundTripper, logger *slog.Logger) *Notices {
	return &Notices{Leader: leader, Transport: transport, Logger: logger, wake: make(chan struct{}, 1)}
}

// Damaged is a stripe.Config.Damaged.
func (n *Notices) Damaged(d stripe.Damage) {
	n.add(func(next *notice) {
		if len(next.Damage) < storagenode.MaxClaims {
			next.Damage = append(next.Damage, storagenode.ShardClaim{PG: d.PG, Slot: d.Slot, Blob: d.Blob.String()})
		}
	})
}

// Deleted is a gateway.Config.Deleted.
func (n *Notices) Deleted() { n.add(func(next *notice) { next.Deletes = true }) }

func (n *Notices) add(f func(*notice)) {
	n.mu.Lock()
	f(&n.next)
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends.
func (n *Notices) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		n.mu.Lock()
		next := n.next
		n.next = notice{}
		n.mu.Unlock()
		if err := n.send(ctx, next); err != nil && ctx.Err() == nil {
			n.Logger.Debug("notice was not delivered", "err", err)
		}
		if n.Leader.Clock.Sleep(ctx, noticeEvery) != nil {
			return
		}
	}
}

func (n *Notices) send(ctx context.Context, next notice) error {
	ctx, cancel := context.WithTimeout(ctx, noticeTime)
	defer cancel()
	address, err := n.Leader.Address(ctx)
	if err != nil {
		return err
	}
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(address, "/")+NoticesPath, bytes.NewReader(text))
	if err != nil {
		return err
	}
	resp, err := n.Transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, resp.Status)
	}
	return nil
}

// TakeNotices is the handler of notices, to be put behind authentication.
func TakeNotices(r *repair.Repairer) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		var n notice
		if err := json.NewDecoder(io.LimitReader(req.Body, 128<<10)).Decode(&n); err != nil || len(n.Damage) > storagenode.MaxClaims {
			http.Error(w, "not a notice", http.StatusBadRequest)
			return
		}
		r.NotifyAll(n.Damage)
		if n.Deletes {
			r.Kick()
		}
		w.WriteHeader(http.StatusOK)
	}
}
