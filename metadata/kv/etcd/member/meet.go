package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// Where first members tell each other that they are new, and how often one asks.
const (
	meetPath  = "/kintsugi/new"
	meetEvery = 200 * time.Millisecond
	meetTime  = 3 * time.Second
)

// errLostData is what a member learns from the others that has taken part before.
var errLostData = errors.New("the cluster has this member already, and it has lost its data: mount the disk of --data-dir, or, where it is gone, start it with --join instead of --initial-cluster after: kintsugi admin metadata members remove")

// meet waits until this member may found a cluster with the others. One without
// data may have lost it: if it voted as if it had never taken part, it and one
// other that was away could be a majority without what was acknowledged. etcd
// asks the others whether they know it, but goes on where none answers. So all
// first members meet before the first of them starts: each says at its peer
// address that it is new until it has heard so of all, or met one that runs,
// which etcd then asks.
func (m *Member) meet(ctx context.Context, peers transport.TLSInfo, others []string) error {
	serving, err := peers.ServerConfig()
	if err != nil {
		return fmt.Errorf("certificate for members: %w", err)
	}
	calling, err := peers.ClientConfig()
	if err != nil {
		return fmt.Errorf("certificate for members: %w", err)
	}
	l, err := net.Listen("tcp", m.cfg.PeerAddress)
	if err != nil {
		return fmt.Errorf("peer address: %w", err)
	}
	server := &http.Server{
		TLSConfig: serving, ReadHeaderTimeout: meetTime, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != meetPath {
				http.NotFound(w, r) // what etcd answers there comes later
			}
		}),
	}
	go func() { _ = server.ServeTLS(l, "", "") }() // ends with Close
	defer server.Close()
	client := &http.Client{Timeout: meetTime, Transport: &http.Transport{TLSClientConfig: calling, DisableKeepAlives: true}}
	for said := ""; ; {
		away, err := m.roll(ctx, client, others)
		if err != nil || len(away) == 0 {
			return err
		}
		if now := strings.Join(away, ", "); now != said {
			m.cfg.Logger.Info("waiting for the other first members", "away", now)
			said = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(meetEvery):
		}
	}
}

// roll asks the others once and gives those that are away; none where all are
// new, or one runs.
func (m *Member) roll(ctx context.Context, client *http.Client, others []string) (away []string, err error) {
	for _, address := range others {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+meetPath, nil)
		if err != nil {
			return nil, fmt.Errorf("--initial-cluster: %w", err)
		}
		resp, err := client.Do(r)
		if err != nil {
			m.cfg.Logger.Debug("first member not met", "member", address, "err", err)
			away = append(away, address)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, nil // its etcd answers
		}
	}
	return away, nil
}
