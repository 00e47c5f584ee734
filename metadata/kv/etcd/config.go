package etcd

import (
	"crypto/tls"
	"log/slog"
	"time"

	"kintsugi/storagenode/clock"
)

// Config of a Store. Zero values mean what the comments say.
type Config struct {
	Endpoints []string // host:port of the members; required
	// Prefix of everything the Store keeps, at most 256 bytes; empty:
	// DefaultPrefix.
	Prefix string
	TLS    *tls.Config // nil: plain TCP
	// User and Password for etcd's own authentication; both empty: none.
	User, Password string
	// Timeout bounds a request, with all its attempts. Beyond it reads fail
	// with kv.ErrUnavailable, commits that were sent with kv.ErrUnknown. A
	// page of a scan has four times that. 0: 5 s.
	Timeout time.Duration
	Clock   clock.Clock  // nil: the system's
	Logger  *slog.Logger // nil: discards
}

// DefaultPrefix is where a Store keeps everything if the configuration names
// no other place.
const DefaultPrefix = "/kintsugi/"

// maxPrefix bounds the prefix, so that the largest transaction fits an etcd
// with its own limits: 1.5 MiB and 128 operations of a kind.
const maxPrefix = 256

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// DataRange gives what the keys of all pairs start with in etcd under a prefix,
// and the least key above them. No prefix means DefaultPrefix.
func DataRange(prefix string) (start, end []byte) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return []byte(prefix + "k/"), []byte(prefix + "k0")
}
