package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/repair"
	"kintsugi/storagenode"
)

// nodeStatus is a node with its drives, as the leading repairer sees them.
type nodeStatus struct {
	Name    string `json:"name"`
	Zone    string `json:"zone,omitempty"`
	Address string `json:"address,omitempty"`
	Version string `json:"version,omitempty"`
	State   string `json:"state"` // that of its best drive; DOWN where it has none
	// Unreached is why it is not found at its address although it announces itself.
	Unreached string               `json:"unreached,omitempty"`
	Heard     time.Time            `json:"heard,omitzero"`
	Drives    []repair.DriveStatus `json:"drives"`
}

// space adds up the node's drives.
func (n *nodeStatus) space() storagenode.Space {
	s, _, _ := addSpace(n.Drives)
	return s
}

// groupStatus is a placement group.
type groupStatus struct {
	PG     storagenode.PG `json:"pg"`
	Scheme string         `json:"scheme"`
	Sealed bool           `json:"sealed"`
	Blobs  int64          `json:"blobs"`
	Bytes  int64          `json:"bytes"`
	// Live counts the slots that are clean on drives that can be asked; Margin
	// is how many more may be lost.
	Live   int          `json:"live"`
	Margin int          `json:"margin"`
	Slots  []slotStatus `json:"slots"`
}

type slotStatus struct {
	Drive      storagenode.DriveID `json:"drive"`
	Node       string              `json:"node"`
	Zone       string              `json:"zone,omitempty"`
	Epoch      uint32              `json:"epoch"`
	Rebuilding bool                `json:"rebuilding"`
	State      string              `json:"state"` // of the drive
}

func (a *adminAPI) listNodes(r *http.Request) (any, error) {
	records, err := a.catalog.ListNodes(r.Context())
	if err != nil {
		return nil, err
	}
	heard := map[string]time.Time{}
	for _, d := range a.drives.Reports() {
		if d.Heard.After(heard[d.Node]) {
			heard[d.Node] = d.Heard
		}
	}
	st := a.repairer.Status()
	for _, n := range st.Nodes { // all that is heard of one without a drive to poll
		if n.Heard.After(heard[n.Name]) {
			heard[n.Name] = n.Heard
		}
	}
	all := joinNodes(records, st.Drives, heard)
	for _, u := range a.unreachedNodes() {
		for i := range all {
			if all[i].Name == u.Name {
				all[i].Unreached = u.Reason
			}
		}
	}
	return map[string]any{"nodes": all}, nil
}

// joinNodes puts nodes and drives together, in order of zone and name.
func joinNodes(records []metadata.NodeRecord, drives []repair.DriveStatus, heard map[string]time.Time) []nodeStatus {
	byName := map[string]*nodeStatus{}
	for _, n := range records {
		byName[n.Name] = &nodeStatus{Name: n.Name, Zone: n.Zone, Address: n.Address, Version: n.Version, Drives: []repair.DriveStatus{}}
	}
	for _, d := range drives {
		if goneForGood(d) {
			continue
		}
		n := byName[d.Node]
		if n == nil {
			n = &nodeStatus{Name: d.Node, Zone: d.Zone, Drives: []repair.DriveStatus{}}
			byName[d.Node] = n
		}
		n.Drives = append(n.Drives, d)
	}
	all := []nodeStatus{}
	for _, n := range byName {
		best := storagenode.DriveDown
		for i, d := range n.Drives {
			if i == 0 || d.State < best {
				best = d.State
			}
		}
		n.State, n.Heard = best.String(), heard[n.Name]
		slices.SortFunc(n.Drives, func(a, b repair.DriveStatus) int { return strings.Compare(a.Dir, b.Dir) })
		all = append(all, *n)
	}
	slices.SortFunc(all, func(a, b nodeStatus) int {
		return cmp.Or(strings.Compare(a.Zone, b.Zone), strings.Compare(a.Name, b.Name))
	})
	return all
}

func (a *adminAPI) listGroups(r *http.Request) (any, error) {
	groups, err := a.catalog.ListGroups(r.Context())
	if err != nil {
		return nil, err
	}
	drives := map[storagenode.DriveID]repair.DriveStatus{}
	for _, d := range a.repairer.Status().Drives {
		drives[d.ID] = d
	}
	all := []groupStatus{}
	for _, g := range groups {
		all = append(all, describeGroup(g, drives))
	}
	slices.SortFunc(all, func(a, b groupStatus) int { return cmp.Or(cmp.Compare(a.Margin, b.Margin), cmp.Compare(a.PG, b.PG)) })
	return map[string]any{"pgs": all}, nil
}

