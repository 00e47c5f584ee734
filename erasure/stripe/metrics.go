package stripe

import "github.com/prometheus/client_golang/prometheus"

// metrics counts what the operator should see; all of it works unregistered.
type metrics struct {
	damaged, decoded, hedged, late prometheus.Counter
}

func newMetrics(s *Set, r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kintsugi_stripe_" + name, Help: help})
	}
	m := &metrics{
		damaged: counter("damaged_shards_total", "Shards that reads found missing or corrupt."),
		decoded: counter("decoded_stripes_total", "Stripes that reads had to decode."),
		hedged:  counter("hedged_reads_total", "Reads that asked another slot because one was late."),
		late:    counter("late_writes_total", "Slots that writes went without because they were late."),
	}
	if r == nil {
		return m
	}
	all := []prometheus.Collector{m.damaged, m.decoded, m.hedged, m.late,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kintsugi_stripe_memory_bytes", Help: "Buffers of stripes in flight, and of hot pieces.",
		}, func() float64 { return float64(s.memory.inUse.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kintsugi_stripe_hot_bytes", Help: "Buffers of pieces that were read or written lately.",
		}, func() float64 { return float64(s.hot.size()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "kintsugi_stripe_hot_reads_total", Help: "Pieces that reads found in memory, verified.",
		}, func() float64 { return float64(s.hot.reads.Load()) }),
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			s.cfg.Logger.Warn("metric not registered", "err", err)
		}
	}
	return m
}
