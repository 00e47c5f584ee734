package catalog

import (
	"context"
	"fmt"

	"kintsugi/metadata"
)

// NodeRecords keeps the nodes (famNode).
type NodeRecords struct{ e *engine }

// ListNodes implements metadata.Nodes.
func (s *NodeRecords) ListNodes(ctx context.Context) ([]metadata.NodeRecord, error) {
	var list []metadata.NodeRecord
	for p, err := range s.e.kv.Scan(ctx, []byte{famNode}, []byte{famNode + 1}) {
		if err != nil {
			return nil, unavailable("list nodes", err)
		}
		n, err := decodeNode(string(p.Key[1:]), p.Value)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", p.Key[1:], err)
		}
		list = append(list, n)
	}
	return list, nil
}

// PutNode implements metadata.Nodes.
func (s *NodeRecords) PutNode(ctx context.Context, n metadata.NodeRecord) error {
	return s.e.update(ctx, "put node", func(t *txn) error {
		t.Put(t.nodeKey(n.Name), encodeNode(nil, &n))
		return nil
	})
}

// DeleteNode implements metadata.Nodes.
func (s *NodeRecords) DeleteNode(ctx context.Context, name string) error {
	return s.e.update(ctx, "delete node", func(t *txn) error {
		t.Delete(t.nodeKey(name))
		return nil
	})
}
