package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"kintsugi/repair"
	"kintsugi/storagenode"
)

func writeDrives(w io.Writer, drives []repair.DriveStatus) error {
	nodes := map[string]bool{}
	for _, d := range drives {
		nodes[d.Node] = true
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DRIVE\tSTATE\tUSED\tFREE\tDIRECTORY\tNOTE")
	for _, d := range drives {
		if goneForGood(d) {
			continue // --json has them
		}
		note := d.Reason
		if d.Space.ReadOnly {
			note = strings.TrimPrefix(note+"; full: read-only", "; ")
		}
		place := d.Dir
		if len(nodes) > 1 {
			place = d.Node + ":" + d.Dir
		}
		used, free := spaceText(d.Space)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.State, used, free, place, note)
	}
	return t.Flush()
}

// goneForGood says that a drive's place was taken and that nobody has seen it
// again. One that came back is there, takes up space, and is not used.
func goneForGood(d repair.DriveStatus) bool {
	return d.State == storagenode.DriveRetired && !d.Away.IsZero()
}

// spaceText writes what is used and free of a drive, which nobody knows of one
// that is away.
func spaceText(s storagenode.Space) (used, free string) {
	if s == (storagenode.Space{}) {
		return "-", "-"
	}
	return formatSize(s.Used), formatSize(max(0, s.Free))
}

// addSpace adds up drives, a file system that several of a node share once. It
// counts the drives that say something, and their file systems.
func addSpace(drives []repair.DriveStatus) (sum storagenode.Space, counted, fileSystems int) {
	type place struct {
		node   string
		device uint64
	}
	seen := map[place]bool{}
	for _, d := range drives {
		if d.Space == (storagenode.Space{}) {
			continue
		}
		counted++
		at := place{d.Node, d.Device}
		if seen[at] && d.Device != 0 {
			continue
		}
		seen[at] = true
		fileSystems++
		sum.Total, sum.Used, sum.Free = sum.Total+d.Space.Total, sum.Used+d.Space.Used, sum.Free+max(0, d.Space.Free)
	}
	return sum, counted, fileSystems
}

// driveList is the answer of /admin/v1/drives, the leading repairer's.
type driveList struct {
	Drives []repair.DriveStatus `json:"drives"`
}

func listDrives(ctx context.Context, client *adminClient) (list driveList, err error) {
	return list, client.call(ctx, http.MethodGet, "/admin/v1/drives", nil, &list)
}

