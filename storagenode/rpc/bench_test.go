package rpc

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// nothing takes everything and gives zeros: what is measured is the way.
type nothing struct{ failing }

func (nothing) ReadAt(_ context.Context, _ storagenode.ShardID, _ int64, p []byte) (int, error) {
	return len(p), nil
}

func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkWay measures the CPU time of client and server together, without
// that of a drive.
func BenchmarkWay(b *testing.B) {
	r := newRig(b, nothing{})
	d := r.drive(r.client)
	for _, size := range []int{0, 4 << 10, 64 << 10, 256 << 10, 1 << 20} {
		sh := storetest.NewShard(shardID(1, 0), size)
		sh.Last = true
		p := make([]byte, size)
		for name, op := range map[string]func() error{
			"put":  func() error { t, err := d.Put(b.Context(), sh); _ = t; return err },
			"read": func() error { _, err := d.ReadAt(b.Context(), sh.ID, 0, p); return err },
		} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.ReportAllocs()
				from := cpu()
				for b.Loop() {
					if err := op(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpu()-from)/float64(b.N)/1000, "cpu-µs/op")
			})
		}
	}
}
