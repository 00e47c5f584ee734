// Package memory is a kv.Store in memory, for tests of what stands on the
// contract: one lock, a persistent (copy-on-write) treap, so that a snapshot
// is a pointer. Nothing of it is durable.
package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"

	"kintsugi/metadata/kv"
)

// Store implements kv.Store.
type Store struct {
	mu     sync.Mutex
	root   *node
	commit uint64
	closed bool
	// sight is the state that transactions guess by, as old as a few guesses.
	sight   *node
	guesses int
}

var errClosed = errors.New("memory store is closed")

// New makes an empty store.
func New() *Store { return &Store{} }

// load gives the newest state.
func (s *Store) load(ctx context.Context) (*node, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("%w: %w", kv.ErrUnavailable, errClosed)
	}
	return s.root, nil
}

// Get implements kv.Reader.
func (s *Store) Get(ctx context.Context, key []byte) ([]byte, error) {
	root, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	return root.get(key), nil
}

// Scan implements kv.Reader.
func (s *Store) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		root, err := s.load(ctx)
		if err != nil {
			yield(kv.Pair{}, err)
			return
		}
		scan(ctx, root, from, to, yield)
	}
}

// Snapshot implements kv.Store.
func (s *Store) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	root, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	return &snapshot{root: root}, nil
}

// Begin implements kv.Store.
func (s *Store) Begin(ctx context.Context) (kv.Txn, error) {
	root, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	return &txn{s: s, root: root}, nil
}

// Close implements kv.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

type snapshot struct{ root *node }

// Get implements kv.Reader.
func (v *snapshot) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return v.root.get(key), nil
}

// Scan implements kv.Reader.
func (v *snapshot) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) { scan(ctx, v.root, from, to, yield) }
}

// Close implements kv.Snapshot.
func (v *snapshot) Close() {}

func scan(ctx context.Context, root *node, from, to []byte, yield func(kv.Pair, error) bool) {
	root.walk(from, to, func(n *node) bool {
		if err := ctx.Err(); err != nil {
			yield(kv.Pair{}, err)
			return false
		}
		return yield(kv.Pair{Key: n.key, Value: n.value}, nil)
	})
}

type txn struct {
	s      *Store
	root   *node // the state at Begin
	reads  []read
	writes []kv.Pair // Value nil: delete
	bytes  int
	err    error
	guess  map[string]*node // what is guessed instead of read
}

type read struct {
	key    []byte
	commit uint64 // of the node read; 0: absent
}

// Get implements kv.Txn.
func (t *txn) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i := len(t.writes) - 1; i >= 0; i-- {
		if bytes.Equal(t.writes[i].Key, key) {
			return t.writes[i].Value, nil
		}
	}
	n, guessed := t.guess[string(key)]
	if !guessed {
		n = t.root.find(key)
	}
	r := read{key: bytes.Clone(key)}
	if n != nil {
		r.commit = n.commit
	}
	t.reads = append(t.reads, r)
	if n == nil {
		return nil, nil
	}
	return n.value, nil
}

// sightAge is by how many guesses the state is old that transactions guess by.
const sightAge = 8

// Guess implements kv.Guesser, so that what stands on the contract is tried with
// guesses that are wrong.
func (t *txn) Guess(known, absent [][]byte) bool {
	s := t.s
	s.mu.Lock()
	if s.guesses%sightAge == 0 {
		s.sight = s.root
	}
	sight, first := s.sight, s.guesses == 0
	s.guesses++
	s.mu.Unlock()
	if first {
		return false
	}
	guess := make(map[string]*node, len(known)+len(absent))
	for _, k := range known {
		guess[string(k)] = sight.find(k)
	}
	for _, k := range absent {
		guess[string(k)] = nil
	}
	t.guess = guess
	return true
}

// Put implements kv.Txn.
func (t *txn) Put(key, value []byte) {
	if len(value) == 0 {
		t.fail(kv.ErrEmptyValue)
		return
	}
	if len(value) > kv.MaxValue {
		t.fail(kv.ErrTooLarge)
	}
	t.write(key, append(make([]byte, 0, len(value)), value...))
}

// Delete implements kv.Txn.
func (t *txn) Delete(key []byte) { t.write(key, nil) }

func (t *txn) write(key, value []byte) {
	t.bytes += len(key) + len(value)
	switch {
	case len(key) == 0:
		t.fail(kv.ErrEmptyKey)
	case len(key) > kv.MaxKey || len(t.writes) >= kv.MaxTxnOps || t.bytes > kv.MaxTxnBytes:
		t.fail(kv.ErrTooLarge)
	}
	if t.err == nil {
		t.writes = append(t.writes, kv.Pair{Key: bytes.Clone(key), Value: value})
	}
}

func (t *txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Commit implements kv.Txn.
func (t *txn) Commit(ctx context.Context) error {
	if t.err != nil {
		return t.err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, errClosed)
	}
	for _, r := range t.reads {
		if n := s.root.find(r.key); n == nil && r.commit != 0 || n != nil && n.commit != r.commit {
			return kv.ErrConflict
		}
	}
	s.commit++
	for _, w := range t.writes {
		s.root = s.root.remove(w.Key)
		if w.Value != nil {
			s.root = s.root.insert(&node{key: w.Key, value: w.Value, commit: s.commit, prio: rand.Uint64()})
		}
	}
	return nil
}

// node is one of a treap: ordered by key, heap by prio; never changed once
// reachable from a root.
type node struct {
	key, value  []byte
	commit      uint64 // that wrote it
	prio        uint64
	left, right *node
}

func (n *node) find(key []byte) *node {
	for n != nil {
		c := bytes.Compare(key, n.key)
		switch {
		case c == 0:
			return n
		case c < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	return nil
}

func (n *node) get(key []byte) []byte {
	if f := n.find(key); f != nil {
		return f.value
	}
	return nil
}

// walk visits from ≤ key < to in order until f says no.
func (n *node) walk(from, to []byte, f func(*node) bool) bool {
	if n == nil {
		return true
	}
	above := bytes.Compare(n.key, from) >= 0
	below := to == nil || bytes.Compare(n.key, to) < 0
	if above && !n.left.walk(from, to, f) {
		return false
	}
	if above && below && !f(n) {
		return false
	}
	return !below || n.right.walk(from, to, f)
}

// split gives what is below and what is not below key.
func (n *node) split(key []byte) (l, r *node) {
	if n == nil {
		return nil, nil
	}
	c := *n
	if bytes.Compare(n.key, key) < 0 {
		c.right, r = n.right.split(key)
		return &c, r
	}
	l, c.left = n.left.split(key)
	return l, &c
}

func merge(l, r *node) *node {
	switch {
	case l == nil:
		return r
	case r == nil:
		return l
	case l.prio > r.prio:
		c := *l
		c.right = merge(l.right, r)
		return &c
	}
	c := *r
	c.left = merge(l, r.left)
	return &c
}

// insert adds a node whose key is not there.
func (n *node) insert(x *node) *node {
	l, r := n.split(x.key)
	return merge(merge(l, x), r)
}

func (n *node) remove(key []byte) *node {
	if n.find(key) == nil {
		return n
	}
	c := *n
	switch bytes.Compare(key, n.key) {
	case 0:
		return merge(n.left, n.right)
	case -1:
		c.left = n.left.remove(key)
	default:
		c.right = n.right.remove(key)
	}
	return &c
}