func newAdminDrives(f *adminFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "drives",
		Short: "List the drives; drain or replace one",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			answer, err := listDrives(c.Context(), client)
			if err != nil {
				return err
			}
			if f.asJSON {
				return printJSON(c.OutOrStdout(), answer)
			}
			return writeDrives(c.OutOrStdout(), answer.Drives)
		},
	}
	c.AddCommand(&cobra.Command{
		Use:   "replace [NODE:]DIR",
		Short: "Take the empty directory DIR, on another disk than before, as the replacement of its drive",
		Long: `An emptied directory is taken as a replaced drive by itself if it lies on the
file system that is recorded for it. On another file system it could be the
mount point of a disk that is not mounted, so it takes this command. In a cluster
the directory is named with its node.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.order(c, "/admin/v1/drives/replace", url.Values{"dir": absolute(args)},
				args[0]+" is a new drive; what was on the old one is being rebuilt: kintsugi admin status")
		},
	}, newAdminDrain(f), newAdminUndrain(f))
	return c
}

func newAdminDrain(f *adminFlags) *cobra.Command {
	var watch bool
	var drives driveChoice
	c := &cobra.Command{
		Use:   "drain [DRIVE...]",
		Short: "Move everything off drives, to take them out without a loss",
		Long: `Has the drives, named by id or directory, and all those of the nodes and zones
named, give what they hold to others. It takes nothing from the tolerance: a slot
counts as moved only when its shards are on the other drive. Reads and writes go on.
A drive may be taken out when it is DRAINED, which --watch waits for: then start its
process without the directory. It stays listed until another drive takes its place.
What cannot move, for no other drive can take it, stays, and "kintsugi admin status"
says why. "drives undrain" takes it back.`,
		Example: "  kintsugi admin drives drain --watch /mnt/d3\n  kintsugi admin drives drain node4:/data/d1 node4:/data/d2\n  kintsugi admin drives drain --watch --node node4",
		RunE: func(c *cobra.Command, args []string) error {
			client, answer, err := f.command(c, "/admin/v1/drives/drain", drives.query(args))
			if err != nil {
				return err
			}
			if watch {
				if err := watchDrain(c, client, answer); err != nil {
					return err
				}
			}
			return f.showCommanded(c, answer)
		},
	}
	drives.add(c)
	c.Flags().BoolVarP(&watch, "watch", "w", false, "wait until the drives are drained, and show what is left")
	return c
}

func newAdminUndrain(f *adminFlags) *cobra.Command {
	var drives driveChoice
	c := &cobra.Command{
		Use:   "undrain [DRIVE...]",
		Short: "Use drives again that are being drained, or were",
		Long:  `Takes the drives, named by id or directory, and all those of the nodes and zones named, back into use. What moved away stays where it is; new objects come to them again.`,
		RunE: func(c *cobra.Command, args []string) error {
			_, answer, err := f.command(c, "/admin/v1/drives/undrain", drives.query(args))
			if err != nil {
				return err
			}
			return f.showCommanded(c, answer)
		},
	}
	drives.add(c)
	return c
}

// command sends one to drives.
func (f *adminFlags) command(c *cobra.Command, path string, drives url.Values) (*adminClient, commanded, error) {
	var answer commanded
	client, err := f.client()
	if err == nil {
		err = client.call(c.Context(), "POST", path, drives, &answer)
	}
	return client, answer, err
}

func (f *adminFlags) showCommanded(c *cobra.Command, answer commanded) error {
	if f.asJSON {
		return printJSON(c.OutOrStdout(), answer)
	}
	for id, state := range answer.Drives {
		text := map[storagenode.DriveState]string{
			storagenode.DriveDraining: "is being drained; see kintsugi admin status",
			storagenode.DriveDrained:  "is drained: it may be taken out",
		}[state]
		if text == "" {
			text = "is in use"
		}
		fmt.Fprintf(c.OutOrStdout(), "drive %s %s\n", id, text)
	}
	return nil
}

// leaderPatience is how long a drain is watched without an answer: another
// repairer has taken over long before, and goes on with it.
const leaderPatience = time.Minute

// watchDrain waits until the drives of an answer are DRAINED, and notes their
// states in it.
func watchDrain(c *cobra.Command, client *adminClient, answer commanded) error {
	terminal := isTerminal(c.ErrOrStderr())
	defer clearLine(c.ErrOrStderr())
	begun := map[storagenode.DriveID]bool{} // as the repairer has seen it
	last, answered := "", time.Now()
	for {
		var text string
		var st adminStatus
		ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
		err := client.call(ctx, "GET", "/admin/v1/status", nil, &st)
		cancel()
		switch {
		case err == nil:
			answered = time.Now()
			left, gone := answer.left(st.Drives, begun)
			if gone != nil || left == 0 {
				return gone
			}
			text = drainText(left, answer, st)
		case c.Context().Err() == nil && time.Since(answered) < leaderPatience:
			text = "the drain goes on, but nobody says how far it is: " + err.Error()
		case c.Context().Err() == nil:
			return err
		}
		if err := c.Context().Err(); err != nil {
			return fmt.Errorf("%w, but the drain goes on: kintsugi admin status says how far, kintsugi admin drives undrain takes it back", err)
		}
		switch {
		case terminal:
			fmt.Fprintf(c.ErrOrStderr(), "\r\x1b[K%s", text)
		case text != last:
			fmt.Fprintln(c.ErrOrStderr(), text)
		}
		last = text
		select {
		case <-c.Context().Done():
		case <-time.After(time.Second):
		}
	}
}

// left is how many of the drives are not DRAINED yet; one that the repairer does
// not speak of is not, for it may have begun to lead a moment ago.
func (a commanded) left(drives []repair.DriveStatus, begun map[storagenode.DriveID]bool) (int, error) {
	now := map[storagenode.DriveID]storagenode.DriveState{}
	for _, d := range drives {
		now[d.ID] = d.State
	}
	left := 0
	for id, was := range a.Drives {
		state, known := now[id]
		switch {
		case known && state == storagenode.DriveDrained:
			a.Drives[id] = state
		case !known && was == storagenode.DriveDrained: // and taken out since
		case !known || state == storagenode.DriveDraining || was != storagenode.DriveDrained && !begun[id]:
			begun[id] = begun[id] || state == storagenode.DriveDraining
			left++
		default:
			return 0, fmt.Errorf("drive %s is not being drained any more: it is %s", id, state)
		}
	}
	return left, nil
}

// drainText says how far a drain is.
func drainText(left int, answer commanded, st adminStatus) string {
	text := fmt.Sprintf("%s to go, %d blobs wait (%s)", plural(left, "drive"), st.Queue.Waiting, formatSize(st.Queue.WaitingBytes))
	for _, w := range st.Waiting {
		if _, named := answer.Drives[w.Drive]; named {
			return text + fmt.Sprintf("; slot %d of PG %d stays: %s%s", w.Slot, w.PG, w.Why, roomText(1, w.Needs, w.Needs))
		}
	}
	return text
}
