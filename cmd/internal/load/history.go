package load

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// judge fails unless a history is linearizable and that is shown within limit.
func judge(ops []porcupine.Operation, limit time.Duration) error {
	for _, part := range byKey(ops) {
		began := time.Now()
		if res := porcupine.CheckOperationsTimeout(model, part, limit); res != porcupine.Ok {
			return fmt.Errorf("history of %d operations is not linearizable (%v): %s", len(ops), res, explain(part))
		}
		if limit -= time.Since(began); limit <= 0 {
			return fmt.Errorf("history of %d operations is too much to judge: key %s takes the rest of the time", len(ops), part[0].Input.(input).key)
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

// register is the state of one key.
type register struct {
	id   uint64 // of the put that is there, 0: none
	late string // how many failed tries of each operation took effect, see after
}

// model is of one key; writes of unknown outcome return at infinity. Those of one
// operation write the same: which of them takes effect when is only tried in their
// order, or a judgement would take twice as long with each.
var model = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, in, out any) (bool, any) {
		now, i, o := state.(register), in.(input), out.(output)
		if i.kind == "get" {
			return o.id == now.id, state
		}
		next := register{late: now.late}
		if i.kind == "put" {
			next.id = i.id
		}
		if !o.unknown {
			return true, next
		}
		ok := false
		next.late, ok = after(now.late, i.op, i.try)
		return ok, next
	},
}

// after notes that a try of an operation has taken effect; ok is false unless all
// before it have. Operations stand in their order: 8 bytes and, in 4, how many.
func after(late string, op uint64, try int) (_ string, ok bool) {
	const entry = 12
	at, n := 0, 0
	for ; at < len(late); at += entry {
		o := binary.BigEndian.Uint64([]byte(late[at:]))
		if o == op {
			n = int(binary.BigEndian.Uint32([]byte(late[at+8:])))
		}
		if o >= op {
			break
		}
	}
	rest := late[at:]
	if n > 0 {
		rest = rest[entry:]
	}
	now := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, op), uint32(n+1))
	return late[:at] + string(now) + rest, n == try
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
