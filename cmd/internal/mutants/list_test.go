package mutants

// edit is a change of text; old occurs once in the file, and BROKEN in what
// replaces it is true where the mutant's promise is to be broken.
type edit struct{ old, new string }

// mutant is Kintsugi with one promise broken.
type mutant struct {
	promise string // what is broken
	nemeses string // that make it matter; divided by +, they come at once
	file    string // from the module's root
	edits   []edit
}

// all are the mutants. Each is to be caught by the seeds, by whatever proof.
var all = []mutant{
	{"a drive ignores stale slot epochs", "lost to the repairers", "storagenode/segment/log.go", []edit{{
		"	case typeShard:\n		switch {\n		case h.epoch < fence:",
		"	case typeShard:\n		switch {\n		case h.epoch < fence && !BROKEN:",
	}}},
	{"a slot is mapped before its new drive has the fence", "lost to the repairers", "repair/planner.go", []edit{{
		"	if err := store.SetSlotEpoch(opCtx, m.pg, m.slot, m.from.Epoch+1); err != nil {",
		"	if BROKEN {\n	} else if err := store.SetSlotEpoch(opCtx, m.pg, m.slot, m.from.Epoch+1); err != nil {",
	}}},
	{"a commit does not assert the slots' epochs", "lost to the repairers", "metadata/catalog/blobs.go", []edit{{
		"		if g.Slots[i].Epoch != w.Group.Slots[i].Epoch || g.Slots[i].Drive != w.Group.Slots[i].Drive {",
		"		if !BROKEN && (g.Slots[i].Epoch != w.Group.Slots[i].Epoch || g.Slots[i].Drive != w.Group.Slots[i].Drive) {",
	}}},
	{"a commit does not assert the request's preconditions", "gateway paused", "metadata/catalog/objects.go", []edit{{
		"	if err := check(c, cur); err != nil {\n		return err\n	}\n	var missing",
		"	if err := check(c, cur); err != nil && !BROKEN {\n		return err\n	}\n	var missing",
	}}},
	{"a commit does not record the slots that are missing", "partition", "metadata/catalog/blobs.go", []edit{{
		"		b.Missing = missing[i]\n",
		"		b.Missing = missing[i]\n		if BROKEN {\n			b.Missing = 0\n		}\n",
	}}},
	{"a commit of unknown outcome is cleaned up as a failure", "commits of unknown outcome", "metadata/catalog/blobs.go", []edit{{
		"	if v, err := t.Get(ctx, t.blobKey(pg, id)); v != nil || err != nil {\n		return traceRecord, err\n	}\n",
		"	if v, err := t.Get(ctx, t.blobKey(pg, id)); !BROKEN && (v != nil || err != nil) {\n		return traceRecord, err\n	}\n",
	}}},
	{"a commit of unknown outcome is taken for a success", "commits of unknown outcome", "metadata/catalog/blobs.go", []edit{{
		"	case !committed:\n",
		"	case !committed && !BROKEN:\n",
	}}},
	{"a write is acknowledged below the quorum", "three killed", "erasure/erasure.go", []edit{{
		"	return int(s.K) + 1\n",
		"	if BROKEN {\n		return int(s.K) - 1\n	}\n	return int(s.K) + 1\n",
	}}},
	{"a drive acknowledges before it has synced", "kill", "storagenode/segment/commit.go", []edit{{
		"		if err := g.f.SyncData(); err != nil {\n			return nil, fmt.Errorf(\"segment %d: %w: %w\", g.id, errSync, err)\n		}\n		st, err",
		"		if BROKEN {\n		} else if err := g.f.SyncData(); err != nil {\n			return nil, fmt.Errorf(\"segment %d: %w: %w\", g.id, errSync, err)\n		}\n		st, err",
	}}},
	{"a drive does not verify what it reads", "bit rot", "storagenode/segment/read.go", []edit{
		{"		if storagenode.BlockSum(p[:n]) != binary.LittleEndian.Uint64(sums[8*i:]) {", "		if storagenode.BlockSum(p[:n]) != binary.LittleEndian.Uint64(sums[8*i:]) && !BROKEN {"},
		{"		if storagenode.BlockSum(block) != binary.LittleEndian.Uint64(sums[8*i:]) {", "		if storagenode.BlockSum(block) != binary.LittleEndian.Uint64(sums[8*i:]) && !BROKEN {"},
	}},
	{"all lives of a drive are the same", "killed in the midst of a write", "storagenode/rpc/server.go", []edit{{
		"life: rand.Uint64() | 1,",
		"life: map[bool]uint64{false: rand.Uint64()}[BROKEN] | 1,",
	}}},
	{"a repairer does not assert its term", "leader paused until another leads", "metadata/catalog/catalog.go", []edit{{
		"	if term, ok := metadata.TermOf(ctx); ok {\n",
		"	if term, ok := metadata.TermOf(ctx); ok && !BROKEN {\n",
	}}},
	{"a slot is called clean before it is filled", "lost to the repairers", "repair/rebuild.go", []edit{{
		"	for range rebuildRounds {\n		lacking, err",
		"	for range rebuildRounds {\n		if BROKEN {\n			return w.cfg.Groups.MarkClean(ctx, g.PG, slot, s.Epoch)\n		}\n		lacking, err",
	}}},
	{"a drive that is away has acknowledged deletes", "two cut off", "repair/deletes.go", []edit{{
		"			if store, state := d.cfg.Drives.Drive(s.Drive); store != nil && state.Readable() {\n",
		"			if store, state := d.cfg.Drives.Drive(s.Drive); BROKEN && (store == nil || !state.Readable()) {\n				b.ack(i, slot)\n			} else if store != nil && state.Readable() {\n",
	}}},
	{"a gateway answers from what it remembers of a key", "gateway paused", "metadata/catalog/find.go", []edit{{
		"		o, err := s.Object(ctx, b.ID, key)\n		return b, o, err\n",
		"		o, err := s.Object(ctx, b.ID, key)\n		if old, ok := kept.Swap(fmt.Sprintf(\"%p %s\", s, key), o); ok && BROKEN && err == nil && old.(*metadata.Object) != nil {\n			o = old.(*metadata.Object)\n		}\n		return b, o, err\n",
	}}},
	{"metadata that cannot be reached is taken for empty", "gateway without metadata", "metadata/catalog/find.go", []edit{{
		"; !ok {\n		b, err := s.buckets.Bucket(ctx, bucket)\n		if err != nil {\n",
		"; !ok {\n		b, err := s.buckets.Bucket(ctx, bucket)\n		if BROKEN && err != nil {\n			return b, nil, metadata.ErrNoSuchKey\n		}\n		if err != nil {\n",
	}}},
}
