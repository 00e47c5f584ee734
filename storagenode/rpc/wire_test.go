package rpc

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"kintsugi/storagenode"
)

func goldenPut() putHead {
	return putHead{life: 0x0102030405060708, sync: true, payload: 70_000, shard: storagenode.Shard{
		ID: storagenode.ShardID{PG: 0x11121314, Slot: 5, Blob: storagenode.BlobID{0xb0, 15: 0x0b}, Stripe: 0x21222324},
		K:  4, M: 2, SlotEpoch: 0x31323334, StripeLen: 280_000, StripeHash: 0x4142434445464748, Last: true,
		Attrs: []byte("attrs"), Sums: []uint64{0x5152535455565758, 0x6162636465666768},
	}}
}

func goldenInfo() storagenode.ShardInfo {
	s := goldenPut().shard
	return storagenode.ShardInfo{
		ID: s.ID, K: s.K, M: s.M, SlotEpoch: s.SlotEpoch, StripeLen: s.StripeLen, StripeHash: s.StripeHash, Last: true, Size: 70_000,
	}
}

func goldenFiles(t *testing.T) map[string][]byte {
	h, info := goldenPut(), goldenInfo()
	f := scrubFrame{kind: scrubDamage, shard: h.shard.ID, records: 3, bytes: 4}
	report := wireReports{Cluster: testCluster, Name: "n1", Drives: []wireReport{{
		DriveReport: storagenode.DriveReport{
			ID: testDrive, Node: "n1", Zone: "z1", Dir: "/d", State: storagenode.DriveSuspect, Reason: "slow",
			Since: time.Unix(1_700_000_000, 0).UTC(), Heard: time.Unix(1_700_000_001, 0).UTC(),
			Space: storagenode.Space{Total: 4, Used: 1, Free: 2, Dead: 1, ReadOnly: true},
		},
		Replaces: storagenode.DriveID{9}, Life: 1<<64 - 1,
	}}}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	announced := wireAnnouncement{Announcement: storagenode.Announcement{
		Cluster: testCluster, Name: "n1", Zone: "z1", Address: "http://n1:9100", Version: "v1",
	}, Drives: report.Drives}
	announcement, err := json.MarshalIndent(announced, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	dump := func(b []byte) []byte { return []byte(hex.Dump(b)) }
	return map[string][]byte{
		"put.hex":           dump(appendPut(nil, &h)),
		"list.hex":          dump(cursor{after: h.shard.ID.Blob, from: true, stripe: 7}.append(appendSlot(nil, 1, 5))),
		"info.hex":          dump(appendInfo(nil, &info)),
		"scrub.hex":         dump(f.append(nil)),
		"status.hex":        dump(appendStatus(nil, fmt.Errorf("two: %w: %w", storagenode.ErrCorrupt, storagenode.ErrBroken))),
		"reports.json":      text,
		"announcement.json": announcement,
	}
}

func TestGolden(t *testing.T) {
	for name, got := range goldenFiles(t) {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the format on the wire changed:\n%s", name, got)
		}
	}
}

// TestSpaceOfEarlierVersions: once the keys of a drive's space began with
// capitals, and nodes of both kinds are in one cluster while it is upgraded.
func TestSpaceOfEarlierVersions(t *testing.T) {
	var back storagenode.Space
	err := json.Unmarshal([]byte(`{"Total":4,"Used":1,"Free":2,"Dead":1,"ReadOnly":true}`), &back)
	if want := (storagenode.Space{Total: 4, Used: 1, Free: 2, Dead: 1, ReadOnly: true}); err != nil || back != want {
		t.Errorf("%+v, %v", back, err)
	}
}

// TestSentinelsOnTheWire holds every sentinel to its bit.
func TestSentinelsOnTheWire(t *testing.T) {
	for i, s := range sentinels {
		r := wireReader{b: appendStatus(nil, s)}
		if mask := r.u32(); mask&(1<<i) == 0 {
			t.Errorf("%v has mask %x", s, mask)
		}
	}
	if sentinels[3] != storagenode.ErrReadOnly || sentinels[8] != storagenode.ErrUnavailable || sentinels[12] != errOtherLife || sentinels[14] != storagenode.ErrNameTaken {
		t.Error("the order of the sentinels is the format")
	}
	long := appendStatus(nil, errors.New(string(bytes.Repeat([]byte("é"), 1000))))
	if r := (&wireReader{b: long}); r.status() == nil || r.end() != nil || len(long) > maxErrorText+6 {
		t.Errorf("a long text takes %d bytes", len(long))
	}
}

func TestHeadsReadBack(t *testing.T) {
	h := goldenPut()
	var back putHead
	if err := (&wireReader{b: appendPut(nil, &h)}).put(&back); err != nil || !reflect.DeepEqual(h, back) {
		t.Errorf("%+v, %v", back, err)
	}
	info := goldenInfo()
	if got := (&wireReader{b: appendInfo(nil, &info)}).info(info.ID.PG, info.ID.Slot); !reflect.DeepEqual(got, info) {
		t.Errorf("%+v", got)
	}
	for _, slot := range []int{-5, -1, 0, 31, 255, 256, 1 << 40} {
		got := (&wireReader{b: appendSlot(nil, 9, slot)}).slot()
		if valid := slot >= 0 && slot < storagenode.MaxSlots; got.pg != 9 || valid && got.slot != slot || !valid && got.slot >= 0 && got.slot < storagenode.MaxSlots {
			t.Errorf("slot %d is read as %+v", slot, got)
		}
	}
	for after, want := range map[storagenode.BlobID]storagenode.BlobID{
		{15: 1}: {}, {14: 1}: {15: 255}, {0: 1}: {0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}, {}: {},
	} {
		if got := (cursor{after: after, from: true}).before(); got != want {
			t.Errorf("before %s: %s", after, got)
		}
	}
}

// FuzzMessages: whatever comes, parsers neither panic nor ask for more memory
// than what came is worth, and a good put reads back as it was written.
func FuzzMessages(f *testing.F) {
	h, info := goldenPut(), goldenInfo()
	f.Add(appendPut(nil, &h))
	f.Add(appendInfo([]byte{1, 1, 0, 0, 0}, &info))
	f.Add((&scrubFrame{kind: scrubDamage}).append(nil))
	f.Add(appendStatus(nil, storagenode.ErrBroken))
	one := appendPut(nil, &h)
	f.Add(append(le.AppendUint32([]byte{1, 0}, uint32(len(one))), one...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h putHead
		if (&wireReader{b: b}).put(&h) == nil {
			h2 := putHead{}
			again := appendPut(nil, &h)
			if err := (&wireReader{b: again}).put(&h2); err != nil || !reflect.DeepEqual(h, h2) {
				t.Fatalf("%+v, %+v, %v", h, h2, err)
			}
		}
		if heads, total, err := (&wireReader{b: b}).puts(); err == nil && (len(heads) > groupShards || total > groupBytes) {
			t.Fatalf("%d shards of %d bytes at once", len(heads), total)
		}
		if infos, _, err := (&wireReader{b: b}).page(1, 2); err == nil && len(infos) > len(b)/infoSize {
			t.Fatalf("%d shards in %d bytes", len(infos), len(b))
		}
		r := wireReader{b: b}
		if r.status() != nil && r.err != nil {
			t.Fatal("a status of a message that is too short")
		}
		_, _ = (&wireReader{b: b}).scrub()
		r = wireReader{b: b}
		_, _, _ = r.slot(), r.cursor(), r.shardID()
		var all wireReports
		_ = json.Unmarshal(b, &all)
	})
}
