package member_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kintsugi/metadata/kv/etcd/member"
	"kintsugi/metadata/kv/kvtest"
)

// TestMemberThatLostItsDataFoundsNothing: a first member starts without its data
// – its disk is not mounted – while no other is there to know better. It must
// not vote as if it had never taken part: with one that was away meanwhile it
// would be a majority that lacks what was acknowledged.
func TestMemberThatLostItsDataFoundsNothing(t *testing.T) {
	r := newRig(t, 3)
	s := r.open()
	retried(t, time.Minute, s, "before", []byte("1"))
	r.stop(2)
	retried(t, time.Minute, s, "meanwhile", []byte("2"))
	_ = s.Close()
	r.stop(0)
	r.stop(1)
	if err := os.RemoveAll(r.configs[1].Dir); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		m, err := member.Start(t.Context(), r.configs[1])
		r.members[1] = m
		started <- err
	}()
	select {
	case err := <-started:
		r.start(2)
		r.ready(2)
		v, gerr := r.open().Get(context.Background(), []byte("meanwhile"))
		t.Fatalf("it started alone: %v; what was acknowledged is %q, %v", err, v, gerr)
	case <-time.After(8 * time.Second): // etcd looks for others for 5 s
	}
	r.start(2)
	if err := <-started; err == nil || !strings.Contains(err.Error(), "--join") {
		t.Fatalf("it started without its data: %v", err)
	}
	r.start(0)
	r.ready(0)
	r.ready(2)
	if v, err := r.open().Get(t.Context(), []byte("meanwhile")); err != nil || string(v) != "2" {
		t.Fatalf("%q, %v", v, err)
	}
}

// TestFirstMembersWaitForAll: nothing is founded before all are there.
func TestFirstMembersWaitForAll(t *testing.T) {
	var configs []member.Config
	var cluster []string
	dir := t.TempDir()
	for i := range 3 {
		c := member.Config{
			Name: fmt.Sprintf("m%d", i), Dir: filepath.Join(dir, fmt.Sprint(i)), Secret: secret,
			Address: kvtest.FreeAddress(t), PeerAddress: kvtest.FreeAddress(t),
		}
		configs, cluster = append(configs, c), append(cluster, c.Name+"="+c.PeerAddress)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for i := range configs {
		configs[i].Cluster = strings.Join(cluster, ",")
	}
	ended := make(chan error, 2)
	for _, c := range configs[:2] {
		go func() {
			_, err := member.Start(ctx, c)
			ended <- err
		}()
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("two of three: %v", err)
		}
	}
	for _, c := range configs[:2] {
		if _, err := os.Stat(filepath.Join(c.Dir, "member")); !os.IsNotExist(err) {
			t.Errorf("%s has begun: %v", c.Name, err)
		}
	}
}

// TestRemovedMemberStartsAnew: with an empty directory, but still as one of the
// first members, it is told how to come back.
func TestRemovedMemberStartsAnew(t *testing.T) {
	r := newRig(t, 3)
	s := r.open()
	retried(t, time.Minute, s, "a", []byte("1"))
	for _, m := range members(t, s) {
		if m.Name == "m2" {
			r.stop(2)
			if err := s.RemoveMember(t.Context(), m.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.configs[2].Dir = filepath.Join(t.TempDir(), "anew")
	m, err := member.Start(t.Context(), r.configs[2])
	if err == nil {
		r.members[2] = m
		select {
		case err = <-m.Failed():
		case <-m.Ready():
			t.Fatal("a removed member takes part")
		case <-time.After(time.Minute):
			t.Fatal("neither")
		}
	}
	if !strings.Contains(err.Error(), "--join") {
		t.Fatal(err)
	}
}
