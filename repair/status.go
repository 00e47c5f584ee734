package repair

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/storagenode"
)

// DriveStatus is a drive as the repairer sees it.
type DriveStatus struct {
	ID       storagenode.DriveID    `json:"id"`
	Node     string                 `json:"node"`
	Zone     string                 `json:"zone,omitempty"`
	Dir      string                 `json:"dir"`
	State    storagenode.DriveState `json:"state"`
	Reason   string                 `json:"reason,omitempty"`
	Away     time.Time              `json:"away,omitzero"` // since when it cannot be asked
	Held     bool                   `json:"held"`          // not taken for lost, for too much is away at once
	Replaces storagenode.DriveID    `json:"replaces,omitzero"`
	Space    storagenode.Space      `json:"space"`
	Device   uint64                 `json:"device,omitempty"` // of the file system, on its node; 0: not known
	Scrub    ScrubState             `json:"scrub"`
}

// QueueStatus is what waits to be repaired and what was.
type QueueStatus struct {
	Waiting      int   `json:"waiting"` // blobs
	WaitingBytes int64 `json:"waitingBytes"`
	Repaired     int64 `json:"repaired"` // shards since the start
	Written      int64 `json:"written"`  // bytes since the start
	Failed       int64 `json:"failed"`
	// Damaged blobs were left by the last look at what is marked missing, which is
	// younger than the count of all blobs may be.
	Damaged int64 `json:"damaged"`
}

// DeleteStatus is what is owed to drives.
type DeleteStatus struct {
	Owed int64 `json:"owed"` // after the last batch of the pass under way, or the last pass
	Done int64 `json:"done"` // since the start
}

// SpreadStatus says how groups lie over failure domains.
type SpreadStatus struct {
	Zones int `json:"zones"`
	Nodes int `json:"nodes"`
	// Groups of which one failure domain – a zone where there are several, else
	// a node – has more than m slots: losing it may lose data.
	Relaxed int `json:"relaxed"`
	// RelaxedGroups are the first of them.
	RelaxedGroups []storagenode.PG `json:"relaxedGroups,omitempty"`
}

// Status is how things stand.
type Status struct {
	At     time.Time    `json:"at"`
	Leader LeaderStatus `json:"leader"`
	Paused bool         `json:"paused"`
	// Whole: an independent recount found every blob with all its shards, and
	// nothing that is known since says otherwise. Only who leads says it.
	Whole      bool           `json:"whole"`
	Nodes      []NodeStatus   `json:"nodes,omitempty"` // that announced themselves
	Drives     []DriveStatus  `json:"drives"`
	States     map[string]int `json:"states"` // drives by state
	Durability Durability     `json:"durability"`
	Queue      QueueStatus    `json:"queue"`
	Tasks      []Task         `json:"tasks"`
	Waiting    []WaitingSlot  `json:"waiting"`
	Spread     SpreadStatus   `json:"spread"`
	Deletes    DeleteStatus   `json:"deletes"`
	Orphans    OrphanStatus   `json:"orphans"`
	Recount    *Report        `json:"recount,omitempty"` // the last
}

// StatusNow is Status with the blobs counted anew where that takes less than a
// second, so that it is true of what was written just now. Where the metadata
// does not answer it is of what was counted before; Durability.At says when.
func (r *Repairer) StatusNow(ctx context.Context) Status {
	if err := r.census.refresh(ctx); err != nil {
		r.cfg.Logger.Warn("status is of blobs counted before", "err", err)
	}
	return r.Status()
}

