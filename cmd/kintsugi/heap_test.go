package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// mapping is what /proc/self/smaps says of the one that holds an address.
func mapping(t *testing.T, at *byte) (flags string, rss int64) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip("this system does not tell what is mapped:", err)
	}
	here, address := false, uintptr(unsafe.Pointer(at))
	for line := range strings.Lines(string(smaps)) {
		var low, high uintptr
		var kib int64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &low, &high); n == 2 {
			here = low <= address && address < high
		} else if rest, ok := strings.CutPrefix(line, "VmFlags:"); ok && here {
			return rest, rss
		} else if n, _ := fmt.Sscanf(line, "Rss: %d kB", &kib); n == 1 && here {
			rss = kib << 10
		}
	}
	t.Fatal("the address is not mapped")
	return "", 0
}

// TestHugePages grows the heap beyond all holes it may have.
func TestHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("this system has no huge pages")
	}
	const size = 1 << 30
	askForHugePages(size)
	block := make([]byte, size/2)
	flags, rss := mapping(t, &block[size/4])
	if !strings.Contains(flags, " hg ") {
		t.Errorf("the heap grew into memory without huge pages: %s", flags)
	}
	if rss > size/4 {
		t.Errorf("asking for huge pages took %d MiB", rss>>20)
	}
}
