package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kintsugi/gateway/console"
	"kintsugi/repair"
)

func newAdminNodes(f *adminFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes: zone, state, space, last heartbeat; forget one",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withNodes(c, f, func(w io.Writer, nodes []nodeStatus) error {
				t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "NODE\tZONE\tSTATE\tDRIVES\tUSED\tFREE\tHEARD\tADDRESS\tVERSION")
				for _, n := range nodes {
					s := n.space()
					fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Zone, n.State, len(n.Drives), formatSize(s.Used), formatSize(s.Free), ago(n.Heard), n.Address, n.Version)
				}
				return t.Flush()
			})
		},
	}
	c.AddCommand(newAdminForget(f))
	return c
}

func newAdminForget(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "forget NODE...",
		Short: "Take nodes that are gone for good out of the lists, with their drives",
		Long: `Takes nodes out of the metadata that are gone for good, with their drives. It is
refused for a node that was heard of lately, and as long as anything is kept on one
of its drives: what was there must have been rebuilt elsewhere before, as happens
by itself once its drives are OUT, or by "kintsugi admin drives drain". A node that
comes back all the same announces itself and is taken for a new one.`,
		Example: "  kintsugi admin nodes forget node4",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			all := []forgotten{}
			for _, name := range args {
				var answer forgotten
				if err = client.call(c.Context(), http.MethodPost, "/admin/v1/nodes/forget", url.Values{"node": {name}}, &answer); err != nil {
					break
				}
				all = append(all, answer)
				if !f.asJSON {
					fmt.Fprintf(c.OutOrStdout(), "node %s is forgotten, with %s\n", answer.Node, plural(answer.Drives, "drive"))
				}
			}
			if f.asJSON {
				err = errors.Join(err, printJSON(c.OutOrStdout(), map[string]any{"forgotten": all}))
			}
			return err
		},
	}
}

// forgotten is the answer of POST /admin/v1/nodes/forget.
type forgotten struct {
	Node   string `json:"node"`
	Drives int    `json:"drives"`
}

func (a *adminAPI) forget(r *http.Request) (any, error) {
	name := r.URL.Query().Get("node")
	if name == "" {
		return nil, &console.Error{Status: http.StatusBadRequest, Message: "no node named: node=NAME"}
	}
	n, err := a.repairer.ForgetNode(r.Context(), name)
	if errors.Is(err, repair.ErrNotForgettable) {
		return nil, &console.Error{Status: http.StatusConflict, Message: err.Error()}
	}
	return forgotten{name, n}, err
}
