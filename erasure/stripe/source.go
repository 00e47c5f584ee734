package stripe

import (
	"io"
)

// Source reads ahead by one byte, so that Put knows whether a blob's last
// stripe is the last without losing anything of what follows. Where an object
// may need more than one blob, wrap its reader once and pass the Source to
// every Put.
type Source struct {
	r    io.Reader
	next [1]byte
	held bool
	err  error // io.EOF included
}

// NewSource wraps a reader.
func NewSource(r io.Reader) *Source { return &Source{r: r} }

// maxEmptyReads bounds readers that give neither bytes nor an error.
const maxEmptyReads = 100

// Read implements io.Reader.
func (s *Source) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.held {
		p[0], s.held = s.next[0], false
		return 1, nil
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.err = err
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// fill reads until p is full or the reader ends; an end is no error. seen, if
// any, is told how much of p is filled, now and then.
func (s *Source) fill(p []byte, seen func(n int)) (int, error) {
	n, empty := 0, 0
	for n < len(p) && empty < maxEmptyReads {
		c, err := s.Read(p[n:])
		n += c
		if c > 0 {
			empty = 0
			if seen != nil {
				seen(n)
			}
		} else {
			empty++
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		s.err = io.ErrNoProgress
		return n, s.err
	}
	return n, nil
}

// more says whether there is another byte. It reads to the very end, so that a
// reader that verifies what it read gets to say so.
func (s *Source) more() (bool, error) {
	if s.held {
		return true, nil
	}
	n, err := s.fill(s.next[:], nil)
	s.held = n == 1
	return s.held, err
}