func describeGroup(g metadata.GroupRecord, drives map[storagenode.DriveID]repair.DriveStatus) groupStatus {
	st := groupStatus{PG: g.PG, Scheme: g.Scheme.String(), Sealed: g.Sealed, Blobs: g.Blobs, Bytes: g.Bytes}
	for _, s := range g.Slots {
		d := drives[s.Drive]
		slot := slotStatus{Drive: s.Drive, Node: d.Node, Zone: d.Zone, Epoch: s.Epoch, Rebuilding: s.State == storagenode.SlotRebuilding, State: d.State.String()}
		if d.ID.IsZero() {
			slot.State = "UNKNOWN"
		} else if !slot.Rebuilding && d.State.Readable() {
			st.Live++
		}
		st.Slots = append(st.Slots, slot)
	}
	st.Margin = st.Live - int(g.Scheme.K)
	return st
}

func newAdminTopology(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "topology",
		Short: "Show zones, nodes and drives as a tree, with state, space and last heartbeat",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withNodes(c, f, writeTopology)
		},
	}
}

func writeTopology(w io.Writer, nodes []nodeStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	zone := "\x00"
	for _, n := range nodes {
		if n.Zone != zone {
			zone = n.Zone
			fmt.Fprintf(t, "zone %s\n", cmp.Or(zone, "(none)"))
		}
		s := n.space()
		fmt.Fprintf(t, "  node %s\t%s\t%s used\t%s free\theard %s\n", n.Name, n.State, formatSize(s.Used), formatSize(s.Free), ago(n.Heard))
		for _, d := range n.Drives {
			note := d.Reason
			if d.Space.ReadOnly {
				note = strings.TrimPrefix(note+"; full: read-only", "; ")
			}
			used, free := spaceText(d.Space)
			fmt.Fprintf(t, "    drive %s\t%s\t%s used\t%s free\t%s  %s\n", d.ID, d.State, used, free, d.Dir, note)
		}
	}
	return t.Flush()
}

// ago says how long ago something was heard.
func ago(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return formatDuration(max(0, time.Since(at))) + " ago"
}

// withNodes asks for the nodes and shows them.
func withNodes(c *cobra.Command, f *adminFlags, show func(io.Writer, []nodeStatus) error) error {
	return listing(c, f, "/admin/v1/nodes", func(w io.Writer, text []byte) error {
		var answer struct{ Nodes []nodeStatus }
		if err := json.Unmarshal(text, &answer); err != nil {
			return err
		}
		err := show(w, answer.Nodes)
		for _, n := range answer.Nodes {
			if n.Unreached != "" {
				writeUnreached(w, []unreachedNode{{n.Name, n.Address, n.Unreached}})
			}
		}
		return err
	})
}

// listing asks the admin API and prints its JSON, or what show makes of it.
func listing(c *cobra.Command, f *adminFlags, path string, show func(io.Writer, []byte) error) error {
	client, err := f.client()
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := client.call(c.Context(), http.MethodGet, path, nil, &raw); err != nil {
		return err
	}
	if f.asJSON {
		return printJSON(c.OutOrStdout(), raw)
	}
	return show(c.OutOrStdout(), raw)
}

