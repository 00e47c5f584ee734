package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// The files that `kintsugi secrets` makes, and how long what is in them is.
var secretFiles = []struct {
	name, prefix string
	random       int
}{
	{"cluster/secret", "", 52},
	{"root/access-key", "KI", 18},
	{"root/secret-key", "", 40},
}

func newSecrets() *cobra.Command {
	return &cobra.Command{
		Use:   "secrets DIR",
		Short: "Make the random secrets of a new cluster, one file each",
		Long: `Makes the secrets that a cluster needs, at random, each in a file of DIR that its
owner alone can read. Files that are there already stay as they are, so that it
can run before every start.

  cluster/secret     what the processes of a cluster know each other by:
                     KINTSUGI_CLUSTER_SECRET_FILE of every process
  root/access-key    KINTSUGI_ROOT_ACCESS_KEY_FILE of the gateways
  root/secret-key    KINTSUGI_ROOT_SECRET_KEY_FILE of the gateways

Copy the folder cluster to every machine, and root to those with a gateway. Where
root makes them, they are given to the owner of DIR.`,
		Example: "  kintsugi secrets /etc/kintsugi/secrets",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return makeSecrets(args[0], c.OutOrStdout())
		},
	}
}

// makeSecrets makes what is missing in dir and says what it did.
func makeSecrets(dir string, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory of the secrets: %w", err)
	}
	for _, s := range secretFiles {
		path := filepath.Join(dir, s.name)
		if err := makePrivate(dir, filepath.Dir(path)); err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		switch {
		case err == nil && strings.TrimSpace(string(text)) == "":
			return fmt.Errorf("%s is empty: remove it, or put a secret in it", path)
		case err == nil:
			fmt.Fprintf(out, "%s is there already\n", path)
			continue
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := writeSecret(path, []byte(s.prefix+randomText(s.random)+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("secret: %w", err)
		}
		if err := giveToOwnerOf(dir, path); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s made\n", path)
	}
	return nil
}

// makePrivate makes a folder in dir that its owner alone may enter, also where
// it is there already: Docker makes folders that are to be mounted.
func makePrivate(dir, folder string) error {
	err := os.Mkdir(folder, 0o700)
	if errors.Is(err, fs.ErrExist) {
		err = os.Chmod(folder, 0o700)
	}
	if err != nil {
		return fmt.Errorf("directory of the secrets: %w", err)
	}
	return giveToOwnerOf(dir, folder)
}

// giveToOwnerOf gives what is in a directory to its owner, where we may: a
// container that runs as root makes secrets for the user who started it.
func giveToOwnerOf(dir, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("secret: %w", err)
		}
	}
	return nil
}
