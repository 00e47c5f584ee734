package mutants

// edit is a change of text; old occurs once in the file.
type edit struct{ old, new string }

// mutant is Kintsugi with one promise broken.
type mutant struct {
	name  string
	file  string // from the module's root
	edits []edit
}

// all are the mutants. Each is to be caught by the seeds, by whatever proof.
var all = []mutant{
	{"a drive ignores stale slot epochs", "storagenode/segment/log.go", []edit{{
		"	case typeShard:\n		switch {\n		case h.epoch < fence:",
		"	case typeShard:\n		switch {\n		case false:",
	}}},
	{"a slot is mapped before its new drive has the fence", "repair/planner.go", []edit{{
		"if err := store.SetSlotEpoch(opCtx, m.pg, m.slot, m.from.Epoch+1); err != nil {",
		"if err := opCtx.Err(); err != nil {",
	}}},
	{"a commit does not assert the slots' epochs", "metadata/catalog/blobs.go", []edit{{
		"		if g.Slots[i].Epoch != w.Group.Slots[i].Epoch || g.Slots[i].Drive != w.Group.Slots[i].Drive {",
		"		if false {",
	}}},
	{"a commit does not assert the request's preconditions", "metadata/catalog/objects.go", []edit{{
		"	if err := check(c, cur); err != nil {\n		return err\n	}\n	var missing",
		"	_ = check\n	var missing",
	}}},
	{"a commit does not record the slots that are missing", "metadata/catalog/blobs.go", []edit{{
		"		b.Missing = missing[i]\n",
		"		b.Missing = 0\n",
	}}},
	{"a commit of unknown outcome is cleaned up as a failure", "metadata/catalog/blobs.go", []edit{{
		"	if v, err := t.Get(ctx, t.blobKey(pg, id)); v != nil || err != nil {\n		return traceRecord, err\n	}\n",
		"",
	}}},
	{"a commit of unknown outcome is taken for a success", "metadata/catalog/blobs.go", []edit{{
		"	case !committed:\n",
		"	case !committed && false:\n",
	}}},
	{"a write is acknowledged below the quorum", "erasure/erasure.go", []edit{{
		"	return int(s.K) + 1\n",
		"	return int(s.K) - 1\n",
	}}},
	{"a drive acknowledges before it has synced", "storagenode/segment/commit.go", []edit{{
		"		if err := g.f.SyncData(); err != nil {\n			return nil, fmt.Errorf(\"segment %d: %w: %w\", g.id, errSync, err)\n		}\n		st, err",
		"		st, err",
	}}},
	{"a drive does not verify what it reads", "storagenode/segment/read.go", []edit{
		{"		if storagenode.BlockSum(p[:n]) != binary.LittleEndian.Uint64(sums[8*i:]) {", "		if false {"},
		{"		if storagenode.BlockSum(block) != binary.LittleEndian.Uint64(sums[8*i:]) {", "		if len(block) == 0 && len(sums) == 0 {"},
	}},
	{"all lives of a drive are the same", "storagenode/rpc/server.go", []edit{{
		"life: rand.Uint64() | 1,",
		"life: rand.Uint64()&0 | 1,",
	}}},
	{"unreachable is taken for absent", "storagenode/rpc/client.go", []edit{{
		"	return fmt.Errorf(\"node %s: %w: %w\", c.base.Host, storagenode.ErrUnavailable, err)\n",
		"	return fmt.Errorf(\"node %s: %w: %w\", c.base.Host, storagenode.ErrNotFound, err)\n",
	}}},
	{"a repairer does not assert its term", "metadata/catalog/catalog.go", []edit{{
		"	if term, ok := metadata.TermOf(ctx); ok {\n",
		"	if term, ok := metadata.TermOf(ctx); ok && false {\n",
	}}},
	{"a slot is called clean before it is full", "repair/rebuild.go", []edit{{
		"		if lacking == 0 {\n",
		"		if lacking >= 0 {\n",
	}}},
	{"a drive that is away has acknowledged deletes", "repair/deletes.go", []edit{{
		"			if store, state := d.cfg.Drives.Drive(s.Drive); store != nil && state.Readable() {\n",
		"			if store, state := d.cfg.Drives.Drive(s.Drive); store == nil || !state.Readable() {\n				b.ack(i, slot)\n			} else {\n",
	}}},
	{"a gateway reads by groups of any age", "metadata/catalog/groups.go", []edit{{
		"read > 0 && s.since()-read < int64(s.cfg.GroupAge) {",
		"read > 0 {",
	}}},
}
