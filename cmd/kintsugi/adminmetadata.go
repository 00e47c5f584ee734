package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kintsugi/erasure"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/dump"
	"kintsugi/metadata/kv/etcd"
	"kintsugi/metadata/kv/etcd/member"
	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode/node"
	"kintsugi/storagenode/vfs"
)

func newAdminMetadata(f *adminFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "metadata",
		Short: "Members of the metadata cluster; dump and load all metadata",
	}
	c.AddCommand(newAdminMembers(f), newAdminDump(f), newAdminLoad(f))
	return c
}

// place is an engine that a dump comes from or goes to.
type place struct {
	where, scheme, prefix string
	flags                 metadataFlags
}

// snapshotScheme is what names a file that a metadata member wrote.
const snapshotScheme = "snapshot:"

func (p *place) add(c *cobra.Command, name, what string) {
	s := c.Flags()
	s.StringVar(&p.where, name, "", what+": etcd://host:port,…/prefix, or the drive directories of a stopped server, separated by commas")
	s.StringVar(&p.scheme, "scheme", "", "the server's --scheme, where it was given one (drive directories)")
	s.StringVar(&p.flags.files.CA, "metadata-ca", "", "certificate authority of the metadata members, PEM")
	s.StringVar(&p.flags.files.Cert, "metadata-cert", "", "certificate to show them, PEM")
	s.StringVar(&p.flags.files.Key, "metadata-key", "", "its key, PEM")
	s.StringVar(&p.flags.secretFile, "cluster-secret-file", "", "file with the cluster's secret (or KINTSUGI_CLUSTER_SECRET)")
}

// open opens the engine. format lets an embedded one be made on drives that
// have none.
func (p *place) open(ctx context.Context, format bool) (kv.Store, error) {
	if strings.HasPrefix(p.where, etcd.Scheme+"://") {
		p.flags.url = p.where
		return p.flags.open(ctx, slog.New(slog.DiscardHandler))
	}
	if path, ok := strings.CutPrefix(p.where, snapshotScheme); ok {
		return openSnapshot(ctx, path, p.prefix)
	}
	dirs := strings.Split(p.where, ",")
	for i, d := range dirs {
		abs, err := filepath.Abs(d)
		if err != nil || d == "" {
			return nil, fmt.Errorf("%q: want etcd://… or drive directories separated by commas", p.where)
		}
		dirs[i] = abs
	}
	scheme := erasure.DefaultScheme(len(dirs))
	if p.scheme != "" {
		var err error
		if scheme, err = erasure.ParseScheme(p.scheme); err != nil {
			return nil, err
		}
	}
	held, release, err := node.Hold(vfs.OS(), dirs)
	if err != nil {
		return nil, err
	}
	cfg := journal.Config{
		FS: vfs.OS(), Cluster: held[0].Cluster, Tolerance: int(scheme.M), Whose: node.Whose, Format: format,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, h := range held {
		cfg.Drives = append(cfg.Drives, journal.Member{ID: h.Drive, Dir: h.Dir})
	}
	s, err := journal.Open(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return &offline{s, release}, nil
}

// openSnapshot opens a member's snapshot that holds something under a prefix, as
// the path of a metadata URL has it.
func openSnapshot(ctx context.Context, path, prefix string) (kv.Store, error) {
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix = "/" + prefix + "/"
	}
	s, err := member.OpenSnapshot(path, prefix)
	if err != nil {
		return nil, err
	}
	for _, err := range s.Scan(ctx, nil, nil) {
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		return s, nil
	}
	return nil, errors.Join(fmt.Errorf("snapshot %s holds no metadata of Kintsugi under this prefix: --prefix is what follows the hosts in the metadata URL", path), s.Close())
}

// offline is an embedded engine without its server.
type offline struct {
	*journal.Store
	release func() error
}

// Close implements kv.Store.
func (o *offline) Close() error { return errors.Join(o.Store.Close(), o.release()) }

func newAdminDump(f *adminFlags) *cobra.Command {
	var from place
	var to string
	c := &cobra.Command{
		Use:   "dump --from PLACE --to FILE",
		Short: "Write all metadata, one consistent state, into a checksummed file",
		Long: `Writes one consistent state of all metadata into a file, reads the file back,
and prints what it holds. The same for both engines: the members of an etcd, which
may be in use, or the drive directories of a server, which must be stopped. A
snapshot that a metadata member wrote (--snapshot-dir) is a place, too: should all
members be lost, a dump of the newest is loaded into new ones.`,
		Example: `  kintsugi admin metadata dump --from data/d1,data/d2,data/d3,data/d4,data/d5,data/d6 --to metadata.dump
  kintsugi admin metadata dump --from etcd://10.0.0.1,10.0.0.2,10.0.0.3 --to metadata.dump
  kintsugi admin metadata dump --from snapshot:/backup/metadata-20261126T120000.000Z.snapshot --to metadata.dump`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if from.where == "" || to == "" {
				return errors.New("--from and --to are required")
			}
			s, err := from.open(c.Context(), false)
			if err != nil {
				return err
			}
			sum, err := dumpTo(c.Context(), s, to)
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			return showSummary(c.OutOrStdout(), f, "dumped", to, sum)
		},
	}
	from.add(c, "from", "where the metadata is")
	c.Flags().StringVar(&to, "to", "", "file to write; it must not exist")
	c.Flags().StringVar(&from.prefix, "prefix", "", "for a snapshot: what follows the hosts in the metadata URL (default /kintsugi)")
	return c
}

