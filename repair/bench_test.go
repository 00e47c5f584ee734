package repair

import (
	"fmt"
	"testing"
)

// BenchmarkRebuildDrive wipes one of six drives and repairs, recount included.
func BenchmarkRebuildDrive(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("object=%dKiB", size>>10), func(b *testing.B) {
			n := min(2000, (64<<20)/size)
			for b.Loop() {
				b.StopTimer()
				r := newRig(b, "4+2", 6)
				for i := range n {
					r.put(fmt.Sprint(i), size)
				}
				r.must(r.rep.detectAndPlan(r.ctx))
				r.wipe(0)
				b.StartTimer()
				r.heal()
				s := r.rep.Status().Queue
				b.ReportMetric(float64(s.Repaired), "shards")
				b.ReportMetric(float64(s.Written)/1e6, "MB")
			}
		})
	}
}
