package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// logs is where a process logs to: standard error.
var logs = &unhurried{to: os.Stderr}

// newLogger logs to standard error from the level on. The process outlives who reads
// that: a write to nobody would else end it by a signal.
func newLogger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", level)
	}
	signal.Ignore(syscall.SIGPIPE)
	return slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: l})), nil
}

// exit says text, if any, on standard error and ends the process.
func exit(text string, code int) {
	if text != "" {
		fmt.Fprintf(logs, "kintsugi: %s\n", text)
	}
	logs.flush(lastWords)
	os.Exit(code)
}

const (
	// waitingLogs is how many bytes wait for who reads the log.
	waitingLogs = 1 << 20
	// lastWords is how long the end of the process waits for who reads the log.
	lastWords = 2 * time.Second
)

// unhurried is a writer whose Write never waits: nothing that a server does stands
// still because nobody reads what it says of it. What comes while waitingLogs bytes
// wait is left out, and how much that was is said in its place.
type unhurried struct {
	to io.Writer

	mu      sync.Mutex
	waiting bytes.Buffer  // for the one that writes, and does not hold mu meanwhile
	left    int           // lines left out after what waits
	written chan struct{} // closed when nothing waits any more; nil: nothing does
}

// Write implements io.Writer; p is a whole line.
func (u *unhurried) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.left > 0 || u.waiting.Len()+len(p) > waitingLogs {
		u.left++
		return len(p), nil
	}
	u.waiting.Write(p)
	if u.written == nil {
		u.written = make(chan struct{})
		go u.write()
	}
	return len(p), nil
}

// write writes until nothing waits.
func (u *unhurried) write() {
	for {
		u.mu.Lock()
		if u.left > 0 {
			fmt.Fprintf(&u.waiting, "kintsugi: %d lines of the log are missing here: it was not read\n", u.left)
			u.left = 0
		}
		if u.waiting.Len() == 0 {
			close(u.written)
			u.written = nil
			u.mu.Unlock()
			return
		}
		text := bytes.Clone(u.waiting.Bytes())
		u.waiting.Reset()
		u.mu.Unlock()
		_, _ = u.to.Write(text) // there is nowhere to say so
	}
}

// flush waits, for so long at most, until all is written.
func (u *unhurried) flush(limit time.Duration) {
	u.mu.Lock()
	written := u.written
	u.mu.Unlock()
	if written == nil {
		return
	}
	select {
	case <-written:
	case <-time.After(limit):
	}
}
