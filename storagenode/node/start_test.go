package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/vfs"
)

// starts is a node of four drives that was closed, to be started again on disks that
// hang.
type starts struct {
	cfg   Config
	fault *vfs.Fault
}

func newStarts(t *testing.T) *starts {
	t.Helper()
	fault := vfs.NewFault(vfs.NewMem())
	t.Cleanup(fault.Clear)
	s := &starts{fault: fault, cfg: Config{
		FS: fault, Dirs: []string{"/d1", "/d2", "/d3", "/d4"}, Poll: time.Second,
		Open: func(ctx context.Context, fs vfs.FS, dir string, id Identity) (storagenode.Drive, error) {
			return segment.Open(ctx, segment.Config{FS: fs, Dir: dir, Cluster: id.Cluster, Drive: id.Drive})
		},
	}}
	n := s.start(t)
	if err := n.Founded(); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *starts) start(t *testing.T) *Node {
	t.Helper()
	n, err := Open(t.Context(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// states are the drives' states in the order of the directories, and what is said of
// those that are not in service.
func states(n *Node) (all []storagenode.DriveState, why string) {
	for _, r := range n.Reports() {
		all = append(all, r.State)
		why += r.Reason
	}
	return all, why
}

// TestStartWithADiskThatHangs: one drive whose disk hangs, in whatever the start asks of
// it, keeps nobody else out of service, and is served when its disk answers again.
func TestStartWithADiskThatHangs(t *testing.T) {
	for name, rule := range map[string]vfs.Rule{
		"identity": {Ops: vfs.OpOpen, Path: "/d2/" + IdentityName},
		"record":   {Ops: vfs.OpOpen, Path: "/d2/known.json"},
		"log":      {Ops: vfs.OpList, Path: "/d2/segments"},
		"index":    {Ops: vfs.OpOpen, Path: "/d2/index/"},
		"changes":  {Ops: vfs.OpChange, Path: "/d2/"},
		"all":      {Ops: vfs.OpOpen | vfs.OpRead | vfs.OpStat | vfs.OpList | vfs.OpChange, Path: "/d2/"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStarts(t)
				s.cfg.Spare = 1
				rule.Hang = true
				hang := s.fault.Inject(rule)
				began := time.Now()
				n := s.start(t)
				if took := time.Since(began); took > time.Minute {
					t.Errorf("the start took %s", took)
				}
				if hang.Hits() == 0 {
					t.Fatal("nothing hung: the test is wrong")
				}
				got, why := states(n)
				for i, state := range got {
					if want := storagenode.DriveActive; i != 1 && state != want {
						t.Errorf("drive %d is %s", i+1, state)
					}
				}
				if len(got) != 4 || got[1] != storagenode.DriveDown || !strings.Contains(why, "/d2 ") {
					t.Errorf("the one that hangs: %v, %s", got, why)
				}
				time.Sleep(5 * time.Minute)
				if got, _ := states(n); got[1] != storagenode.DriveDown && name != "record" { // which can be done without
					t.Errorf("after five minutes: %v", got)
				}
				hang.Release()
				time.Sleep(time.Minute)
				if got, why := states(n); got[1] != storagenode.DriveActive {
					t.Errorf("its disk answers again: %v, %s", got, why)
				}
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestStartWaitsForEnoughDrives: with more drives late than can be spared it waits, and
// ends when it is told to.
func TestStartWaitsForEnoughDrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStarts(t)
		s.cfg.Spare = 1
		first := s.fault.Inject(vfs.Rule{Ops: vfs.OpList, Path: "/d2/segments", Hang: true})
		second := s.fault.Inject(vfs.Rule{Ops: vfs.OpList, Path: "/d3/segments", Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		began := time.Now()
		if n, err := Open(ctx, s.cfg); err == nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it goes on without two of four after %s: %v, %v", time.Since(began), n, err)
		}
		first.Release()
		second.Release()
		time.Sleep(time.Minute)

		n := s.start(t) // nothing of that start has kept a drive
		if got, why := states(n); len(got) != 4 || why != "" {
			t.Errorf("the next start: %v, %s", got, why)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		first = s.fault.Inject(vfs.Rule{Ops: vfs.OpList, Path: "/d2/segments", Hang: true})
		second = s.fault.Inject(vfs.Rule{Ops: vfs.OpList, Path: "/d3/segments", Hang: true})
		time.AfterFunc(3*time.Minute, first.Release)
		began = time.Now()
		n = s.start(t)
		if took := time.Since(began); took < 3*time.Minute || took > 4*time.Minute {
			t.Errorf("it went on after %s", took)
		}
		second.Release()
		time.Sleep(time.Minute)
		if got, why := states(n); why != "" {
			t.Errorf("in the end: %v, %s", got, why)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestNodeIsClosedWhileADriveIsOpened: what is open in the end is closed again.
func TestNodeIsClosedWhileADriveIsOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStarts(t)
		s.cfg.Spare = 1
		hang := s.fault.Inject(vfs.Rule{Ops: vfs.OpList, Path: "/d2/segments", Hang: true})
		n := s.start(t)
		began := time.Now()
		if err := n.Close(); err == nil {
			t.Error("nothing is said of the drive that is still being opened")
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("it took %s", took)
		}
		hang.Release()
		time.Sleep(time.Minute)
		n = s.start(t)
		if got, why := states(n); len(got) != 4 || why != "" {
			t.Errorf("the next start: %v, %s", got, why)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
}
