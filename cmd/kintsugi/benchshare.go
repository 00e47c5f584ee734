package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kintsugi/cmd/internal/bench"
)

// share is what an endpoint reaches of the floor, both measured in turn.
type share struct {
	bench.Result
	FloorOpsPerSecond float64 `json:"floor_ops_per_second"`
	Share             float64 `json:"share"`
	Rounds            int     `json:"rounds"`
}

// runShares measures endpoint and floor in turn, rounds times, and prints the
// medians. Where of names another endpoint, that one stands in for the floor.
func runShares(c *cobra.Command, cfg bench.Config, of string, ops []bench.Op, rounds int, asJSON bool) error {
	atFloor := cfg
	if of != "" {
		if err := benchTarget(&atFloor, of); err != nil {
			return fmt.Errorf("--of: %w", err)
		}
	} else {
		floor, err := bench.StartFloor(cfg.Size)
		if err != nil {
			return err
		}
		defer floor.Close()
		atFloor.Say = nil // it keeps nothing
		atFloor.Endpoint, atFloor.Secure, atFloor.AccessKey, atFloor.SecretKey = floor.Address(), false, "floor", "floor-floor"
	}
	var shares []share
	for _, cfg.Op = range ops {
		atFloor.Op = cfg.Op
		var real, most []bench.Result
		for range rounds {
			r, err := bench.Run(c.Context(), cfg)
			if err != nil {
				return fmt.Errorf("%s: %w", cfg.Op, err)
			}
			if err := c.Context().Err(); err != nil {
				return fmt.Errorf("%s: %w", cfg.Op, err)
			}
			f, err := bench.Run(c.Context(), atFloor)
			if err != nil {
				return fmt.Errorf("%s, what it is compared with: %w", cfg.Op, err)
			}
			if err := c.Context().Err(); err != nil {
				return fmt.Errorf("%s: %w", cfg.Op, err)
			}
			real, most = append(real, r), append(most, f)
		}
		clearLine(c.ErrOrStderr())
		s := share{Result: medianResult(real), FloorOpsPerSecond: medianResult(most).OpsPerSecond, Rounds: rounds}
		s.Share = s.OpsPerSecond / s.FloorOpsPerSecond
		shares = append(shares, s)
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), map[string]any{"shares": shares})
	}
	name := "floor"
	if of != "" {
		name = "other"
	}
	return shareTable(c.OutOrStdout(), name, shares)
}

// medianResult is the run of median speed; of an even number, the slower.
func medianResult(all []bench.Result) bench.Result {
	slices.SortFunc(all, func(a, b bench.Result) int {
		switch {
		case a.OpsPerSecond < b.OpsPerSecond:
			return -1
		case a.OpsPerSecond > b.OpsPerSecond:
			return 1
		}
		return 0
	})
	return all[(len(all)-1)/2]
}

// shareTable prints the shares; other names what they are of.
func shareTable(w io.Writer, other string, shares []share) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "op\tsize\tclients\tops/s\t"+other+"\tshare\tp50\tp99\terrors\t")
	for _, s := range shares {
		size := formatSize(s.SizeBytes)
		if s.RangeBytes > 0 {
			size = formatSize(s.RangeBytes) + " of " + size
		}
		if s.Op == bench.List {
			size = fmt.Sprintf("%.0f keys/s", s.KeysPerSecond)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%.0f\t%.0f\t%.0f%%\t%.2f ms\t%.2f ms\t%d\t\n",
			s.Op, size, s.Concurrency, s.OpsPerSecond, s.FloorOpsPerSecond, 100*s.Share, s.P50MS, s.P99MS, s.Errors)
	}
	return t.Flush()
}
