package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// besideTransfers is what the heap holds at most beside the memory of transfers.
const besideTransfers = 384 << 20

// tuneHeap lets the heap grow to four times what lives before it is collected,
// since little lives and much is made a second, and bounds it where the
// environment does not. Where the system gives huge pages to those who ask, it
// asks for them.
func tuneHeap(transfers int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	if huge := text(os.DirFS("/"), "sys/kernel/mm/transparent_hugepage/enabled"); strings.Contains(huge, "[madvise]") {
		askForHugePages(min(transfers, transferMemoryMax) + besideTransfers)
	}
	if os.Getenv("GOMEMLIMIT") == "" && debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(transfers + besideTransfers)
	}
}

// hugePage is the size of one on amd64, and on arm64 with pages of 4 KiB.
const hugePage = 2 << 20

// askForHugePages has the heap's first size bytes in huge pages: a heap that
// grows, as it does until the pieces kept in memory fill what they may, takes a
// fault for 2 MiB instead of one for each 4 KiB. The runtime cannot be told so,
// but it never unmaps: what it mapped for a block that nobody touched and that
// is let go at once is where it grows next, the lowest addresses first.
func askForHugePages(size int64) {
	// A heap that cannot grow ends the process: whether this one can is tried first.
	trial, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return
	}
	_ = unix.Munmap(trial) // it was mapped a moment ago
	block := make([]byte, size)
	begin := -int(uintptr(unsafe.Pointer(unsafe.SliceData(block)))) & (hugePage - 1)
	_ = unix.Madvise(block[begin:], unix.MADV_HUGEPAGE) // without them it is only slower
	runtime.KeepAlive(block)
	debug.FreeOSMemory()
}
