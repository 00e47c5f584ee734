package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"kintsugi/storagenode"
)

// startPatience is how long a start waits for a drive: one whose disk hangs, or whose
// log has to be read through, must not keep the others out of service.
const startPatience = 30 * time.Second

// inTime gives what f gives, or an error where that takes longer than patience: f goes
// on, and what it gives then is lost.
func inTime[T any](n *Node, patience time.Duration, what string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-n.cfg.Clock.After(patience):
		var none T
		return none, fmt.Errorf("%s does not answer: its disk hangs", what)
	}
}

// found is what lies in a directory at a start.
type found struct {
	id    Identity
	known []storagenode.KnownDrive
	err   error // of id
}

// look reads what lies in every directory, all at the same time.
func (n *Node) look() []found {
	all := make([]found, len(n.places))
	var looks sync.WaitGroup
	for i, p := range n.places {
		looks.Go(func() {
			f, err := inTime(n, suspectAfter, p.dir, func() (f found, err error) {
				if f.id, err = readIdentity(n.cfg.FS, p.dir); err == nil {
					f.known = readKnown(n.cfg.FS, p.dir)
				}
				return f, err
			})
			f.err = err
			all[i] = f
		})
	}
	looks.Wait()
	return all
}

// openAll opens the drives, all at the same time. Where that takes longer than
// startPatience, it goes on without as many as Spare says; they are served when they
// are open. ctx ends what is being opened.
func (n *Node) openAll(ctx context.Context) {
	ended := make(chan struct{}, len(n.places))
	left := 0
	for _, p := range n.places {
		p.opened = make(chan struct{})
		if p.identity.Drive.IsZero() {
			close(p.opened)
			continue
		}
		left++
		p.work <- struct{}{}
		go func() {
			p.open(ctx)
			if ctx.Err() != nil {
				p.shut() // the node was closed meanwhile
			}
			<-p.work
			close(p.opened)
			ended <- struct{}{}
		}()
	}
	late := n.cfg.Clock.After(startPatience)
	for patient := true; left > 0 && (patient || n.closed() > n.cfg.Spare); {
		select {
		case <-ended:
			left--
		case <-late:
			patient = false
			n.tellLate() // also where it waits on, for too few are open
		case <-ctx.Done():
			return
		}
	}
}

// closed is how many directories have no drive in service.
func (n *Node) closed() (closed int) {
	for _, p := range n.places {
		if p.current() == nil {
			closed++
		}
	}
	return closed
}

// tellLate says of the drives that are still being opened that they are.
func (n *Node) tellLate() {
	n.tell.Lock()
	defer n.tell.Unlock()
	for _, p := range n.places {
		p.mu.Lock()
		opening := !p.identity.Drive.IsZero() && p.since.IsZero() // nothing was said of it yet
		p.mu.Unlock()
		if opening {
			p.turn(storagenode.DriveDown, fmt.Sprintf("%s is still being opened: its disk hangs, or its log is read through since its index was lost; it is served as soon as it is open", p.dir), nil)
		}
	}
}
