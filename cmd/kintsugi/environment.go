package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const envPrefix = "KINTSUGI_"

// variable is the name of the variable that sets a flag.
func variable(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment lets every flag of a command that is not given be set by a
// variable: --admin-address by KINTSUGI_ADMIN_ADDRESS.
func fromEnvironment(c *cobra.Command) {
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		var bad error
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name := variable(f.Name)
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

// knownVariables are all that some command reads, and those that our units and
// scripts do: processes may share a file of variables.
func knownVariables(root *cobra.Command) []string {
	known := []string{"KINTSUGI_ADMIN_URL", "KINTSUGI_DATA", "KINTSUGI_DRIVES", "KINTSUGI_METADATA_USER"}
	for _, secret := range []string{envAccessKey, envSecretKey, envClusterSecret, "KINTSUGI_METADATA_PASSWORD"} {
		known = append(known, secret, secret+"_FILE")
	}
	for _, c := range root.Commands() {
		if c.PreRunE != nil { // fromEnvironment's
			c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, variable(f.Name)) })
		}
	}
	return known
}

// warnOfVariables says in one line which variables look like ours and are read by
// nobody: one that is mistyped would be ignored without a word.
func warnOfVariables(w io.Writer, environ, known []string) {
	var unknown []string
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(known, name) || ofService(name) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
		unknown = append(unknown, fmt.Sprintf("%s (the nearest there is: %s)", name, nearest))
	}
	if len(unknown) > 0 {
		fmt.Fprintf(w, "kintsugi: WARNING: no command knows these variables, they are ignored: %s\n", strings.Join(unknown, ", "))
	}
}

// ofService says that a variable is one that Kubernetes makes for each service, here
// for one whose name begins with ours.
func ofService(name string) bool {
	return strings.HasSuffix(name, "_PORT") || strings.Contains(name, "_PORT_") || strings.Contains(name, "_SERVICE_HOST")
}

// distance is how many letters have to be put in, taken out or exchanged to make
// b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
