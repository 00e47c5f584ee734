package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/spf13/cobra"

	"kintsugi/cmd/internal/bench"
)

func newBench() *cobra.Command {
	cfg := bench.Config{}
	size, ranged := sizeFlag(4<<10), sizeFlag(0)
	var endpoint, of, ops string
	var floor, asJSON bool
	var rounds int
	c := &cobra.Command{
		Use:   "bench",
		Short: "Put load on an S3 endpoint and measure it",
		Long: `Puts load on any S3 endpoint and prints throughput and latency.

The credentials are those of the server: KINTSUGI_ROOT_ACCESS_KEY and
KINTSUGI_ROOT_SECRET_KEY (or …_FILE), or --access-key and --secret-key.

--floor runs the same load against a handler inside this process that checks
nothing and stores nothing: the most that client and HTTP allow here. What a
server reaches, divided by the floor measured in the same minutes, is a figure
that can be compared between machines: --share N measures both in turn, N times,
and prints the medians. Ctrl-C and SIGTERM end the measurement; the objects are
removed within 10 seconds, or left by a second signal.`,
		Example: `  kintsugi bench --op put,get,stat --size 4KiB --concurrency 16
  kintsugi bench --op get --size 16MiB --range 1MiB --concurrency 8
  kintsugi bench --op put --size 1MiB --concurrency 8 --floor --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg.Size, cfg.Range = int64(size), int64(ranged)
			names, err := benchOps(ops)
			if err := errors.Join(err, benchRounds(rounds, floor, of)); err != nil {
				return err
			}
			if floor {
				f, err := bench.StartFloor(cfg.Size)
				if err != nil {
					return err
				}
				defer f.Close()
				cfg.Endpoint, cfg.Secure, cfg.AccessKey, cfg.SecretKey = f.Address(), false, "floor", "floor-floor"
			} else if err := benchTarget(&cfg, endpoint); err != nil {
				return err
			} else {
				cfg.Say = func(text string) { benchSays(c, text) }
			}
			if rounds > 0 {
				cfg.Progress = benchProgress(c.ErrOrStderr())
				return benchAdvice(runShares(c, cfg, of, names, rounds, asJSON), endpoint)
			}
			return benchAdvice(runBench(c, cfg, names, asJSON), endpoint)
		},
	}
	f := c.Flags()
	f.StringVar(&endpoint, "endpoint", "http://127.0.0.1:9000", "S3 endpoint")
	f.StringVar(&cfg.AccessKey, "access-key", "", "access key (default: KINTSUGI_ROOT_ACCESS_KEY)")
	f.StringVar(&cfg.SecretKey, "secret-key", "", "secret key (default: KINTSUGI_ROOT_SECRET_KEY)")
	f.StringVar(&cfg.Region, "region", "us-east-1", "region to sign for")
	f.StringVar(&cfg.Bucket, "bucket", "kintsugi-bench", "bucket to use; made when absent")
	f.StringVar(&ops, "op", "put,get,stat,list,delete", "operations, one after another: put, get, stat, list, delete, mixed")
	f.Var(&size, "size", "object size")
	f.Var(&ranged, "range", "get: read ranges of this size instead of whole objects")
	f.IntVar(&cfg.Objects, "objects", 0, "objects to prepare for get, stat, list and delete (0: chosen by size)")
	f.IntVarP(&cfg.Concurrency, "concurrency", "c", 16, "concurrent clients")
	f.DurationVarP(&cfg.Duration, "duration", "d", 10*time.Second, "time to measure for each operation")
	f.BoolVar(&cfg.Keep, "keep", false, "leave the objects in the bucket")
	f.BoolVar(&floor, "floor", false, "measure a handler that does nothing instead of an endpoint")
	f.IntVar(&rounds, "share", 0, "measure endpoint and floor in turn, this many times, and print the share")
	f.StringVar(&of, "of", "", "with --share: another endpoint to compare with, instead of the floor")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// benchAdvice adds what to do where the endpoint cannot be reached or refuses.
func benchAdvice(err error, endpoint string) error {
	var dial *net.OpError
	var refused minio.ErrorResponse
	switch {
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("%w\nis the server running, and is %s its --address? Another is named with --endpoint", err, endpoint)
	case errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w\nthe credentials must be those of %s, --region its region", err, endpoint)
	}
	return err
}

// benchSays says what is left in the bucket. When the command was interrupted, a
// second signal ends the process from here on.
func benchSays(c *cobra.Command, text string) {
	if c.Context().Err() != nil {
		signal.Reset(syscall.SIGINT, syscall.SIGTERM)
	}
	clearLine(c.ErrOrStderr())
	fmt.Fprintln(c.ErrOrStderr(), text)
}

// benchTarget reads endpoint and credentials.
func benchTarget(cfg *bench.Config, endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("endpoint %q: want http://host:port or https://host:port", endpoint)
	}
	cfg.Endpoint, cfg.Secure = u.Host, u.Scheme == "https"
	if (cfg.AccessKey == "") != (cfg.SecretKey == "") {
		return errors.New("--access-key and --secret-key belong together: give both or none")
	}
	if cfg.AccessKey != "" {
		return nil
	}
	cred, err := credentialsFromEnv()
	if err != nil {
		return err
	}
	cfg.AccessKey, cfg.SecretKey = cred.AccessKey, cred.SecretKey
	return nil
}

// benchOps reads the operations, all before the first of them runs.
func benchOps(text string) ([]bench.Op, error) {
	var ops []bench.Op
	for _, name := range strings.Split(text, ",") {
		op := bench.Op(strings.TrimSpace(name))
		if !slices.Contains(bench.Ops(), op) {
			return nil, fmt.Errorf("--op %q: want some of %v, separated by commas", name, bench.Ops())
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// benchRounds refuses flags of a comparison that do not go together.
func benchRounds(rounds int, floor bool, of string) error {
	switch {
	case rounds < 0:
		return fmt.Errorf("--share %d: want the number of rounds", rounds)
	case rounds > 0 && floor:
		return errors.New("--share measures the floor, too: leave --floor out")
	case of != "" && rounds == 0:
		return errors.New("--of compares in rounds: say how many with --share")
	}
	return nil
}

// runBench measures one operation after another and prints the results, also
// those of the operations before one that failed or was interrupted.
func runBench(c *cobra.Command, cfg bench.Config, ops []bench.Op, asJSON bool) error {
	results := []bench.Result{}
	cfg.Progress = benchProgress(c.ErrOrStderr())
	var failed error
	for _, cfg.Op = range ops {
		res, err := bench.Run(c.Context(), cfg)
		clearLine(c.ErrOrStderr())
		if err != nil {
			failed = fmt.Errorf("%s: %w", cfg.Op, err)
			break
		}
		results = append(results, res)
		if err := c.Context().Err(); err != nil {
			failed = fmt.Errorf("%s: %w", cfg.Op, err)
			break
		}
	}
	if failed != nil && len(results) == 0 {
		return failed
	}
	return errors.Join(writeBench(c.OutOrStdout(), results, asJSON), failed)
}

func writeBench(w io.Writer, results []bench.Result, asJSON bool) error {
	if asJSON {
		return printJSON(w, map[string]any{"results": results})
	}
	return benchTable(w, results)
}

func benchTable(w io.Writer, results []bench.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "op\tsize\tclients\tops/s\tthroughput\tp50\tp90\tp99\tmax\terrors\t")
	for _, r := range results {
		size := formatSize(r.SizeBytes)
		if r.RangeBytes > 0 {
			size = formatSize(r.RangeBytes) + " of " + size
		}
		through := formatSize(int64(r.BytesPerSecond)) + "/s"
		if r.Op == bench.List {
			through = fmt.Sprintf("%.0f keys/s", r.KeysPerSecond)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%.0f\t%s\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f ms\t%d\t\n",
			r.Op, size, r.Concurrency, r.OpsPerSecond, through, r.P50MS, r.P90MS, r.P99MS, r.MaxMS, r.Errors)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		if r.Errors > 0 {
			fmt.Fprintf(w, "first error of %s: %s\n", r.Op, r.FirstError)
		}
	}
	return nil
}

// benchProgress draws a bar where w is a terminal, nothing elsewhere.
func benchProgress(w io.Writer) func(bench.Progress) {
	if !isTerminal(w) {
		return nil
	}
	return func(p bench.Progress) {
		fmt.Fprintf(w, "\r\x1b[K%-8s %s %3.0f%%  %d operations  %s", p.Phase, bar(p.Done, 30), p.Done*100, p.Ops, formatSize(p.Bytes))
	}
}

func clearLine(w io.Writer) {
	if isTerminal(w) {
		fmt.Fprint(w, "\r\x1b[K")
	}
}

// isTerminal says whether w is a character device.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
