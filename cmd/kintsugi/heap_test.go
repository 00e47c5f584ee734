package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// mapping is what /proc/self/smaps says of the flags of the one that holds an address.
func mapping(t *testing.T, at *byte) (flags string) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip("this system does not tell what is mapped:", err)
	}
	here, address := false, uintptr(unsafe.Pointer(at))
	for line := range strings.Lines(string(smaps)) {
		var low, high uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &low, &high); n == 2 {
			here = low <= address && address < high
		} else if rest, ok := strings.CutPrefix(line, "VmFlags:"); ok && here {
			return rest
		}
	}
	t.Fatal("the address is not mapped")
	return ""
}

// resident is how many bytes of memory this process has.
func resident(t *testing.T) int64 {
	t.Helper()
	var mapped, pages int64
	statm, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		_, err = fmt.Sscan(string(statm), &mapped, &pages)
	}
	if err != nil {
		t.Skip("this system does not tell what a process has:", err)
	}
	return pages * int64(os.Getpagesize())
}

// TestHugePages grows the heap beyond all holes it may have. What asking took is
// looked at before: a block that is made of one page of the heap that is not new
// is cleared, all of it.
func TestHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("this system has no huge pages")
	}
	const size = 1 << 30
	before := resident(t)
	askForHugePages(size)
	if took := resident(t) - before; took > size/4 {
		t.Errorf("asking for huge pages took %d MiB", took>>20)
	}
	block := make([]byte, size/2)
	if flags := mapping(t, &block[size/4]); !strings.Contains(flags, " hg ") {
		t.Errorf("the heap grew into memory without huge pages: %s", flags)
	}
}
