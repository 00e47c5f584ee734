package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"kintsugi/repair"
)

func newAdminRepair(f *adminFlags) *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "repair",
		Short: "Look for damage everywhere and repair it now",
		Long: `Compares what every slot should hold with what its drive holds, rebuilds what is
missing, then counts everything afresh. It ends with exit code 0 only when that
independent recount found every blob with all its shards.

The background repairer does the same by itself; this waits for it.
--watch shows a progress bar with bytes, rate and time left.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			return runRepair(c, client, watch, f.asJSON)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show progress")
	return c
}

func runRepair(c *cobra.Command, client *adminClient, watch, asJSON bool) error {
	terminal := isTerminal(c.ErrOrStderr())
	var last repairLine
	var why, phase string
	err := client.stream(c.Context(), "/admin/v1/repair", nil, func(text []byte) (bool, error) {
		var line repairLine
		if err := json.Unmarshal(text, &line); err != nil {
			return false, err
		}
		if line.Why != "" {
			why = line.Why
		}
		if line.Report != nil {
			last = line
			return true, nil
		}
		if watch && (terminal || string(line.Phase) != phase || line.Phase == repair.Repairing) {
			phase = string(line.Phase)
			showRepair(c, line.Progress, terminal)
		}
		return false, nil
	})
	clearLine(c.ErrOrStderr())
	if err != nil {
		return err
	}
	rep := last.Report
	if asJSON {
		if err := printJSON(c.OutOrStdout(), last); err != nil {
			return err
		}
	} else if rep.Whole {
		fmt.Fprintf(c.OutOrStdout(), "healed: a recount found all %d blobs (%s) with all their shards; 'kintsugi admin verify' reads every byte of them\n", rep.Blobs, formatSize(rep.Bytes))
	} else {
		fmt.Fprintf(c.OutOrStdout(), "NOT healed: %s\n  %d of %d blobs in full, %d damaged, %d with shards on drives that cannot be asked, %d unreadable now\n", why, rep.Full, rep.Blobs, rep.Damaged, rep.Unreached, rep.Unreadable)
	}
	if !rep.Whole {
		return exitCode(2)
	}
	return nil
}

func showRepair(c *cobra.Command, p repair.Progress, terminal bool) {
	text := string(p.Phase)
	if p.BytesTotal > 0 || p.BytesDone > 0 {
		text = fmt.Sprintf("%-10s %s", p.Phase, progressText(p.BytesDone, p.BytesTotal, p.Rate, p.ETASeconds))
	}
	if terminal {
		fmt.Fprintf(c.ErrOrStderr(), "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(c.ErrOrStderr(), text)
}

func newAdminVerify(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [bucket[/key]]",
		Short: "Read every shard and report damage",
		Long: `Reads every shard of everything, of a bucket, or of one object, and verifies every
byte against its checksum. Damage is marked and repaired in the background.
Exit code 0: all is good; 2: damage was found, or drives could not be asked.`,
		Example: "  kintsugi admin verify\n  kintsugi admin verify photos\n  kintsugi admin verify photos/2026/cat.jpg",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			if len(args) == 1 {
				bucket, key, _ := strings.Cut(strings.TrimPrefix(args[0], "s3://"), "/")
				query = url.Values{"bucket": {bucket}, "key": {key}}
			}
			return runVerify(c, client, query, f.asJSON)
		},
	}
}

func runVerify(c *cobra.Command, client *adminClient, query url.Values, asJSON bool) error {
	terminal := isTerminal(c.ErrOrStderr())
	var last verifyLine
	err := client.stream(c.Context(), "/admin/v1/verify", query, func(text []byte) (bool, error) {
		var line verifyLine
		if err := json.Unmarshal(text, &line); err != nil {
			return false, err
		}
		last = line
		if terminal && !line.Done {
			fmt.Fprintf(c.ErrOrStderr(), "\r\x1b[Kverified %d blobs, %s; %d shards bad", line.Blobs, formatSize(line.Bytes), line.Missing+line.Corrupt)
		}
		return line.Done, nil
	})
	clearLine(c.ErrOrStderr())
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(c.OutOrStdout(), last.VerifyReport)
	} else {
		_, err = fmt.Fprintf(c.OutOrStdout(), "read %d shards of %d blobs (%s): %d good, %d missing, %d corrupt, %d on drives that cannot be asked; %d blobs unreadable now\n",
			last.Shards, last.Blobs, formatSize(last.Bytes), last.Good, last.Missing, last.Corrupt, last.Unreached, last.Unreadable)
		for _, b := range last.Named {
			if err == nil {
				_, err = fmt.Fprintf(c.OutOrStdout(), "  cannot be read now: %s/%q (blob %s in PG %d)\n", b.Bucket, b.Key, b.Blob, b.PG)
			}
		}
		if err == nil && last.Missing+last.Corrupt > 0 {
			_, err = fmt.Fprintln(c.OutOrStdout(), "what is damaged is being repaired; kintsugi admin repair --watch waits until it is")
		}
	}
	if err == nil && last.Good < last.Shards {
		return exitCode(2)
	}
	return err
}
