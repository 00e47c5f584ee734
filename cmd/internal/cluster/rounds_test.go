package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// ordered are the nemeses that KINTSUGI_ONLY names, divided by +, to
// come all at once in every round; none where it is not set.
func ordered() (all []nemesis) {
	names := os.Getenv("KINTSUGI_ONLY")
	for name := range strings.SplitSeq(names, "+") {
		for _, n := range slices.Concat(oneNode, twoNodes, losing, noNodes, unseen, beyond) {
			if n.name == strings.TrimSpace(name) {
				all = append(all, n)
			}
		}
	}
	if names != "" && len(all) != 1+strings.Count(names, "+") {
		panic("KINTSUGI_ONLY=" + names + ": there is no such nemesis")
	}
	return all
}

// drawn are the nemeses of a round as chance has it.
func (o *ordeal) drawn() (all []nemesis) {
	pick := func(of []nemesis) nemesis { return of[o.rng.IntN(len(of))] }
	switch k := o.rng.IntN(10); {
	case k == 0:
		all = append(all, pick(beyond))
	case k <= 3:
		all = append(all, pick(twoNodes))
	case k <= 6:
		all = append(all, pick(oneNode), pick(oneNode))
	case k == 7:
		all = append(all, pick(unseen))
	default:
		all = append(all, pick(oneNode))
	}
	if o.lossy && all[0].nodes == 1 {
		all[0] = pick(losing)
	}
	if o.rng.IntN(4) > 0 {
		all = append(all, pick(noNodes))
	}
	return all
}

// choose picks what goes wrong at once in a round, and at which nodes.
func (o *ordeal) choose() ([]nemesis, [][]*storageNode) {
	all := ordered()
	if len(all) == 0 {
		all = o.drawn()
	}
	nodes := append([]*storageNode(nil), o.many.nodes...)
	o.rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	if all[0].nodes == 2 && o.rng.IntN(2) == 0 { // a whole zone
		z := 2 * o.rng.IntN(3)
		nodes = []*storageNode{o.many.nodes[z], o.many.nodes[z+1]}
	}
	var targets [][]*storageNode
	for _, n := range all {
		targets = append(targets, nodes[:n.nodes])
		nodes = nodes[n.nodes:]
	}
	return all, targets
}

// round lets nemeses loose and waits for their end; what a drive has lost is
// there again before the next.
func (o *ordeal) round(last bool) error {
	pause(o.rng, 250)
	all, targets := o.choose()
	var ends sync.WaitGroup
	errs := make([]error, len(all))
	loses := false
	for i, n := range all {
		if loses = loses || n.loses; n.loses {
			o.many.ledger.lossy.Store(true)
		}
		names := []string{}
		for _, s := range targets[i] {
			names = append(names, s.name)
		}
		o.logger().Info("nemesis", "what", n.name, "nodes", names)
		a := &attack{ordeal: o, rng: rand.New(rand.NewPCG(o.rng.Uint64(), 13)), nodes: targets[i]}
		ends.Go(func() {
			if errs[i] = n.do(a); errs[i] != nil {
				errs[i] = fmt.Errorf("%s of %v: %w", n.name, names, errs[i])
			}
			o.logger().Info("nemesis is over", "what", n.name)
		})
	}
	ends.Wait()
	if err := errors.Join(errs...); err != nil || last || !loses {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, n := range o.many.nodes {
		if err := o.renew(n); err != nil {
			return err
		}
	}
	return o.many.Whole(ctx)
}
