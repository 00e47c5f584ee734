package main

import (
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The memory that transfers may take where nothing else is said: a sixteenth of
// what the machine has, within these bounds. With the upper one the process
// stays below 1 GiB resident.
const (
	transferMemoryMin = 256 << 20
	transferMemoryMax = 512 << 20
)

// memoryFlags are the flags for the memory of whoever serves S3.
type memoryFlags struct{ transfer, kept sizeFlag }

func newMemoryFlags() *memoryFlags {
	return &memoryFlags{sizeFlag(transferMemory()), sizeFlag(transferMemory())}
}

func (m *memoryFlags) add(f *pflag.FlagSet) {
	f.Var(&m.transfer, "transfer-memory", "memory for transfers in flight; requests wait for it, then get SlowDown; by itself a sixteenth of the machine's, 256 to 512 MiB")
	f.Var(&m.kept, "kept-memory", "what of the transfer memory may hold objects read or written lately while transfers leave it; 0 for none, by itself all of it")
}

// keeps is --kept-memory, all where it is not given.
func (m *memoryFlags) keeps(c *cobra.Command) int64 {
	if c.Flags().Changed("kept-memory") {
		return int64(m.kept)
	}
	return int64(m.transfer)
}

// transferMemory is the default of --transfer-memory on this machine.
func transferMemory() int64 {
	return min(max(machineMemory(os.DirFS("/"))/16, transferMemoryMin), transferMemoryMax)
}

// machineMemory is how many bytes this process can have: what the machine has,
// or what its control groups leave it; 0 where that is not known.
func machineMemory(root fs.FS) int64 {
	has := int64(math.MaxInt64)
	for line := range strings.Lines(text(root, "proc/meminfo")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			has = number(f[1], has>>10) << 10
		}
	}
	for line := range strings.Lines(text(root, "proc/self/cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		dir, name := "sys/fs/cgroup", "memory.max"
		if f[1] != "" { // the first version
			dir, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
			if f[1] != "memory" {
				continue
			}
		}
		// Each group is bounded by those around it, too.
		for p := path.Clean("/" + f[2]); ; p = path.Dir(p) {
			has = min(has, number(text(root, path.Join(dir, p, name)), has))
			if p == "/" {
				break
			}
		}
	}
	if has == math.MaxInt64 {
		return 0
	}
	return has
}

// text is a file's, "" where it cannot be read.
func text(root fs.FS, name string) string {
	b, _ := fs.ReadFile(root, name) // then nothing is known of it
	return string(b)
}

// number is what a text says, or otherwise where it is none.
func number(text string, otherwise int64) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n < 0 {
		return otherwise
	}
	return n
}
