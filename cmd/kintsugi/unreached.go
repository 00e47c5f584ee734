package main

import (
	"fmt"
	"io"
	"time"

	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc"
)

// unreachedNode is a node that says that it is there, and that the leading
// repairer does not find at the address it announces.
type unreachedNode struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Reason  string `json:"reason"`
}

// unreachedFor is how much later than at its address a node must have been heard
// of by its announcements: one that dies falls silent in both ways at once.
const unreachedFor = 10 * time.Second

// unreached compares what nodes announced with what answers at their addresses.
func unreached(announced []repair.NodeStatus, polled []rpc.NodeState) []unreachedNode {
	at := map[string]rpc.NodeState{}
	for _, p := range polled {
		at[p.Address] = p
	}
	var all []unreachedNode
	for _, n := range announced {
		p, known := at[n.Address]
		switch {
		case !known || !n.Living || n.Heard.IsZero(): // it is polled within seconds, or it is away, or was before this process led
		case p.State == storagenode.DriveDown && n.Heard.Sub(p.Heard) > unreachedFor:
			all = append(all, unreachedNode{n.Name, n.Address, p.Reason})
		case p.Name != "" && p.Name != n.Name && n.Heard.Sub(p.Heard) < unreachedFor:
			all = append(all, unreachedNode{n.Name, n.Address, "node " + p.Name + " answers there"})
		}
	}
	return all
}

// writeUnreached tells of them, and what to do.
func writeUnreached(w io.Writer, nodes []unreachedNode) {
	for _, n := range nodes {
		fmt.Fprintf(w, "NOT FOUND  node %s announces itself, but is not found at %s: %s; open the way there, or give it an --advertise at which the other machines reach it\n", n.Name, n.Address, n.Reason)
	}
}

// unreachedNodes are those of the process's cluster; none where it has no others.
func (a *adminAPI) unreachedNodes() []unreachedNode {
	if a.nodes == nil {
		return nil
	}
	return unreached(a.repairer.Status().Nodes, a.nodes())
}
