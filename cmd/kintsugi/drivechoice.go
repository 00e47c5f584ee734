package main

import (
	"net/url"

	"github.com/spf13/cobra"
)

// driveChoice is how a command is told of drives: one by one, by id or directory, and all
// those of nodes and zones.
type driveChoice struct{ nodes, zones []string }

// add gives the command its flags, and has it refuse to run where nothing is named.
func (d *driveChoice) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&d.nodes, "node", nil, "name of a node, with all its drives; may be given several times")
	c.Flags().StringArrayVar(&d.zones, "zone", nil, "name of a zone, with all its drives; may be given several times")
	c.Args = func(c *cobra.Command, args []string) error {
		if len(d.nodes)+len(d.zones) > 0 {
			return nil
		}
		return cobra.MinimumNArgs(1)(c, args)
	}
}

// query is the choice as the admin API takes it.
func (d *driveChoice) query(args []string) url.Values {
	return url.Values{"drive": absolute(args), "node": d.nodes, "zone": d.zones}
}
