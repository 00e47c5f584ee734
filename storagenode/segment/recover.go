package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// seqGap is left free after the highest seq found at open, in case the records
// that bore the next ones are lost.
const seqGap = 1 << 20

// errUnopened: nothing is said of the index by it.
var errUnopened = errors.New("a segment that was not listed cannot be opened")

// recover brings the store to where its log ends.
func (s *Store) recover(ctx context.Context) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.nextSeq, s.nextSeg = 1, 1
	if err := s.openSegments(); err != nil {
		return err
	}
	s.report.Segments = len(*s.segs.Load())
	loaded, err := s.loadIndex()
	if err != nil {
		return err
	}
	if !loaded {
		if err := s.rebuild(ctx); err != nil {
			return err
		}
	} else {
		for _, g := range s.segments() {
			if g.trimmed || g.short > 0 { // of what was cut off nothing is left to read
				continue
			}
			if err := s.replay(ctx, g, false); err != nil {
				return err
			}
		}
	}
	if loaded && s.lossy {
		s.tell(s.absent())
	}
	if err := s.sealAll(); err != nil {
		return err
	}
	s.nextSeq += seqGap
	s.incarnation = firstIncarnation(s.nextSeg)
	return s.removeOldIndexes()
}

// What a segment file turns out to be.
type segmentKind uint8

const (
	segmentUnknown segmentKind = iota
	segmentOurs
	segmentEmpty   // its making was cut short
	segmentForeign // of another drive, put here by mistake: left alone
)

// inspect checks a segment's superblock.
func (s *Store) inspect(g *segFile) (segmentKind, error) {
	st, err := g.f.Stat()
	if err != nil {
		return segmentUnknown, err
	}
	g.pos, g.tail = superSize, max(superSize, st.Size)
	g.sealed = true
	p := make([]byte, superSize)
	var super superblock
	if err = readFull(g.f, p, 0); err == nil {
		err = super.decode(p)
	}
	foreign := err == nil && (super.drive != s.cfg.Drive || super.cluster != s.cfg.Cluster || super.segment != g.id)
	if foreign {
		err = fmt.Errorf("superblock is of drive %s, segment %d", super.drive, super.segment)
	}
	if err == nil {
		return segmentOurs, nil
	}
	if short(err) {
		return segmentUnknown, fmt.Errorf("segment %d: %w", g.id, err)
	}
	sc := scanner{f: g.f, bind: g.bind, off: superSize, size: g.tail, depth: scanHeaders}
	first, serr := sc.next()
	if serr != nil && serr != io.EOF {
		return segmentUnknown, fmt.Errorf("segment %d: %w", g.id, serr)
	}
	if !foreign && (serr != nil || !first.isRecord && first.last && !first.nonzero) {
		if n, err := g.f.ReadAt(p[:1], g.tail); n > 0 || err != io.EOF {
			return segmentUnknown, fmt.Errorf("segment %d does not end where its size says: %w", g.id, errors.Join(err, io.ErrUnexpectedEOF))
		}
		return segmentEmpty, nil
	}
	empty := foreign && (serr != nil || !first.isRecord && first.last && !first.unread) // nothing in it is ours
	if empty && (super.drive != s.cfg.Drive || super.cluster != s.cfg.Cluster) {
		s.cfg.Logger.Warn("a segment of another drive is left alone: move it where it belongs, or remove it", "file", g.path, "of", super.drive.String())
		return segmentForeign, nil
	}
	s.reportDamage(g.id, 0, superSize, err)
	if empty {
		return segmentForeign, nil // one of ours under another's name
	}
	return segmentOurs, nil
}

// loadIndex opens the newest complete index and reads from it what is kept in
// memory. It is false where there is none that can be used.
func (s *Store) loadIndex() (bool, error) {
	gens, err := s.indexGens()
	if err != nil {
		return false, err
	}
	for _, gen := range slices.Backward(gens) {
		dir := filepath.Join(s.idxDir, strconv.FormatUint(gen, 10))
		if _, err := s.cfg.FS.Stat(filepath.Join(dir, indexMarker)); err != nil {
			if errors.Is(err, vfs.ErrNotExist) {
				continue
			}
			return false, err
		}
		x, err := openIndex(s.cfg.FS, s.idxDir, gen, s.cfg.Cache, s.cfg.Logger, s.indexFailed)
		if err == nil {
			if err = s.loadFrom(x); err == nil {
				err = x.fs.Poisoned()
			}
			if err == nil || vfs.NoSpace(err) {
				s.idx.Store(x)
				if err != nil {
					s.indexLost(gen, err) // it serves from memory until there is space
				}
				return true, nil
			}
			x.release()
			if errors.Is(err, errUnopened) {
				return false, err
			}
		}
		s.cfg.Logger.Error("index cannot be used, it will be rebuilt", "dir", dir, "err", err)
		s.idxFailed.Store(nil)
		s.fences, s.nextSeq = map[slotKey]uint32{}, 1
		s.drops.Store(&dropMap{})
		break
	}
	return false, nil
}

