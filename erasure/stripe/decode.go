package stripe

import (
	"fmt"

	"github.com/zeebo/xxh3"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// maxCombinations bounds how many choices of k shards are tried where a decoded
// stripe does not have the hash that its shards name.
const maxCombinations = 128

// decode computes the data shards, and those in want, from k good shards of one
// generation, and compares the stripe with its hash. Where it differs, it tries
// other choices. Shards that are left out then, and those of another
// generation, are reported as damage. The memory goes to the result.
func (a *gather) decode(want erasure.SlotMask) (*decoded, error) {
	gen, most := a.generation()
	k := int(a.group.Scheme.K)
	if most < k {
		return nil, fmt.Errorf("blob %s stripe %d: %w", a.blob.ID, a.stripe, ErrUnreadable)
	}
	hash := a.infos[gen.First()].StripeHash
	tries := 0
	for choice := erasure.AllSlots(k); choice <= erasure.AllSlots(most) && tries < maxCombinations; choice = nextChoice(choice) {
		use := members(gen, choice)
		tries++
		shards, err := a.compute(use, want)
		if err != nil {
			return nil, err
		}
		if a.hash(shards) != hash {
			continue
		}
		d := &decoded{mem: a.mem, shards: shards, used: use, hash: hash}
		if tries == 1 && gen == a.good && !a.all {
			d.used = gen
		} else {
			a.blame(d)
		}
		a.mem.retain(1)
		for i := range a.group.Slots {
			if d.used.Has(i) && a.infos[i].Last {
				d.attrs, d.last = a.infos[i].Attrs, true
				break
			}
		}
		return d, nil
	}
	return nil, fmt.Errorf("blob %s stripe %d: no %d shards of %d give the stripe that was written: %w: %w", a.blob.ID, a.stripe, k, most, ErrUnreadable, storagenode.ErrCorrupt)
}

// nextChoice is the next larger set of the same size.
func nextChoice(m erasure.SlotMask) erasure.SlotMask {
	low := m & -m
	up := m + low
	if up == 0 {
		return ^erasure.SlotMask(0) // past every other
	}
	return up | (m^up)/low>>2
}

// members gives those of gen whose place among its members is in choice.
func members(gen, choice erasure.SlotMask) erasure.SlotMask {
	var out erasure.SlotMask
	for ; gen != 0 && choice != 0; gen, choice = gen&(gen-1), choice>>1 {
		if choice&1 == 1 {
			out |= gen & -gen
		}
	}
	return out
}

// compute gives data shards and those in want, from use alone; what is computed
// lies behind the places of the slots, where no late read can write.
func (a *gather) compute(use, want erasure.SlotMask) ([][]byte, error) {
	n := a.group.Scheme.N()
	want = (want | erasure.AllSlots(int(a.group.Scheme.K))) &^ use
	shards := make([][]byte, n)
	at := n * a.size
	for i := range n {
		switch {
		case use.Has(i):
			shards[i] = a.shards[i]
		case want.Has(i):
			shards[i] = a.mem.mem[at : at+a.size : at+a.size]
			at += a.size
		}
	}
	return shards, a.coder.Reconstruct(shards, use, want)
}

// hash is the sum of the stripe's data bytes.
func (a *gather) hash(shards [][]byte) uint64 {
	h := xxh3.New() // what storagenode.BlockSum is, in pieces
	left := a.n
	for _, p := range shards[:a.group.Scheme.K] {
		p = p[:min(left, len(p))]
		_, _ = h.Write(p) // never fails
		left -= len(p)
	}
	return h.Sum64()
}

// blame reports good shards that do not belong to the decoded stripe, or, where
// a choice had to be searched, are not what it would give. d.used becomes those
// that do.
func (a *gather) blame(d *decoded) {
	k := int(a.group.Scheme.K)
	full := make([][]byte, a.group.Scheme.N())
	copy(full, d.shards)
	check := make([]byte, a.size)
	for i := range a.group.Slots {
		if !a.good.Has(i) || d.used.Has(i) {
			continue
		}
		same := a.infos[i].StripeHash == d.hash
		if same {
			have, into := d.shards[i], check
			if have == nil {
				full[i] = into
				if a.coder.Reconstruct(full, erasure.AllSlots(k), erasure.SlotMask(1)<<i) != nil {
					continue
				}
				have, full[i] = into, nil
			}
			same = string(have) == string(a.shards[i])
		}
		if same {
			d.used = d.used.With(i)
			continue
		}
		a.good = a.good.Without(i)
		a.errs[i] = fmt.Errorf("shard %d of stripe %d is of another generation: %w", i, a.stripe, storagenode.ErrCorrupt)
		if i != a.without {
			a.set.damaged(a.group, a.blob.ID, i, a.errs[i])
		}
	}
}
