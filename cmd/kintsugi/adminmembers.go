package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kintsugi/metadata/kv/etcd"
)

func newAdminMembers(f *adminFlags) *cobra.Command {
	where := &metadataFlags{}
	c := &cobra.Command{
		Use:   "members",
		Short: "List the members of the metadata cluster; add, remove or promote one",
		Long: `Lists the etcd members: who leads, how large their databases are, how many
entries each is behind, and whether they are well. It speaks to the members
themselves, with the cluster's secret (KINTSUGI_CLUSTER_SECRET or …_FILE), or
KINTSUGI_METADATA_USER and KINTSUGI_METADATA_PASSWORD.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withMembers(c, where, func(s *etcd.Store) error {
				all, err := s.Members(c.Context())
				if err != nil {
					return err
				}
				if f.asJSON {
					return printJSON(c.OutOrStdout(), map[string]any{"members": all})
				}
				return writeMembers(c.OutOrStdout(), all)
			})
		},
	}
	where.add(c.PersistentFlags())
	c.PersistentFlags().StringVar(&where.secretFile, "cluster-secret-file", "", "file with the cluster's secret (or KINTSUGI_CLUSTER_SECRET)")
	c.AddCommand(newMemberAdd(f, where),
		newMemberChange(f, where, "remove ID", "Take a member out for good", "removed", (*etcd.Store).RemoveMember),
		newMemberChange(f, where, "promote ID", "Make a learner that has caught up a full member", "promoted", (*etcd.Store).PromoteMember))
	return c
}

func newMemberAdd(f *adminFlags, where *metadataFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "add PEER-HOST:PORT",
		Short: "Let a new member in, as a learner",
		Long: `A member that is started with --join does this by itself. For an etcd that
Kintsugi does not run, add it here, start it as etcd's manual says, and promote
it once it has caught up.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withMembers(c, where, func(s *etcd.Store) error {
				peer := args[0]
				if !strings.Contains(peer, "://") {
					peer = "https://" + peer
				}
				id, _, err := s.AddMember(c.Context(), peer)
				if err != nil {
					return err
				}
				return f.tellMember(c.OutOrStdout(), "added", id, " as a learner")
			})
		},
	}
}

func newMemberChange(f *adminFlags, where *metadataFlags, use, short, done string, act func(*etcd.Store, context.Context, etcd.MemberID) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var id etcd.MemberID
			if err := id.UnmarshalText([]byte(args[0])); err != nil {
				return fmt.Errorf("member %q: want an id as `kintsugi admin metadata members` lists them", args[0])
			}
			return withMembers(c, where, func(s *etcd.Store) error {
				if err := act(s, c.Context(), id); err != nil {
					return err
				}
				return f.tellMember(c.OutOrStdout(), done, id, "")
			})
		},
	}
}

// tellMember says what was done to a member.
func (f *adminFlags) tellMember(w io.Writer, done string, id etcd.MemberID, how string) error {
	if f.asJSON {
		return printJSON(w, map[string]etcd.MemberID{done: id})
	}
	_, err := fmt.Fprintf(w, "%s %s%s\n", done, id, how)
	return err
}

func withMembers(c *cobra.Command, where *metadataFlags, f func(*etcd.Store) error) error {
	s, err := where.open(c.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer s.Close()
	return f(s)
}

func writeMembers(w io.Writer, all []etcd.Member) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MEMBER\tNAME\tSTATE\tDATABASE\tIN USE\tBEHIND\tCLIENTS\tPEERS\tNOTE")
	for _, m := range all {
		state := "follower"
		switch {
		case m.Name == "":
			state = "not started"
		case !m.Healthy:
			state = "NOT WELL"
		case m.Learner:
			state = "learner"
		case m.Leader:
			state = "leader"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", m.ID, m.Name, state, formatSize(m.DBSize), formatSize(m.InUse), m.Lag,
			strings.Join(m.Clients, ","), strings.Join(m.Peers, ","), strings.Join(m.Errors, "; "))
	}
	return t.Flush()
}