// indexGens lists the generations of the index, ascending.
func (s *Store) indexGens() ([]uint64, error) {
	names, err := s.cfg.FS.List(s.idxDir)
	if err != nil {
		return nil, err
	}
	var gens []uint64
	for _, name := range names {
		if gen, err := strconv.ParseUint(name, 10, 64); err == nil {
			gens = append(gens, gen)
		}
	}
	slices.Sort(gens)
	return gens, nil
}

// removeOldIndexes removes all generations but the one in use.
func (s *Store) removeOldIndexes() error {
	gens, err := s.indexGens()
	if err != nil {
		return err
	}
	for _, gen := range gens {
		if gen != s.idx.Load().gen {
			if err := s.cfg.FS.RemoveAll(filepath.Join(s.idxDir, strconv.FormatUint(gen, 10))); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadFrom reads fences, drops, metas and the state.
func (s *Store) loadFrom(x *index) error {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyDrop}, UpperBound: []byte{keyGrace}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		err = s.loadMark(it.Key(), it.Value())
	}
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := s.loadMetas(x); err != nil {
		return err
	}
	p, c, err := x.db.Get([]byte{keyState})
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if len(p) != 48 {
		return errIndexValue
	}
	s.nextSeq = max(s.nextSeq, binary.LittleEndian.Uint64(p))
	s.nextSeg = max(s.nextSeg, binary.LittleEndian.Uint64(p[8:]))
	s.deadTo = later(s.deadTo, storagenode.BlobID(p[16:32]))
	s.novelty.forgetTo(storagenode.BlobID(p[32:48]))
	return nil
}

func (s *Store) loadMark(k, v []byte) error {
	var m mark
	if err := m.decode(v); err != nil {
		return err
	}
	if len(k) < slotKeySize {
		return errIndexValue
	}
	slot := slotKeyOf(binary.BigEndian.Uint32(k[1:]), k[5])
	if k[0] == keyEpoch {
		s.fences[slot] = uint32(m.value)
		return nil
	}
	s.addDrop(slot, drop{uint32(m.value), m.seq})
	s.purgeDue = s.purgeDue || !m.done
	return nil
}

func (s *Store) loadMetas(x *index) error {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyMeta}, UpperBound: []byte{keyMeta + 1}})
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		var m meta
		if err := m.decode(it.Value()); err != nil || len(it.Key()) != 9 {
			return errIndexValue
		}
		id := binary.BigEndian.Uint64(it.Key()[1:])
		s.nextSeg = max(s.nextSeg, id+1)
		g := (*s.segs.Load())[id]
		if g == nil {
			if _, err := s.openSegment(id); err != nil {
				return fmt.Errorf("%w: %w", errUnopened, err)
			}
			g = (*s.segs.Load())[id]
		}
		if g == nil {
			s.reportDamage(id, 0, m.pos, errSegmentMissing)
			s.lossy = true
			continue
		}
		if g.tail < m.pos {
			s.reportDamage(id, g.tail, m.pos, errors.New("the segment is shorter than it was"))
			g.short, s.lossy = g.tail, true
		}
		g.pos, g.dead, g.trimmed = m.pos, m.dead, m.sealed // held is found anew
		g.minSeq.Store(m.minSeq)
	}
	return it.Error()
}

// replayBatch is how many records go into one batch of the index.
const replayBatch = 1000

// replay applies the records of a segment from g.pos on, and finds its tail.
// applyMu is held. With rebuild, payloads known to have been synced are taken
// on trust: reads and scrubs verify them.
func (s *Store) replay(ctx context.Context, g *segFile, rebuild bool) error {
	live := s.incarnation != 0 // puts go on: what is not durable is not ours to judge
	s.mu.Lock()
	size := g.tail
	if live && !g.trimmed {
		size = g.durable
	}
	s.mu.Unlock()
	beyond := int64(0)
	if live {
		// Writes that found no space may end the segment: nothing is there.
		st, err := g.f.Stat()
		if err != nil {
			return fmt.Errorf("segment %d: %w", g.id, err)
		}
		if st.Size < size {
			size, beyond = st.Size, size
		}
	}
	if !live {
		// What a failed fsync left in the cache is not on the medium.
		_ = g.f.DontNeed(0, 0)
	}
	proof, end, rest, err := s.survey(ctx, g, size)
	if err != nil {
		return err
	}
	// What cannot be read is no torn tail either: it may be there another time.
	r := replayer{s: s, g: g, proof: proof, assumed: rest.unread || rebuild && g.id+1 < s.nextSeg}
	if r.assumed && rest.nonzero {
		end = size // not the log's tail, hence not torn: kept, and reported
	}
	end = max(end, min(size, proof))
	sc := scanner{f: g.f, bind: g.bind, off: g.pos, size: end, depth: scanAll}
	if rebuild {
		sc.depth = scanBodies
	}
	for err = nil; err == nil; {
		err = r.batch(ctx, &sc, rebuild)
	}
	if err != io.EOF {
		return err
	}
	g.pos = max(g.pos, end, beyond)
	if !live {
		g.tail = end
		g.durable, g.filled, g.allocated = g.tail, g.tail, g.tail
	}
	return nil
}

