package catalog

import (
	"context"
	"fmt"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// Inconsistency is something in the metadata that must not be.
type Inconsistency struct {
	// Key is the key of the row that is at fault, as it is stored.
	Key []byte
	// What is wrong, for a person.
	What string
}

// String gives both in one line.
func (i Inconsistency) String() string { return fmt.Sprintf("%q: %s", i.Key, i.What) }

// maxInconsistencies is where Check stops: metadata that is wrong everywhere
// needs no longer list.
const maxInconsistencies = 10_000

// Check reads all metadata on one snapshot and says where the families of
// keys disagree: every blob an object, a part or a part list names has a
// record that names it back, no record is without one who names it, damage
// rows are where blobs miss slots, and nothing that is owed a delete is in
// use. It changes nothing. Its memory does not grow with the number of
// objects.
func (c *Catalog) Check(ctx context.Context) ([]Inconsistency, error) {
	snap, err := c.e.kv.Snapshot(ctx)
	if err != nil {
		return nil, unavailable("check", err)
	}
	defer snap.Close()
	k := &checker{r: snap, buckets: make(map[metadata.BucketID]bool), groups: make(map[storagenode.PG]erasure.Scheme),
		lists: make(map[string]map[int][]metadata.Located)}
	passes := []struct {
		family byte
		row    func(context.Context, kv.Pair) error
	}{
		{famBucket, k.bucket}, {famGroup, k.group}, {famObject, k.object}, {famUpload, k.upload}, {famPart, k.part},
		{famChunk, k.chunk}, {famBlob, k.blob}, {famDamage, k.damage}, {famOwed, k.owed},
	}
	for _, pass := range passes {
		for p, err := range snap.Scan(ctx, []byte{pass.family}, []byte{pass.family + 1}) {
			if err != nil {
				return k.found, unavailable("check", err)
			}
			// The pair is valid for one step only, and rows are looked up in it.
			p = kv.Pair{Key: append([]byte(nil), p.Key...), Value: append([]byte(nil), p.Value...)}
			if err := pass.row(ctx, p); err != nil {
				return k.found, unavailable("check", err)
			}
			if len(k.found) >= maxInconsistencies {
				return k.found, nil
			}
		}
	}
	return k.found, nil
}

type checker struct {
	r       kv.Reader
	found   []Inconsistency
	buckets map[metadata.BucketID]bool
	groups  map[storagenode.PG]erasure.Scheme
	// lists holds the part lists of the uploads looked at last.
	lists map[string]map[int][]metadata.Located
}

func (k *checker) report(key []byte, format string, args ...any) {
	k.found = append(k.found, Inconsistency{Key: append([]byte(nil), key...), What: fmt.Sprintf(format, args...)})
}

func (k *checker) has(ctx context.Context, key []byte) (bool, error) {
	v, err := k.r.Get(ctx, key)
	return v != nil, err
}

func (k *checker) bucket(_ context.Context, p kv.Pair) error {
	b, err := decodeBucket(string(p.Key[1:]), p.Value)
	if err != nil {
		k.report(p.Key, "bucket: %v", err)
		return nil
	}
	if k.buckets[b.ID] {
		k.report(p.Key, "bucket id %d is used twice", b.ID)
	}
	k.buckets[b.ID] = true
	return nil
}

func (k *checker) group(_ context.Context, p kv.Pair) error {
	pg, ok := splitGroupKey(p.Key)
	g, err := decodeGroup(pg, p.Value)
	if !ok || err != nil {
		k.report(p.Key, "group: %v", err)
		return nil
	}
	k.groups[pg] = g.Scheme
	for i := range g.Slots {
		for j := range i {
			if g.Slots[i].Drive == g.Slots[j].Drive {
				k.report(p.Key, "slots %d and %d are on one drive", j, i)
			}
		}
	}
	return nil
}

// splitObjectKey reads an objectKey.
func splitObjectKey(key []byte) (metadata.BucketID, string, bool) {
	if len(key) < 5 {
		return 0, "", false
	}
	return metadata.BucketID(uint32(key[1])<<24 | uint32(key[2])<<16 | uint32(key[3])<<8 | uint32(key[4])), string(key[5:]), true
}

func (k *checker) object(ctx context.Context, p kv.Pair) error {
	bid, key, ok := splitObjectKey(p.Key)
	o, err := decodeObject(key, p.Value)
	if !ok || err != nil {
		k.report(p.Key, "object: %v", err)
		return nil
	}
	if !k.buckets[bid] {
		k.report(p.Key, "bucket %d is not there", bid)
	}
	size := int64(0)
	for _, l := range o.Blobs {
		size += l.Blob.Size
		if err := k.named(ctx, p.Key, l, owner{kind: metadata.OwnedByObject, bucket: bid, key: key}); err != nil {
			return err
		}
	}
	if len(o.Manifest) > 0 {
		m, err := decodeManifest(o.Manifest)
		if err != nil {
			k.report(p.Key, "manifest: %v", err)
			return nil
		}
		if size, err = k.manifest(ctx, p.Key, bid, key, &m); err != nil {
			return err
		}
	}
	if size != o.Size {
		k.report(p.Key, "object of %d bytes has blobs of %d", o.Size, size)
	}
	return nil
}

// manifest checks the part lists of an object and gives the bytes in them.
func (k *checker) manifest(ctx context.Context, row []byte, bid metadata.BucketID, key string, m *manifest) (size int64, err error) {
	a := new(arena)
	if owed, err := k.has(ctx, a.owedUploadKey(owedList, m.upload)); err != nil {
		return 0, err
	} else if owed {
		k.report(row, "part lists of upload %s are owed a delete", m.upload)
	}
	for i, ref := range m.chunks {
		v, err := k.r.Get(ctx, a.chunkKey(m.upload, i))
		if err != nil {
			return 0, err
		}
		parts, derr := decodeChunkOrNone(v)
		if derr != nil || len(parts) == 0 || parts[0].number != ref.part || size != ref.start {
			k.report(row, "part list %d of upload %s: missing or another (%v)", i, m.upload, derr)
			return size, nil
		}
		for _, part := range parts {
			sum := int64(0)
			for _, l := range part.blobs {
				sum += l.Blob.Size
				o := owner{kind: metadata.OwnedByUpload, bucket: bid, key: key, upload: m.upload, part: part.number}
				if err := k.named(ctx, row, l, o); err != nil {
					return size, err
				}
			}
			if size += part.size; sum != part.size {
				k.report(row, "part %d of %d bytes has blobs of %d", part.number, part.size, sum)
			}
		}
	}
	return size, nil
}

// named checks the record of a blob that row names.
func (k *checker) named(ctx context.Context, row []byte, l metadata.Located, want owner) error {
	a := new(arena)
	v, err := k.r.Get(ctx, a.blobKey(l.PG, l.Blob.ID))
	if err != nil {
		return err
	}
	if v == nil {
		k.report(row, "blob %s of group %d has no record", l.Blob.ID, l.PG)
		return nil
	}
	var o owner
	b, err := decodeBlob(v, l.Blob.ID, &o)
	switch {
	case err != nil: // reported with the record
	case o != want:
		k.report(row, "blob %s says it belongs to %+v", l.Blob.ID, o)
	case b.Size != l.Blob.Size || b.Mode != l.Blob.Mode || b.Slots != l.Blob.Slots:
		k.report(row, "blob %s has another size, mode or slots", l.Blob.ID)
	}
	return nil
}

func (k *checker) upload(_ context.Context, p kv.Pair) error {
	key, id, ok := splitUploadKey(p.Key)
	if _, err := decodeUpload(key, id, p.Value); !ok || err != nil {
		k.report(p.Key, "upload: %v", err)
		return nil
	}
	if bid, _, _ := splitObjectKey(p.Key); !k.buckets[bid] {
		k.report(p.Key, "bucket %d is not there", bid)
	}
	return nil
}

// splitID reads the upload id off a part or a chunk key.
func splitID(key []byte) (id string, number int, ok bool) {
	if len(key) < 4 || len(key) != 4+int(key[1]) {
		return "", 0, false
	}
	return string(key[2 : len(key)-2]), partNumber(key), true
}

func (k *checker) part(ctx context.Context, p kv.Pair) error {
	id, number, ok := splitID(p.Key)
	r, err := decodePart(number, p.Value)
	if !ok || err != nil {
		k.report(p.Key, "part: %v", err)
		return nil
	}
	for _, l := range r.blobs {
		a := new(arena)
		v, err := k.r.Get(ctx, a.blobKey(l.PG, l.Blob.ID))
		if err != nil {
			return err
		}
		var o owner
		if v == nil {
			k.report(p.Key, "blob %s of group %d has no record", l.Blob.ID, l.PG)
			continue
		}
		if _, err := decodeBlob(v, l.Blob.ID, &o); err != nil {
			continue // reported with the record
		}
		if o.kind != metadata.OwnedByUpload || o.upload != id || o.part != number {
			k.report(p.Key, "blob %s says it belongs to %+v", l.Blob.ID, o)
			continue
		}
		live, err := k.has(ctx, a.uploadKey(o.bucket, o.key, id))
		if err != nil {
			return err
		}
		ended, err := k.has(ctx, a.owedUploadKey(owedParts, id))
		if err != nil {
			return err
		}
		if live == ended {
			k.report(p.Key, "upload of the part: open %v, ended %v", live, ended)
		}
	}
	return nil
}

func (k *checker) chunk(_ context.Context, p kv.Pair) error {
	if _, _, ok := splitID(p.Key); !ok {
		k.report(p.Key, "part list key cannot be read")
	} else if _, err := decodeChunk(p.Value); err != nil {
		k.report(p.Key, "part list: %v", err)
	}
	return nil
}

func (k *checker) blob(ctx context.Context, p kv.Pair) error {
	pg, id, ok := splitBlobKey(p.Key)
	var o owner
	b, err := decodeBlob(p.Value, id, &o)
	if !ok || err != nil {
		k.report(p.Key, "blob: %v", err)
		return nil
	}
	scheme, ok := k.groups[pg]
	if !ok || b.Slots&^erasure.AllSlots(scheme.N()) != 0 || b.Missing&^b.Slots != 0 {
		k.report(p.Key, "slots %b, missing %b do not fit its group", b.Slots, b.Missing)
		return nil
	}
	a := new(arena)
	if b.Missing != 0 {
		if marked, err := k.has(ctx, a.damageKey(marginOf(b, scheme), pg, id)); err != nil {
			return err
		} else if !marked {
			k.report(p.Key, "slots %b are missing, but there is no damage row", b.Missing)
		}
	}
	if owed, err := k.has(ctx, a.owedKey(pg, id)); err != nil {
		return err
	} else if owed {
		k.report(p.Key, "blob is owed a delete")
	}
	owned, err := k.owned(ctx, pg, id, &o)
	if err == nil && !owned {
		k.report(p.Key, "nothing names the blob; it says %+v", o)
	}
	return err
}

// owned says whether the owner of a blob names it.
func (k *checker) owned(ctx context.Context, pg storagenode.PG, id storagenode.BlobID, o *owner) (bool, error) {
	names := func(blobs []metadata.Located) bool {
		for i := range blobs {
			if blobs[i].PG == pg && blobs[i].Blob.ID == id {
				return true
			}
		}
		return false
	}
	a := new(arena)
	v, err := k.r.Get(ctx, a.objectKey(o.bucket, o.key))
	if err != nil {
		return false, err
	}
	cur, err := decodeCurrent(v)
	if err != nil {
		return false, nil // reported with the object
	}
	if o.kind == metadata.OwnedByObject {
		return cur != nil && names(cur.blobs), nil
	}
	if v, err = k.r.Get(ctx, a.partKey(o.upload, o.part)); err != nil {
		return false, err
	}
	if v != nil {
		r, err := decodePart(o.part, v)
		return err == nil && names(r.blobs), nil
	}
	current := false
	if cur != nil && len(cur.manifest) > 0 {
		m, err := decodeManifest(cur.manifest)
		current = err == nil && m.upload == o.upload
	}
	if owed, err := k.has(ctx, a.owedUploadKey(owedList, o.upload)); err != nil || !owed && !current {
		return false, err
	}
	parts, err := k.listed(ctx, o.upload)
	return err == nil && names(parts[o.part]), err
}

// listed gives the blobs of the parts in an upload's part lists.
func (k *checker) listed(ctx context.Context, id string) (map[int][]metadata.Located, error) {
	if parts, ok := k.lists[id]; ok {
		return parts, nil
	}
	if len(k.lists) >= 16 {
		clear(k.lists)
	}
	parts := make(map[int][]metadata.Located)
	from := appendIDPrefix(nil, famChunk, id)
	for p, err := range k.r.Scan(ctx, from, prefixEnd(from)) {
		if err != nil {
			return nil, err
		}
		list, _ := decodeChunk(p.Value) // reported with the list
		for i := range list {
			parts[list[i].number] = list[i].blobs
		}
	}
	k.lists[id] = parts
	return parts, nil
}

func (k *checker) damage(ctx context.Context, p kv.Pair) error {
	pg, id, ok := splitBlobKey(p.Key)
	if !ok || len(p.Key) != 22 {
		k.report(p.Key, "damage key cannot be read")
		return nil
	}
	v, err := k.r.Get(ctx, new(arena).blobKey(pg, id))
	if err != nil {
		return err
	}
	if v == nil {
		k.report(p.Key, "damage of a blob without a record")
		return nil
	}
	b, err := decodeBlob(v, id, nil)
	if err != nil {
		return nil // reported with the record
	}
	if margin := marginOf(b, k.groups[pg]); b.Missing == 0 || int(p.Key[1])-128 != margin {
		k.report(p.Key, "damage row, but slots %b are missing (margin %d)", b.Missing, margin)
	}
	return nil
}

func (k *checker) owed(_ context.Context, p kv.Pair) error {
	if len(p.Key) < 3 {
		k.report(p.Key, "owed key cannot be read")
		return nil
	}
	if p.Key[1] != owedBlob {
		if _, err := decodeOwedLayout(p.Value); err != nil {
			k.report(p.Key, "owed layout: %v", err)
		}
		return nil
	}
	pg, id, ok := splitOwedKey(p.Key)
	o, err := decodeOwed(pg, id, p.Value)
	if !ok || err != nil {
		k.report(p.Key, "owed: %v", err)
	} else if o.Pending&^o.Blob.Slots != 0 || o.Pending == 0 {
		k.report(p.Key, "pending %b of slots %b", o.Pending, o.Blob.Slots)
	}
	return nil
}

// BucketUsage is what a bucket holds.
type BucketUsage struct {
	Objects, Bytes, Uploads int64
}

// Usage counts what every bucket holds by reading all of it; it is for a
// status page, not for a request.
func (c *Catalog) Usage(ctx context.Context) (map[metadata.BucketID]BucketUsage, error) {
	usage := make(map[metadata.BucketID]BucketUsage)
	for _, family := range []byte{famObject, famUpload} {
		for p, err := range c.e.kv.Scan(ctx, []byte{family}, []byte{family + 1}) {
			if err != nil {
				return nil, unavailable("usage", err)
			}
			bid, _, ok := splitObjectKey(p.Key)
			if !ok {
				continue
			}
			u := usage[bid]
			if family == famObject {
				d := newDecoder(p.Value)
				u.Objects++
				u.Bytes += d.int(maxSize)
			} else {
				u.Uploads++
			}
			usage[bid] = u
		}
	}
	return usage, nil
}
