package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// fromEnvironment lets every flag of a command that is not given be set by a
// variable: --admin-address by KINTSUGI_ADMIN_ADDRESS.
func fromEnvironment(c *cobra.Command) {
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		var bad error
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name := "KINTSUGI_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			value, ok := os.LookupEnv(name)
			if !ok || f.Changed || bad != nil {
				return
			}
			if err := c.Flags().Set(f.Name, value); err != nil {
				bad = fmt.Errorf("%s: %w", name, err)
			}
		})
		return bad
	}
}
