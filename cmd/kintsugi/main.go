// Command kintsugi is the one binary of Kintsugi, an S3-compatible object
// store that erasure-codes, verifies and repairs what it holds. Each
// subcommand has a file of its own; this package is the only place that
// constructs things.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, signalled := untilSignal(context.Background())
	err := newRoot().ExecuteContext(ctx)
	text, code := ending(err, signalled())
	exit(text, code)
}

// untilSignal gives a context that ends with Ctrl-C or SIGTERM; signalled says with
// which, 0: none came.
func untilSignal(ctx context.Context) (_ context.Context, signalled func() syscall.Signal) {
	ctx, cancel := context.WithCancel(ctx)
	var which atomic.Int32
	came := make(chan os.Signal, 1)
	signal.Notify(came, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		if s, ok := (<-came).(syscall.Signal); ok {
			which.Store(int32(s))
		}
		cancel()
	}()
	return ctx, func() syscall.Signal { return syscall.Signal(which.Load()) }
}

// ofSignal and a signal's number are the exit code of a command that it ended
// before it was done, as shells have it.
const ofSignal = 128

// ending is what is said at the end, and the exit code.
func ending(err error, signalled syscall.Signal) (text string, code int) {
	var quiet exitCode
	switch {
	case err == nil:
		return "", 0
	case errors.As(err, &quiet):
		return "", int(quiet)
	case signalled != 0 && errors.Is(err, context.Canceled):
		return strings.ReplaceAll(err.Error(), context.Canceled.Error(), "interrupted"), ofSignal + int(signalled)
	}
	return err.Error(), 1
}

// exitCode ends the process with a code after the command has said why.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "kintsugi",
		Short: "An S3-compatible object store that erasure-codes, verifies and repairs itself",
		Long: `Kintsugi stores S3 objects as Reed-Solomon shards over drives, finds corruption
by checksums, rebuilds what is lost in the background, and says in numbers how
safe the data is.

Start a store on six directories:

  kintsugi server --scheme 4+2 data/d1 data/d2 data/d3 data/d4 data/d5 data/d6

Ask how it is:

  kintsugi admin status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.PersistentPreRun = func(*cobra.Command, []string) {
		warnOfVariables(logs, os.Environ(), knownVariables(root))
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, c.CommandPath())
	})
	root.AddCommand(newServer(), newMetadata(), newStorageNode(), newGateway(), newRepairer(), newAdmin(), newBench(), newCerts(), newSecrets(), newLive())
	root.SetHelpCommand(newHelp(root))
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", `{{if and .Runnable (not (index .Annotations "`+holdsOthers+`"))}}`, 1))
	explainArgs(root)
	return root
}

// newHelp is cobra's help, but it refuses what is no command instead of explaining
// the one above it.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknownCommand(about, rest[0])
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

// holdsOthers marks a command that does nothing by itself; its usage does not say
// that it could be run.
const holdsOthers = "holds others"

// explainArgs has every command say how it is used where it gets arguments that
// it does not take. A command that only holds others, which cobra would let say
// nothing but its help and succeed, refuses what it does not know.
func explainArgs(c *cobra.Command) {
	for _, sub := range c.Commands() {
		explainArgs(sub)
	}
	if !c.Runnable() {
		c.Annotations = map[string]string{holdsOthers: "yes"}
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return unknownCommand(c, args[0])
		}
		return
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			switch {
			case err == nil:
				return nil
			case c.HasSubCommands() && len(args) > 0:
				return unknownCommand(c, args[0])
			case len(args) > 0 && check(c, nil) == nil && check(c, args[:1]) != nil:
				return fmt.Errorf("%s takes no arguments, only flags: %q is none; see %[1]s --help", c.CommandPath(), args[0])
			}
			return fmt.Errorf("%w; usage: %s", err, c.UseLine())
		}
	}
}

func unknownCommand(c *cobra.Command, name string) error {
	c.SuggestionsMinimumDistance = 2 // letters
	meant := ""
	if near := c.SuggestionsFor(name); len(near) > 0 {
		meant = ": did you mean " + strings.Join(near, " or ")
	}
	return fmt.Errorf("unknown command %q for %q%s; see %[2]s --help", name, c.CommandPath(), meant)
}
