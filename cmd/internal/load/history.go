package load

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// judge fails unless a history is linearizable and that is shown within limit.
func judge(ops []porcupine.Operation, limit time.Duration) error {
	for _, part := range byKey(ops) {
		began := time.Now()
		res := porcupine.CheckOperationsTimeout(model, attempts(part), limit)
		if limit -= time.Since(began); res == porcupine.Illegal {
			return fmt.Errorf("history of %d operations is not linearizable: %s", len(ops), explain(part))
		}
		if res == porcupine.Unknown || limit <= 0 {
			return fmt.Errorf("history of %d operations is too much to judge: %s", len(ops), explain(part))
		}
	}
	return nil
}

func byKey(ops []porcupine.Operation) map[string][]porcupine.Operation {
	parts := map[string][]porcupine.Operation{}
	for _, op := range ops {
		key := op.Input.(input).key
		parts[key] = append(parts[key], op)
	}
	return parts
}

// attempt is a write of unknown outcome, as model sees it.
type attempt struct {
	input
	nth uint32 // of those that write the same to this key, in the order of their calls, from 0
}

// attempts gives a key's history for model. Writes of unknown outcome are what makes
// a judgement long: each may take effect at any time after its call. Those that
// nobody read change nothing, and those that write the same need only be tried in
// their order.
func attempts(part []porcupine.Operation) (ops []porcupine.Operation) {
	read, nth := map[uint64]bool{}, map[uint64]uint32{}
	for _, op := range part {
		if in := op.Input.(input); in.kind == "get" {
			read[op.Output.(output).id] = true
		}
	}
	slices.SortStableFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for _, op := range part {
		if in := op.Input.(input); op.Output.(output).unknown {
			if !read[in.id] {
				continue
			}
			op.Input = attempt{in, nth[in.id]}
			nth[in.id]++
		}
		ops = append(ops, op)
	}
	return ops
}

// register is the state of one key.
type register struct {
	id   uint64 // of the put that is there, 0: none
	late string // how many attempts took effect of each id, see after
}

// model is of one key; attempts return at infinity.
var model = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, in, out any) (ok bool, _ any) {
		now := state.(register)
		switch i := in.(type) {
		case attempt:
			late, ok := after(now.late, i.id, i.nth)
			return ok, register{i.id, late}
		case input:
			if i.kind == "get" {
				return out.(output).id == now.id, state
			}
			return true, register{i.id, now.late}
		}
		return false, state
	},
}

// after notes that the nth attempt to write id took effect; ok is false unless all
// before it did. Ids stand in their order: 8 bytes and, in 4, how many.
func after(late string, id uint64, nth uint32) (_ string, ok bool) {
	const entry = 12
	at, n := 0, uint32(0)
	for ; at < len(late); at += entry {
		o := binary.BigEndian.Uint64([]byte(late[at:]))
		if o == id {
			n = binary.BigEndian.Uint32([]byte(late[at+8:]))
		}
		if o >= id {
			break
		}
	}
	rest := late[at:]
	if n > 0 {
		rest = rest[entry:]
	}
	now := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, id), n+1)
	return late[:at] + string(now) + rest, n == nth
}

// explain names the key whose history is at fault and its last operations.
func explain(part []porcupine.Operation) string {
	var text strings.Builder
	fmt.Fprintf(&text, "key %s:", part[0].Input.(input).key)
	for _, op := range part[max(0, len(part)-12):] {
		in, out := op.Input.(input), op.Output.(output)
		fmt.Fprintf(&text, "\n  client %d %s write %d → %d unknown %v, %v to %v", op.ClientId, in.kind, in.id, out.id, out.unknown, time.Duration(op.Call), time.Duration(op.Return))
	}
	return text.String()
}
