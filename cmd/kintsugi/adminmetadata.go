package main

import "github.com/spf13/cobra"

func newAdminMetadata(f *adminFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "metadata",
		Short: "Members of the metadata cluster; dump and load all metadata",
	}
	c.AddCommand(newAdminMembers(f))
	return c
}
