package bench

import (
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
)

const bareSize, bareObjects = 1 << 20, 224

// BenchmarkBare measures, in turn, what a GET of 1 MiB costs at the least: the
// CPU of client and handler together, in µs, of handlers that each do one thing
// more than the floor does. -benchtime 9x for the medians of nine turns.
func BenchmarkBare(b *testing.B) {
	r := rand.NewChaCha8([32]byte{1})
	f, err := os.CreateTemp(b.TempDir(), "")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	memory := make([][]byte, bareObjects)
	for i := range memory {
		memory[i] = make([]byte, bareSize)
		_, _ = r.Read(memory[i])
		if _, err := f.Write(memory[i]); err != nil {
			b.Fatal(err)
		}
	}
	zeros, read := make([]byte, bareSize), make(chan []byte, 64)
	for range cap(read) {
		read <- make([]byte, bareSize)
	}
	any := func() []byte { return memory[rand.IntN(bareObjects)] }
	kinds := []struct {
		name string
		send func(http.ResponseWriter)
		took []float64
	}{
		{name: "floor", send: func(w http.ResponseWriter) { _, _ = w.Write(zeros) }},
		{name: "verified", send: func(w http.ResponseWriter) { verified(w, zeros) }},
		{name: "any", send: func(w http.ResponseWriter) { _, _ = w.Write(any()) }},
		{name: "any-verified", send: func(w http.ResponseWriter) { verified(w, any()) }},
		{name: "any-read-verified", send: func(w http.ResponseWriter) {
			p := <-read
			if _, err := f.ReadAt(p, rand.Int64N(bareObjects)*bareSize); err == nil {
				verified(w, p)
			}
			read <- p
		}},
	}
	for b.Loop() {
		for i := range kinds {
			kinds[i].took = append(kinds[i].took, bare(b, kinds[i].send))
		}
	}
	for _, k := range kinds {
		slices.Sort(k.took)
		b.ReportMetric(k.took[len(k.took)/2], k.name+"-µs")
	}
	b.ReportMetric(0, "ns/op")
}

// verified makes the sums that a store compares, and sends.
func verified(w http.ResponseWriter, p []byte) {
	var sum uint64
	for i := 0; i < len(p); i += 64 << 10 {
		sum ^= xxh3.Hash(p[i : i+64<<10])
	}
	if sum != 1 { // as good as always
		_, _ = w.Write(p)
	}
}

// bare gives the CPU time of one GET, in µs.
func bare(b *testing.B, send func(http.ResponseWriter)) float64 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	floor := floorHandler(0)
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.RawQuery == "" {
			h := w.Header()
			h["Etag"], h["Last-Modified"] = []string{`"0"`}, []string{"Thu, 01 Jan 2026 00:00:00 GMT"}
			h["Content-Length"] = []string{strconv.Itoa(bareSize)}
			send(w)
			return
		}
		floor.ServeHTTP(w, r)
	})}
	go func() { _ = s.Serve(l) }() // ends with the listener
	defer s.Close()
	before := cpuTime(b)
	res, err := Run(b.Context(), Config{Endpoint: l.Addr().String(), AccessKey: "floor", SecretKey: "floor-floor", Region: "us-east-1",
		Bucket: "bare", Op: Get, Size: bareSize, Objects: 1, Concurrency: 8, Duration: time.Second, Keep: true})
	if err != nil {
		b.Fatal(err)
	}
	return float64(cpuTime(b)-before) / float64(time.Microsecond) / float64(res.Operations)
}

// cpuTime is what this process used so far.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
