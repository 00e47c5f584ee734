package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kintsugi/repair"
	"kintsugi/storagenode"
)

// adminFlags are common to all admin commands.
type adminFlags struct {
	address, region, credentialsFile string
	asJSON                           bool
}

func (f *adminFlags) client() (*adminClient, error) {
	return newAdminClient(f.address, f.region, f.credentialsFile)
}

func newAdmin() *cobra.Command {
	f := &adminFlags{}
	c := &cobra.Command{
		Use:   "admin",
		Short: "Ask a running server how it is, and tell it to repair or verify",
		Long: `Speaks to the admin API of a running server.

Its address is --admin-url or KINTSUGI_ADMIN_URL (default http://127.0.0.1:9001).
The credentials are the server's root credentials: KINTSUGI_ROOT_ACCESS_KEY and
KINTSUGI_ROOT_SECRET_KEY (or …_FILE), or --credentials-file with the file that
the server made at its first start.`,
	}
	p := c.PersistentFlags()
	p.StringVar(&f.address, "admin-url", "", "address of the admin API")
	p.StringVar(&f.region, "region", "us-east-1", "the server's region")
	p.StringVar(&f.credentialsFile, "credentials-file", "", "file with the credentials, instead of the environment")
	p.BoolVar(&f.asJSON, "json", false, "print JSON")
	c.AddCommand(newAdminStatus(f), newAdminDrives(f), newAdminNodes(f), newAdminTopology(f), newAdminGroups(f), newAdminReady(f), newAdminMetadata(f), newAdminRepair(f), newAdminVerify(f), newAdminWhatIf(f), newAdminStart(f),
		newAdminSwitch(f, "pause", "Stop everything that destroys: deletes, orphans, dropped slots", "/admin/v1/pause", "paused: nothing is destroyed until `kintsugi admin resume`"),
		newAdminSwitch(f, "resume", "End a pause", "/admin/v1/resume", "resumed"),
		newAdminSwitch(f, "agree-orphans", "Let the next orphan pass collect what is in quarantine now", "/admin/v1/orphans/agree", "agreed: the next orphan pass collects what is in quarantine now"))
	return c
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func newAdminStatus(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "How safe the data is: drives, space, margins, repairs",
		Long: `Shows drives and space, how many more losses the blobs survive (their margin),
what is being repaired, and whether everything is whole. "Whole" is only said
after an independent recount has found every shard in its place.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			if f.asJSON {
				var raw json.RawMessage
				if err := client.call(c.Context(), "GET", "/admin/v1/status", nil, &raw); err != nil {
					return err
				}
				return printJSON(c.OutOrStdout(), raw)
			}
			var st adminStatus
			if err := client.call(c.Context(), "GET", "/admin/v1/status", nil, &st); err != nil {
				return err
			}
			return writeStatus(c.OutOrStdout(), st)
		},
	}
}

// writeStopped says that orphans stay, and their space with them, until an
// operator agrees.
func writeStopped(w io.Writer, stopped []repair.StoppedSlot) {
	if len(stopped) == 0 {
		return
	}
	n := 0
	for _, s := range stopped {
		n += s.Orphans
	}
	fmt.Fprintf(w, "  stopped    %d shards that no object needs are not removed, for they are more than 1%% of what is in %s: if metadata is not older than the drives, `kintsugi admin agree-orphans`\n",
		n, plural(len(stopped), "slot"))
}

// verdict says in a line whether anything is to be worried about.
func verdict(st adminStatus) string {
	d := st.Durability
	switch {
	case st.Whole:
		return "whole: every blob has all its shards"
	case d.Unreadable > 0:
		return fmt.Sprintf("UNREADABLE NOW: %d blobs have too few good shards; bring drives back", d.Unreadable)
	case d.Full < d.Blobs:
		return fmt.Sprintf("degraded: %d of %d blobs lack shards, all can be read", d.Blobs-d.Full, d.Blobs)
	case st.Queue.Damaged > 0:
		return fmt.Sprintf("degraded: %d blobs were found to lack shards", st.Queue.Damaged)
	case d.At.IsZero():
		return "not yet counted"
	case st.Recount != nil && !st.Recount.Whole:
		return "no damage known; the last recount found some: run `kintsugi admin repair`"
	case st.Metadata.Degraded != "":
		return "no blob is known to lack shards, but the metadata is not well: see below"
	case st.Recount == nil:
		return "no damage known; the first recount is still to come"
	}
	return "no damage known; what changed a moment ago is being counted"
}

func writeStatus(w io.Writer, st adminStatus) error {
	d := st.Durability
	fmt.Fprintf(w, "Kintsugi %s\n\nstate      %s\n", st.Version, verdict(st))
	if st.Paused {
		fmt.Fprintln(w, "paused     nothing is destroyed until `kintsugi admin resume`")
	}
	space, counted, fileSystems := addSpace(st.Drives)
	full := 0
	for _, d := range st.Drives {
		if d.Space.ReadOnly && !goneForGood(d) {
			full++
		}
	}
	fmt.Fprintf(w, "drives     %s", states(st.States))
	if full > 0 {
		fmt.Fprintf(w, ", %d of them full: read-only", full)
	}
	fmt.Fprintf(w, "; %s used of %s", formatSize(space.Used), formatSize(space.Total))
	if fileSystems < counted {
		fmt.Fprintf(w, ", %d drives on %s", counted, plural(fileSystems, "file system"))
	}
	fmt.Fprintln(w)
	writeUnreached(w, st.Unreached)
	blobs := "not yet counted"
	if !d.At.IsZero() {
		blobs = fmt.Sprintf("%d, %s", d.Blobs, formatSize(d.Bytes))
		if age := st.At.Sub(d.At); age >= 5*time.Second {
			blobs += ", as counted " + formatDuration(age) + " ago"
		}
	}
	fmt.Fprintf(w, "blobs      %s\n", blobs)
	for _, m := range d.Margins {
		fmt.Fprintf(w, "  margin %2d  %d blobs, %s: %s\n", m.Margin, m.Blobs, formatSize(m.Bytes), marginText(m.Margin))
	}
	fmt.Fprintf(w, "repairs    %d blobs wait (%s); %d shards repaired, %d failed since the start\n", st.Queue.Waiting, formatSize(st.Queue.WaitingBytes), st.Queue.Repaired, st.Queue.Failed)
	for _, t := range st.Tasks {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("  %-9s  %s %s", t.Kind, t.What, progressText(t.BytesDone, t.BytesTotal, t.Rate, t.ETASeconds)), " "))
	}
	writeWaiting(w, st.Waiting)
	fmt.Fprintf(w, "deletes    %d owed\norphans    %d in quarantine\n", st.Deletes.Owed, st.Orphans.Quarantined)
	if st.Orphans.Restored {
		fmt.Fprintln(w, "  stopped    metadata was restored from a dump: what it does not know is not removed; once all is there that should be, `kintsugi admin agree-orphans`")
	}
	writeStopped(w, st.Orphans.Stopped)
	meta := st.Metadata.Engine + ": " + st.Metadata.Summary
	if st.Metadata.Degraded != "" {
		meta += "; " + st.Metadata.Degraded
	}
	fmt.Fprintf(w, "metadata   %s\n", meta)
	if st.Recount != nil {
		fmt.Fprintf(w, "recounted  %s: %d of %d blobs in full\n", st.Recount.At.Local().Format(time.DateTime), st.Recount.Full, st.Recount.Blobs)
	}
	fmt.Fprintln(w)
	return writeDrives(w, st.Drives)
}

// writeWaiting writes a line for each drive whose slots wait, and each reason.
func writeWaiting(w io.Writer, waiting []repair.WaitingSlot) {
	type cause struct {
		drive storagenode.DriveID
		why   string
	}
	type tally struct {
		slots        int
		all, largest int64 // bytes of room
	}
	var order []cause
	sum := map[cause]tally{}
	for _, ws := range waiting {
		c := cause{ws.Drive, ws.Why}
		t := sum[c]
		if t.slots == 0 {
			order = append(order, c)
		}
		sum[c] = tally{t.slots + 1, t.all + ws.Needs, max(t.largest, ws.Needs)}
	}
	for _, c := range order {
		t := sum[c]
		fmt.Fprintf(w, "  waiting    %s of drive %s: %s%s\n", plural(t.slots, "slot"), c.drive, c.why, roomText(t.slots, t.all, t.largest))
	}
}

// roomText says how much room slots wait for and what to do, "" where it is not that.
func roomText(slots int, all, largest int64) string {
	switch {
	case all == 0:
		return ""
	case slots == 1:
		return fmt.Sprintf(", %s; add a drive, or delete objects", formatSize(all))
	}
	return fmt.Sprintf(", %s for the largest and %s in all; add drives, or delete objects", formatSize(largest), formatSize(all))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func states(by map[string]int) string {
	var parts []string
	for s := storagenode.DriveActive; s <= storagenode.DriveRetired; s++ {
		if n := by[s.String()]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(parts, ", ")
}

func marginText(margin int) string {
	switch {
	case margin < 0:
		return "cannot be read now"
	case margin == 0:
		return "survive no further loss"
	case margin == 1:
		return "survive one more loss"
	default:
		return fmt.Sprintf("survive %d more losses", margin)
	}
}

func progressText(done, total int64, rate, eta float64) string {
	switch {
	case total <= 0 && done <= 0:
		return "" // it does not tell
	case total <= 0:
		return formatSize(done)
	}
	share := float64(done) / float64(total)
	text := fmt.Sprintf("%s %3.0f%%  %s of %s", bar(share, 20), share*100, formatSize(done), formatSize(total))
	if rate > 0 && share >= 0.01 { // before that a guess at the end would be wild
		text += fmt.Sprintf("  %s/s  %s left", formatSize(int64(rate)), formatDuration(time.Duration(eta*float64(time.Second))))
	}
	return text
}

// absolute makes directories absolute, as the server knows them; ids stay.
func absolute(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = name
		if _, err := storagenode.ParseUUID(name); err == nil {
			continue
		}
		if node, _, ok := strings.Cut(name, ":"); ok && !strings.Contains(node, "/") {
			continue // a directory of another machine
		}
		if path, err := filepath.Abs(name); err == nil {
			out[i] = path
		}
	}
	return out
}

func newAdminWhatIf(f *adminFlags) *cobra.Command {
	var drives driveChoice
	c := &cobra.Command{
		Use:   "what-if [DRIVE...]",
		Short: "What would be if these drives were pulled now",
		Long: `Says how many more losses the blobs would survive if the drives, named by id or
directory, and all those of the nodes and zones named, were gone.`,
		Example: "  kintsugi admin what-if data/d2 data/d3\n  kintsugi admin what-if node4:/data/d1\n  kintsugi admin what-if --node node4\n  kintsugi admin what-if --zone rack2 --node node1",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			var d repair.Durability
			if err := client.call(c.Context(), "GET", "/admin/v1/what-if", drives.query(args), &d); err != nil {
				return err
			}
			if f.asJSON {
				return printJSON(c.OutOrStdout(), d)
			}
			if d.Unreadable > 0 {
				fmt.Fprintf(c.OutOrStdout(), "DO NOT: %d of %d blobs could not be read\n", d.Unreadable, d.Blobs)
			} else {
				fmt.Fprintf(c.OutOrStdout(), "all %d blobs could be read\n", d.Blobs)
			}
			for _, m := range d.Margins {
				fmt.Fprintf(c.OutOrStdout(), "  margin %2d  %d blobs, %s: %s\n", m.Margin, m.Blobs, formatSize(m.Bytes), marginText(m.Margin))
			}
			return nil
		},
	}
	drives.add(c)
	return c
}

func newAdminStart(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "start PASS",
		Short: "Start a background pass now: scrub, inventory, orphans, deletes, damage, rebuild, census, recount",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.order(c, "/admin/v1/start", url.Values{"pass": args}, args[0]+" started; see kintsugi admin status")
		},
	}
}

func newAdminSwitch(f *adminFlags, use, short, path, done string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.order(c, path, nil, done) },
	}
}

// order has something done and says that it was.
func (f *adminFlags) order(c *cobra.Command, path string, query url.Values, done string) error {
	client, err := f.client()
	if err != nil {
		return err
	}
	var answer json.RawMessage
	if err := client.call(c.Context(), "POST", path, query, &answer); err != nil {
		return err
	}
	if f.asJSON {
		return printJSON(c.OutOrStdout(), answer)
	}
	fmt.Fprintln(c.OutOrStdout(), done)
	return nil
}
