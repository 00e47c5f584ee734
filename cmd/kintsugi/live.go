package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newLive() *cobra.Command {
	var patience time.Duration
	c := &cobra.Command{
		Use:   "live [URL]",
		Short: "Ask a process whether it lives; the exit code tells",
		Long: `Asks the liveness route of a process of Kintsugi (default
http://127.0.0.1:9001/live): exit code 0 when it answers that it lives, 1
otherwise. It is the health check of container images that hold nothing but
this program. Servers, gateways and repairers have /ready as well, which is yes
once they serve and not while they wait for drives or metadata.`,
		Example: "  kintsugi live http://127.0.0.1:9101/live\n  kintsugi live http://127.0.0.1:9001/ready",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			url := "http://127.0.0.1:9001/live"
			if len(args) == 1 {
				url = liveURL(args[0])
			}
			ctx, cancel := context.WithTimeout(c.Context(), patience)
			defer cancel()
			return askLive(ctx, url)
		},
	}
	c.Flags().DurationVar(&patience, "timeout", 3*time.Second, "how long to wait for the answer")
	return c
}

// liveURL completes an address without a scheme or a path.
func liveURL(address string) string {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	if _, rest, _ := strings.Cut(address, "://"); !strings.Contains(strings.TrimSuffix(rest, "/"), "/") {
		address = strings.TrimSuffix(address, "/") + "/live"
	}
	return address
}

func askLive(ctx context.Context, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Whose certificate it is does not matter: nothing is told, and a certificate
	// for users need not name the address that is asked here.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("not live: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", url, resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}