// survey finds up to where the segment was surely synced, where its last valid
// record ends, and what follows it.
func (s *Store) survey(ctx context.Context, g *segFile, size int64) (proof, end int64, rest found, err error) {
	proof, end = g.pos, g.pos
	sc := scanner{f: g.f, bind: g.bind, off: g.pos, size: size, depth: scanHeaders}
	for i := 0; ; i++ {
		if i%replayBatch == 0 && ctx.Err() != nil {
			return 0, 0, rest, ctx.Err()
		}
		r, err := sc.next()
		if err == io.EOF {
			return proof, end, rest, nil
		}
		if err != nil {
			return 0, 0, rest, fmt.Errorf("segment %d: %w", g.id, err)
		}
		rest = found{}
		if !r.isRecord && r.last {
			rest = r
		}
		if r.isRecord && r.err == nil {
			proof = max(proof, int64(r.h.synced)*recordAlign)
			end = r.off + r.size
		}
	}
}

type replayer struct {
	s     *Store
	g     *segFile
	proof int64 // below it all was synced
	// assumed: beyond proof as well, so far as is known
	assumed bool
}

// batch applies some records; io.EOF at the end.
func (r *replayer) batch(ctx context.Context, sc *scanner, rebuild bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a, err := r.s.newApplier()
	if err != nil {
		return err
	}
	defer a.close()
	a.replay = true
	var end error
	for n := 0; n < replayBatch && end == nil; n++ {
		if sc.off >= r.proof {
			sc.depth = scanAll
		}
		var rec found
		if rec, end = sc.next(); end != nil {
			break
		}
		if err := r.one(a, &rec, rebuild && sc.depth != scanAll); err != nil {
			return err
		}
		a.covered(r.g, rec.off+rec.size)
	}
	if end != nil && end != io.EOF {
		return fmt.Errorf("segment %d: %w", r.g.id, end)
	}
	if err := a.commit(); err != nil {
		return err
	}
	return end
}

// one applies one step of the scan.
func (r *replayer) one(a *applier, rec *found, shallow bool) error {
	proven := rec.off < r.proof || rec.unread
	at := place{r.g.id, rec.off}
	if !rec.isRecord {
		if proven || r.assumed && rec.nonzero {
			r.s.reportDamage(r.g.id, rec.off, rec.off+rec.size, errNoRecord)
		}
		a.kill(at, rec.size)
		return nil
	}
	r.s.report.Replayed++
	h := &rec.h
	if recordType(h.typ) != typeSkip {
		r.g.lowerMinSeq(h.seq)
		r.s.mu.Lock()
		r.s.nextSeq = max(r.s.nextSeq, h.seq+1)
		r.s.mu.Unlock()
	}
	a.damaged, a.verify = rec.err != nil, nil
	if rec.err != nil && (proven || r.assumed) {
		r.s.reportCorrupt(h.shardID(), rec.err)
	}
	if rec.err != nil && !proven {
		a.kill(at, rec.size) // never acknowledged, so far as can be told
		return nil
	}
	if shallow {
		a.verify = func() bool { return verifyRecord(r.g, rec.off, h) == nil }
	}
	return a.apply(h, at, rec.size, place{}, false)
}

// sealAll ends every segment where its last record does: a new one is begun
// for what comes. applyMu is held.
func (s *Store) sealAll() error {
	a, err := s.newApplier()
	if err != nil {
		return err
	}
	defer a.close()
	for _, g := range s.segments() {
		if g.trimmed {
			continue
		}
		if err := s.trim(g); err != nil {
			return err
		}
		g.trimmed = true
		a.touch(g)
	}
	return a.commit()
}

// trim cuts a sealed segment to its end and makes it durable: what replay took
// from the cache may not have been. One that is shorter than it was stays as it is: it
// has no more than its end, or only seems to.
func (s *Store) trim(g *segFile) error {
	if g.short == 0 {
		if err := g.f.Truncate(g.tail); err != nil && !vfs.NoSpace(err) && !short(err) {
			return fmt.Errorf("trim segment %d: %w", g.id, err)
		}
	}
	if err := g.f.Sync(); err != nil {
		return fmt.Errorf("trim segment %d: %w: %w", g.id, errSync, err)
	}
	return nil
}