func newAdminGroups(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "pgs",
		Short: "List the placement groups, least margin first",
		Long: `Lists the placement groups and where their slots are: node, and what is not as it
should be. The margin is how many more slots may be lost before blobs of the
group cannot be read; blobs with known damage of their own may have less: see
kintsugi admin status.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return listing(c, f, "/admin/v1/pgs", func(w io.Writer, text []byte) error {
				var answer struct{ PGs []groupStatus }
				if err := json.Unmarshal(text, &answer); err != nil {
					return err
				}
				return writeGroups(w, answer.PGs)
			})
		},
	}
}

func writeGroups(w io.Writer, groups []groupStatus) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PG\tSCHEME\tMARGIN\tBLOBS\tBYTES\tSTATE\tSLOTS")
	for _, g := range groups {
		state := "open"
		if g.Sealed {
			state = "sealed"
		}
		var slots []string
		for _, s := range g.Slots {
			text := cmp.Or(s.Node, s.Drive.String())
			if s.Rebuilding {
				text += "(rebuilding)"
			} else if s.State != storagenode.DriveActive.String() {
				text += "(" + s.State + ")"
			}
			slots = append(slots, text)
		}
		fmt.Fprintf(t, "%d\t%s\t%d\t%d\t%s\t%s\t%s\n", g.PG, g.Scheme, g.Margin, g.Blobs, formatSize(g.Bytes), state, strings.Join(slots, " "))
	}
	return t.Flush()
}

// readyAnswer says whether new objects can be placed.
type readyAnswer struct {
	Ready  bool   `json:"ready"`
	Scheme string `json:"scheme,omitempty"` // that new objects get now
	Why    string `json:"why,omitempty"`
	Drives int    `json:"drives"` // that can be written to
}

// placement answers whether new objects can be placed; full is the scheme that
// they get when all is well, zero where that depends on what is there.
//
// It reads from the metadata each time: where its members are away, groups that
// are remembered would have it say yes for as long as that lasts.
func placement(p metadata.Placement, f metadata.Foundation, drives storagenode.Reporter, full erasure.Scheme) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var answer readyAnswer
		for _, d := range drives.Reports() {
			if d.State.Writable() && !d.Space.ReadOnly {
				answer.Drives++
			}
		}
		if _, err := f.Cluster(r.Context()); err != nil {
			answer.Why = err.Error()
			return answer, nil
		}
		g, err := p.OpenGroup(r.Context(), 0)
		if errors.Is(err, metadata.ErrNoPlacement) {
			answer.Why = plural(answer.Drives, "drive") + " can be written to, which is too few: the others are full or away"
			return answer, nil
		}
		if err != nil {
			answer.Why = err.Error()
			return answer, nil
		}
		answer.Scheme = g.Scheme.String()
		answer.Ready = full == erasure.Scheme{} || g.Scheme == full
		if !answer.Ready {
			answer.Why = fmt.Sprintf("new objects get %s, not %s: too few drives are there", g.Scheme, full)
		}
		return answer, nil
	}
}

func newAdminReady(f *adminFlags) *cobra.Command {
	var wait time.Duration
	var drives int
	c := &cobra.Command{
		Use:   "ready",
		Short: "Say whether writes get the full scheme; the exit code tells, for scripts",
		Long: `Says whether new objects can be written with the full scheme: exit code 0 when
they can, 2 when they cannot, or only in a narrower scheme. --wait waits for it,
as a script does that has just started a cluster; --drives says how many drives
it shall have then, to whoever writes and to the leading repairer: objects written
before may lie on fewer nodes for a while, and status knows nothing of the rest.`,
		Example: "  kintsugi admin ready --wait 60s --drives 12",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			answer, err := awaitReady(c.Context(), client, wait, drives)
			if err != nil {
				return err
			}
			if f.asJSON {
				err = printJSON(c.OutOrStdout(), answer)
			} else if answer.Ready {
				_, err = fmt.Fprintf(c.OutOrStdout(), "ready: new objects get %s\n", answer.Scheme)
			} else {
				_, err = fmt.Fprintf(c.OutOrStdout(), "not ready: %s\n", answer.Why)
			}
			if err == nil && !answer.Ready {
				return exitCode(2)
			}
			return err
		},
	}
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for it")
	c.Flags().IntVar(&drives, "drives", 0, "number of drives that there must be")
	return c
}

// awaitedDrives turns a yes into a no where there are fewer drives.
func awaitedDrives(ctx context.Context, client *adminClient, drives int, answer *readyAnswer) error {
	if answer.Drives < drives {
		answer.Ready, answer.Why = false, fmt.Sprintf("%d drives of %d can be written to", answer.Drives, drives)
		return nil
	}
	list, err := listDrives(ctx, client)
	if err != nil {
		return err
	}
	active := 0
	for _, d := range list.Drives {
		if d.State == storagenode.DriveActive {
			active++
		}
	}
	if active < drives {
		answer.Ready, answer.Why = false, fmt.Sprintf("the leading repairer takes %d drives of %d for ACTIVE so far", active, drives)
	}
	return nil
}

// awaitReady asks until the answer is yes, of so many drives, or as long as it
// may wait.
func awaitReady(ctx context.Context, client *adminClient, wait time.Duration, drives int) (answer readyAnswer, err error) {
	for end := time.Now().Add(wait); ; {
		answer = readyAnswer{}
		once, cancel := context.WithTimeout(ctx, 10*time.Second)
		err = client.call(once, http.MethodGet, "/admin/v1/ready", nil, &answer)
		if err == nil && answer.Ready && drives > 0 {
			err = awaitedDrives(once, client, drives, &answer)
		}
		cancel()
		if err == nil && answer.Ready || time.Now().After(end) || errors.Is(ctx.Err(), context.Canceled) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}
