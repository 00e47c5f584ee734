package journal_test

import (
	"slices"
	"testing"
	"time"

	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode"
)

// TestLeaving takes two members and the state's drive out, under load: others
// have what they hold before they may go, and what they may go with is enough to
// open again.
func TestLeaving(t *testing.T) {
	cfg, fs, _ := faulty(t, 7, 2)
	s := open(t, cfg)
	stop := load(t, s, 4)
	whole(t, s, cfg)
	st := s.Status()
	leaving := []storagenode.DriveID{st.Members[0], st.Members[2], st.StateDrive}
	for _, id := range leaving {
		s.SetLeaving(id, true)
	}
	eventually(t, "they may go", func() bool {
		st := s.Status()
		if len(st.Members) < 3 || st.Degraded != "" || st.StateDrive.IsZero() {
			t.Fatalf("short of a copy: %+v", st)
		}
		for _, id := range leaving {
			if slices.Contains(st.Left, id) && (slices.Contains(st.Members, id) || st.StateDrive == id) {
				t.Fatalf("%s may go, and is in use: %+v", id, st)
			}
		}
		return len(st.Left) == len(leaving)
	})
	var rest []journal.Member
	for _, d := range cfg.Drives {
		if slices.Contains(leaving, d.ID) {
			if err := fs.RemoveAll(d.Dir); err != nil {
				t.Fatal(err)
			}
			continue
		}
		rest = append(rest, d)
	}
	time.Sleep(200 * time.Millisecond)
	acked := stop()
	check(t, s, acked)
	whole(t, s, cfg, leaving...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Drives = rest
	check(t, open(t, cfg), acked)
}

// TestNowhereToGo: a drive whose place nobody can take stays what it is.
func TestNowhereToGo(t *testing.T) {
	cfg, _, _ := faulty(t, 3, 2)
	s := open(t, cfg)
	whole(t, s, cfg)
	stop := load(t, s, 2)
	was := s.Status()
	s.SetLeaving(was.Members[1], true)
	time.Sleep(300 * time.Millisecond)
	if st := s.Status(); !slices.Equal(st.Members, was.Members) || len(st.Left) != 0 || st.Degraded != "" {
		t.Fatalf("%+v", st)
	}
	s.SetLeaving(was.Members[1], false)
	check(t, s, stop())
}