// dumpTo writes a dump that is whole or absent.
func dumpTo(ctx context.Context, s kv.Store, path string) (sum dump.Summary, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return sum, fmt.Errorf("%s exists already: %w", path, errors.Join(err, os.ErrExist))
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".dump-*") // 0600: keys are names that users chose
	if err != nil {
		return sum, err
	}
	defer os.Remove(tmp.Name())
	sum, err = dump.Dump(ctx, s, tmp, time.Now())
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return sum, err
	}
	back, err := os.Open(tmp.Name())
	if err != nil {
		return sum, err
	}
	_, read, err := dump.Read(back, func(kv.Pair) error { return nil })
	if err = errors.Join(err, back.Close()); err != nil {
		return sum, fmt.Errorf("read back: %w", err)
	}
	if !read.Equal(sum) {
		return sum, fmt.Errorf("read back: %w", dump.ErrDamaged)
	}
	if err := os.Link(tmp.Name(), path); err != nil { // fails where a file came up meanwhile
		return sum, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return sum, err
	}
	return sum, errors.Join(dir.Sync(), dir.Close())
}

func newAdminLoad(f *adminFlags) *cobra.Command {
	var to place
	var from string
	c := &cobra.Command{
		Use:   "load --from FILE --to PLACE",
		Short: "Load a dump into an empty metadata engine and prove that it holds the same",
		Long: `Verifies the dump, loads it into an engine that holds nothing, reads everything
back and compares counts and checksums. A load that was cut off is resumed by the
same command; until it has ended well nothing starts on that engine.

No gateway, server or repairer may run on either engine meanwhile. Drive
directories must be those of the cluster, with a stopped server; to load into
ones that have an old namespace, move their folders journal and state away.

What was written after the dump is unknown to the loaded metadata. So no orphans
are collected until you say kintsugi admin agree-orphans.`,
		Example: `  kintsugi admin metadata load --from metadata.dump --to etcd://10.0.0.1,10.0.0.2,10.0.0.3`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if from == "" || to.where == "" {
				return errors.New("--from and --to are required")
			}
			s, err := to.open(c.Context(), true)
			if err != nil {
				return err
			}
			lines, terminal := newThrottle(), isTerminal(c.ErrOrStderr())
			sum, err := dump.Load(c.Context(), s, func() (io.ReadCloser, error) { return os.Open(from) },
				[]kv.Pair{catalog.RestoredRow(time.Now())}, func(done, of uint64) {
					if terminal && lines.due() {
						fmt.Fprintf(c.ErrOrStderr(), "\r\x1b[Kloaded %d of %d pairs", done, of)
					}
				})
			clearLine(c.ErrOrStderr())
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			return showSummary(c.OutOrStdout(), f, "loaded and read back", from, sum)
		},
	}
	to.add(c, "to", "where to load it")
	c.Flags().StringVar(&from, "from", "", "file with the dump")
	return c
}

// families names what keys begin with.
var families = map[byte]string{
	'B': "buckets", 'c': "objects", 'u': "uploads", 'p': "parts", 'M': "part lists", 'G': "placement groups", 'g': "group contents",
	'D': "drives", 'N': "nodes", 'L': "leaders", 'l': "leaders' heartbeats", 'b': "blobs", 'm': "damage", 'x': "deletes owed", 'F': "cluster",
	's': "scrubs", 'o': "quarantine",
}

func showSummary(w io.Writer, f *adminFlags, done, file string, s dump.Summary) error {
	if f.asJSON {
		counts := map[string]any{}
		for _, m := range s.Families {
			counts[string(rune(m.Family))] = map[string]uint64{"pairs": m.Pairs, "bytes": m.Bytes}
		}
		return printJSON(w, map[string]any{"file": file, "pairs": s.Pairs(), "bytes": s.Bytes(), "families": counts, "sha256": fmt.Sprintf("%x", s.Sum)})
	}
	fmt.Fprintf(w, "%s: %d pairs, %s\n", done, s.Pairs(), formatSize(int64(s.Bytes())))
	for _, m := range s.Families {
		fmt.Fprintf(w, "  %-19s %10d  %s\n", families[m.Family], m.Pairs, formatSize(int64(m.Bytes)))
	}
	_, err := fmt.Fprintf(w, "sha256 of all pairs: %x\n", s.Sum)
	return err
}
