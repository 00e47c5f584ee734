package etcd_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// report gives the CPU time an operation costs; the member is in this process.
func report(b *testing.B, f func()) {
	cpu := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begun := cpu()
	f()
	b.ReportMetric(float64((cpu()-begun).Microseconds())/float64(b.N), "cpu-µs/op")
}

func BenchmarkGet(b *testing.B) {
	st := start(b, 1).open("/x/")
	mustPut(b, st, "key", "value")
	b.ReportAllocs()
	b.ResetTimer()
	report(b, func() {
		for range b.N {
			wantGet(b, st, "key", "value")
		}
	})
}

// BenchmarkCommit reads two keys and writes two, as a PUT does, 16 at a time.
func BenchmarkCommit(b *testing.B) {
	st := start(b, 1).open("/x/")
	b.SetParallelism(8)
	b.ReportAllocs()
	b.ResetTimer()
	report(b, func() {
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); i++ {
				x, err := st.Begin(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				for _, k := range []string{"bucket", fmt.Sprintf("%p/%d", p, i)} {
					if _, err := x.Get(b.Context(), []byte(k)); err != nil {
						b.Error(err)
						return
					}
				}
				x.Put(fmt.Appendf(nil, "%p/%d", p, i), make([]byte, 200))
				x.Put(fmt.Appendf(nil, "b%p/%d", p, i), make([]byte, 100))
				if err := x.Commit(b.Context()); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkPage reads a page of a thousand keys in the middle of many.
func BenchmarkPage(b *testing.B) {
	st := start(b, 1).open("/x/")
	const n = 200000
	for i := 0; i < n; i += 64 {
		x, err := st.Begin(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for j := i; j < i+64; j++ {
			x.Put(fmt.Appendf(nil, "c%08d", j), make([]byte, 100))
		}
		if err := x.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	report(b, func() {
		for i := range b.N {
			seen := 0
			for _, err := range st.Scan(b.Context(), fmt.Appendf(nil, "c%08d", 1000+i%1000), nil) {
				if err != nil {
					b.Fatal(err)
				}
				if seen++; seen == 1000 {
					break
				}
			}
		}
	})
}
