package stripe

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"kintsugi/storagenode/storetest"
)

var benchSizes = []int{4 << 10, 128 << 10, 1 << 20, 16 << 20}

func name(n int) string { return fmt.Sprintf("%dKiB", n>>10) }

// BenchmarkPut stores into sinks: what this layer itself costs.
func BenchmarkPut(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(name(n), func(b *testing.B) {
			r := newRig(b, "4+2")
			for i, s := range r.group.Slots {
				r.setStore(s.Drive, sink{r.mem[i]})
			}
			data := noise(n, 1)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			var src bytes.Reader
			for b.Loop() {
				src.Reset(data)
				if _, err := r.set.Put(b.Context(), r.group, r.ids.Next(), &src, int64(n), PutOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(name(n), func(b *testing.B) {
			r := newRig(b, "4+2")
			for i, s := range r.group.Slots {
				r.setStore(s.Drive, r.mem[i])
			}
			blob := r.put(noise(n, 1))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if err := r.set.Read(b.Context(), r.group, blob, 0, int64(n), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadDegraded(b *testing.B) {
	for _, n := range benchSizes[1:] {
		b.Run(name(n), func(b *testing.B) {
			r := newRig(b, "4+2")
			blob := r.put(noise(n, 1))
			r.setStore(r.group.Slots[0].Drive, nil)
			r.setStore(r.group.Slots[1].Drive, nil)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if err := r.set.Read(b.Context(), r.group, blob, 0, int64(n), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRebuild recreates a data slot.
func BenchmarkRebuild(b *testing.B) {
	r := newRig(b, "4+2")
	const n = 16 << 20
	blob := r.put(noise(n, 1))
	b.SetBytes(n / 4)
	for b.Loop() {
		if err := r.set.Rebuild(b.Context(), r.group, blob, 0, storetest.NewMemory(), 1); err != nil {
			b.Fatal(err)
		}
	}
}