// Status gives a snapshot. It reads memory only, so Durability and Whole are as
// of the last census.
func (r *Repairer) Status() Status {
	s := Status{
		At: r.cfg.Clock.Now(), Leader: r.leader.status(), Nodes: r.members.status(), Paused: r.paused.Load(), States: map[string]int{}, Drives: []DriveStatus{},
		Tasks: r.progress.list(), Waiting: r.planner.list(), Spread: r.planner.spread(), Orphans: r.orphans.status(),
	}
	for _, d := range r.fleet.all() {
		s.States[d.record.State.String()]++
		st := DriveStatus{
			ID: d.record.ID, Node: d.record.Node, Zone: d.record.Zone, Dir: d.record.Address, State: d.record.State,
			Away: d.away, Held: d.held, Replaces: d.record.Replaces, Scrub: r.scrubber.of(d.record.ID),
		}
		if d.reported {
			st.Reason, st.Space, st.Device = d.report.Reason, d.report.Space, d.report.Device
		}
		if d.record.State == storagenode.DriveRetired && d.away.IsZero() {
			st.Reason = "not used: another drive took its place while it was away; empty its directory to have a new drive there"
		}
		if !d.reported && !d.away.IsZero() && d.record.State == storagenode.DriveDown {
			st.Reason = unserved
		}
		if st.Reason == "" && r.planner.tenanted(d.record.ID) {
			st.Reason = "metadata is still on it"
		}
		s.Drives = append(s.Drives, st)
	}
	groups, at := r.census.latest()
	s.Durability = r.census.durability(groups, at, nil)
	s.Queue.Waiting, s.Queue.WaitingBytes = r.worker.gate.length()
	r.worker.mu.Lock()
	s.Queue.Repaired, s.Queue.Written, s.Queue.Failed = r.worker.repaired, r.worker.written, r.worker.failed
	r.worker.mu.Unlock()
	s.Queue.Damaged = r.worker.damaged.Load()
	s.Deletes.Owed, s.Deletes.Done = r.deletes.counts()
	s.Recount = r.lastRecount()
	s.Whole = s.Leader.Leads && s.Recount != nil && s.Recount.Whole && s.Durability.Full == s.Durability.Blobs && s.Queue.Damaged == 0 && r.census.current()
	return s
}

// metrics gives Prometheus what Status has.
type metrics struct{ r *Repairer }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("kintsugi_repair_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, out) }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	s := m.r.Status()
	gauge := func(name, help string, v float64) {
		out <- prometheus.MustNewConstMetric(describe(name, help), prometheus.GaugeValue, v)
	}
	counter := func(name, help string, v float64) {
		out <- prometheus.MustNewConstMetric(describe(name, help), prometheus.CounterValue, v)
	}
	gauge("queue_blobs", "Blobs waiting to be repaired.", float64(s.Queue.Waiting))
	gauge("queue_bytes", "Bytes of shards waiting to be repaired.", float64(s.Queue.WaitingBytes))
	gauge("waiting_slots", "Slots that should be mapped to another drive but cannot be.", float64(len(s.Waiting)))
	gauge("deletes_owed", "Deletes owed to drives.", float64(s.Deletes.Owed))
	gauge("orphans_quarantined", "Shards unknown to metadata, in quarantine.", float64(s.Orphans.Quarantined))
	gauge("blobs_unreadable", "Blobs with fewer than k good shards.", float64(s.Durability.Unreadable))
	whole := 0.0
	if s.Whole {
		whole = 1
	}
	gauge("whole", "1 when a recount found every blob with all its shards.", whole)
	counter("shards_total", "Shards repaired.", float64(s.Queue.Repaired))
	counter("bytes_total", "Bytes of shards repaired.", float64(s.Queue.Written))
	counter("failures_total", "Repairs of a shard that failed.", float64(s.Queue.Failed))
	counter("orphans_collected_total", "Orphans collected.", float64(s.Orphans.Collected))
	perMargin := describe("blobs_by_margin", "Blobs by the number of further losses they survive.", "margin")
	for _, c := range s.Durability.Margins {
		out <- prometheus.MustNewConstMetric(perMargin, prometheus.GaugeValue, float64(c.Blobs), strconv.Itoa(c.Margin))
	}
	perState := describe("drives", "Drives by state.", "state")
	for state, n := range s.States {
		out <- prometheus.MustNewConstMetric(perState, prometheus.GaugeValue, float64(n), state)
	}
}
