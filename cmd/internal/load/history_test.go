package load

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// history of one key in the order of its calls, a millisecond each.
type history struct {
	ops []porcupine.Operation
	now int64
}

func (h *history) add(in input, out output) {
	in.key = "k"
	op := porcupine.Operation{Input: in, Output: out, Call: h.now, Return: h.now + 1}
	if out.unknown {
		op.Return = math.MaxInt64
	}
	h.ops = append(h.ops, op)
	h.now += 2
}

func (h *history) put(id uint64, failed bool) {
	h.add(input{kind: "put", id: id}, output{unknown: failed})
}
func (h *history) get(id uint64) { h.add(input{kind: "get"}, output{id: id}) }

// TestManyTriesAreJudged: puts that failed a hundred times while others read what was
// there before take a moment to judge, and each try may still take effect.
func TestManyTriesAreJudged(t *testing.T) {
	for name, c := range map[string]struct {
		then []uint64 // what is read after another put, 200, has succeeded
		bad  bool
	}{
		"none took effect late": {then: []uint64{200, 200}},
		"some did":              {then: []uint64{200, 7, 7}},
		"all did":               {then: []uint64{7}},
		"one is lost":           {then: []uint64{200, 1}, bad: true},
	} {
		h := &history{}
		h.put(1, false)
		for i := range uint64(100) {
			h.put(7, true)
			h.put(1000+i, true) // nobody ever reads these
			h.get(1)
		}
		h.put(7, false)
		h.get(7)
		h.put(200, false)
		for _, id := range c.then {
			h.get(id)
		}
		if err := judge(h.ops, 20*time.Second); (err != nil) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTooMuchToJudgeIsAnError: who cannot tell says so, and is not at it for ever.
func TestTooMuchToJudgeIsAnError(t *testing.T) {
	h := &history{}
	h.put(1, false)
	for i := range uint64(50) {
		h.put(100+i, true)
		h.get(1)
	}
	h.get(2) // nobody wrote it
	if err := judge(h.ops, time.Minute); err == nil || !strings.Contains(err.Error(), "not linearizable") {
		t.Errorf("what nobody wrote: %v", err)
	}
	for i := range uint64(50) {
		h.get(100 + i)
	}
	h.get(2)
	if err := judge(h.ops, 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "too much") {
		t.Errorf("what takes for ever: %v", err)
	}
}

// TestDeletesOfUnknownOutcome: one that may have been done explains what is absent
// once, not twice.
func TestDeletesOfUnknownOutcome(t *testing.T) {
	for tries, bad := range []bool{true, true, false} {
		h := &history{}
		for range tries {
			h.add(input{kind: "delete"}, output{unknown: true})
		}
		for id := range uint64(2) {
			h.put(1+id, false)
			h.get(1 + id)
			h.get(0)
		}
		if err := judge(h.ops, time.Second); (err != nil) != bad {
			t.Errorf("%d tries: %v", tries, err)
		}
	}
}

func TestAfter(t *testing.T) {
	late, ok := "", false
	for _, step := range []struct {
		id  uint64
		nth uint32
		ok  bool
	}{{5, 0, true}, {5, 0, false}, {9, 1, false}, {9, 0, true}, {2, 0, true}, {5, 1, true}, {2, 1, true}, {5, 2, true}, {9, 2, false}, {9, 1, true}, {7, 1, false}} {
		next, is := after(late, step.id, step.nth)
		if ok = is; ok != step.ok {
			t.Fatalf("%+v: %v", step, ok)
		}
		if ok {
			late = next
		}
	}
	if len(late) != 3*12 {
		t.Errorf("%x", late)
	}
}
