package bench

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"kintsugi/erasure"
	"kintsugi/gateway/checksum/lanes"
	"kintsugi/gateway/sigv4/twin"
	"kintsugi/storagenode/vfs"
)

// BenchmarkBarePut measures, in turn, what share of the floor handlers of a PUT
// reach that do one thing more each: hash what they got as signature and ETag
// ask for; make it durable, six shards or three copies of it, in groups; and then
// a row of metadata, three times. They look nothing up, keep nothing in order and
// could not read it back: no store that does all that can be faster on this
// machine. -benchtime 9x for the medians of nine turns, -bench BarePut/4KiB for
// one size.
func BenchmarkBarePut(b *testing.B) {
	for _, load := range []struct {
		name          string
		size, clients int
	}{{"4KiB", 4 << 10, 16}, {"128KiB", 128 << 10, 16}, {"1MiB", 1 << 20, 8}} {
		b.Run(load.name, func(b *testing.B) {
			p := newBarePut(b, load.size)
			kinds := []struct {
				name string
				put  func([]byte)
				rate []float64
			}{
				{name: "floor"},
				{name: "hashed", put: func(body []byte) { p.hash(body) }},
				{name: "durable", put: func(body []byte) { p.hash(body); p.store(body) }},
				{name: "committed", put: func(body []byte) { p.hash(body); p.store(body); p.commit() }},
			}
			for b.Loop() {
				for i := range kinds {
					kinds[i].rate = append(kinds[i].rate, p.run(b, load.clients, kinds[i].put))
				}
			}
			for i := range kinds {
				slices.Sort(kinds[i].rate)
			}
			of := func(i int) float64 { return kinds[i].rate[len(kinds[i].rate)/2] }
			b.ReportMetric(of(0), "floor/s")
			for i := 1; i < len(kinds); i++ {
				b.ReportMetric(100*of(i)/of(0), kinds[i].name+"-%")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// barePut is what the handlers of one size share.
type barePut struct {
	size    int
	coder   *erasure.Coder
	streams lanes.Group
	shards  [6]*bareLog // large: of the shards; small: the first three
	rows    [3]*bareLog
	bodies  chan []byte
	row     []byte
}

func newBarePut(b *testing.B, size int) *barePut {
	coder, err := erasure.NewCoder(erasure.Scheme{K: 4, M: 2})
	if err != nil {
		b.Fatal(err)
	}
	p := &barePut{size: size, coder: coder, row: make([]byte, 1<<10), bodies: make(chan []byte, 64)}
	for range cap(p.bodies) {
		p.bodies <- vfs.AlignedBuffer(size + size/2 + 16<<10)
	}
	for i := range p.shards {
		p.shards[i] = newBareLog(b, fmt.Sprintf("shards%d", i), size > erasure.ReplicateMax)
	}
	for i := range p.rows {
		p.rows[i] = newBareLog(b, fmt.Sprintf("rows%d", i), false)
	}
	return p
}

// hash makes the sums that an upload is checked by.
func (p *barePut) hash(body []byte) {
	const chunk = 64 << 10
	md5 := p.streams.New()
	if len(body) >= 2*chunk {
		md5.Announce()
	}
	_, _ = md5.Write(body)
	_ = md5.Sum(nil)
	for ; len(body) >= 2*chunk; body = body[2*chunk:] {
		_, _ = twin.Sums(body[:chunk], body[chunk:2*chunk])
	}
	_ = sha256.Sum256(body)
}

// store makes a body durable. Parity has room behind it.
func (p *barePut) store(body []byte) {
	if len(body) <= erasure.ReplicateMax {
		_ = xxh3.Hash(body)
		appendAll(p.shards[:3], [][]byte{body, body, body})
		return
	}
	var shards [6][]byte
	n := len(body) / 4
	split := p.coder.Split(shards[:0], body, body[len(body):len(body)+2*n], len(body))
	if err := p.coder.Encode(split); err != nil {
		panic(err)
	}
	for _, s := range split {
		for i := 0; i < len(s); i += 64 << 10 {
			_ = xxh3.Hash(s[i:min(len(s), i+64<<10)])
		}
	}
	appendAll(p.shards[:], split)
}

func (p *barePut) commit() { appendAll(p.rows[:], [][]byte{p.row, p.row, p.row}) }

// run gives how many PUTs a second a handler answers.
func (p *barePut) run(b *testing.B, clients int, put func([]byte)) float64 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	floor := floorHandler(0)
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && put != nil && r.ContentLength >= int64(p.size) {
			w.Header()["Etag"] = []string{`"0"`}
			buf := <-p.bodies
			defer func() { p.bodies <- buf }()
			if _, err := io.ReadFull(r.Body, buf[:r.ContentLength]); err == nil {
				put(buf[:p.size])
			}
			return
		}
		floor.ServeHTTP(w, r)
	})}
	go func() { _ = s.Serve(l) }() // ends with the listener
	defer s.Close()
	res, err := Run(b.Context(), Config{Endpoint: l.Addr().String(), AccessKey: "floor", SecretKey: "floor-floor", Region: "us-east-1",
		Bucket: "bare", Op: Put, Size: int64(p.size), Concurrency: clients, Duration: time.Second, Keep: true})
	if err != nil {
		b.Fatal(err)
	}
	return res.OpsPerSecond
}

// bareLog is a file that is written over and over, in groups, each made durable
// by one fdatasync: the batching window is the one that is running.
type bareLog struct {
	f      *os.File
	direct bool
	jobs   chan bareJob
	buf    []byte
	off    int64
}

type bareJob struct {
	p    []byte
	done *sync.WaitGroup
}

const bareLogSize = 64 << 20

func newBareLog(b *testing.B, name string, direct bool) *bareLog {
	flag := os.O_RDWR | os.O_CREATE
	if direct {
		flag |= vfs.Direct
	}
	f, err := os.OpenFile(filepath.Join(b.TempDir(), name), flag, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	zeros := vfs.AlignedBuffer(1 << 20)
	for off := int64(0); off < bareLogSize; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	l := &bareLog{f: f, direct: direct, jobs: make(chan bareJob, 64)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for j := range l.jobs {
			l.group(j)
		}
	}()
	b.Cleanup(func() {
		close(l.jobs)
		<-ended
		_ = f.Close()
	})
	return l
}

// appendAll appends pieces to logs and waits until they are durable.
func appendAll(logs []*bareLog, pieces [][]byte) {
	var done sync.WaitGroup
	done.Add(len(logs))
	for i, l := range logs {
		l.jobs <- bareJob{pieces[i], &done}
	}
	done.Wait()
}

// group writes a job and those that wait, and makes them durable.
func (l *bareLog) group(j bareJob) {
	for range 4 {
		runtime.Gosched() // those about to come
	}
	waiting := []*sync.WaitGroup{}
	l.buf = l.buf[:0]
	for more := true; more; {
		waiting = append(waiting, j.done)
		if l.direct {
			l.write(j.p)
		} else {
			l.buf = append(l.buf, j.p...)
		}
		select {
		case j, more = <-l.jobs:
		default:
			more = false
		}
	}
	if len(l.buf) > 0 {
		l.write(l.buf)
	}
	if err := syscall.Fdatasync(int(l.f.Fd())); err != nil {
		panic(err)
	}
	for _, w := range waiting {
		w.Done()
	}
}

func (l *bareLog) write(p []byte) {
	if l.off+int64(len(p)) > bareLogSize {
		l.off = 0
	}
	if _, err := l.f.WriteAt(p, l.off); err != nil {
		panic(err)
	}
	l.off += int64(len(p)+4095) &^ 4095
}
