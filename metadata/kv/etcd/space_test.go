package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
	"kintsugi/storagenode/clock"
)

// A member that gets full while transactions are under way carries some of them
// out and answers that there is no space. What is said not to have been written
// must not be there.
func TestFullMeanwhile(t *testing.T) {
	s := start(t, 1, func(c *embed.Config) { c.QuotaBackendBytes = 8 << 20 })
	st, later := s.open("/x/"), s.open("/x/")
	const writers, each = 16, 12
	value := strings.Repeat("v", 200<<10)
	var mu sync.Mutex
	refused := map[string]error{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("k%d-%d", w, i)
				err := put(t, st, key, value)
				if errors.Is(err, kv.ErrUnavailable) {
					mu.Lock()
					refused[key] = err
					mu.Unlock()
				} else if err != nil && !errors.Is(err, kv.ErrUnknown) {
					t.Errorf("%s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
	if len(refused) == 0 {
		t.Fatal("the member did not get full")
	}
	for key, err := range refused {
		v, gerr := later.Get(context.Background(), []byte(key))
		if gerr != nil {
			t.Fatal(gerr)
		}
		if v != nil {
			t.Errorf("%s is there, yet its commit said that nothing was written: %v", key, err)
		}
	}
}

// A clock that is set back does not make of a moment in which the members were full
// an hour in which nothing is written.
func TestClockIsSetBackAfterMembersWereFull(t *testing.T) {
	s := start(t, 1)
	wrong := &clock.Wrong{}
	st := s.open("/x/", func(c *etcd.Config) { c.Clock = wrong })
	member := s.members[0].Server
	alarm := func(action pb.AlarmRequest_AlarmAction) {
		r := &pb.AlarmRequest{Action: action, MemberID: uint64(member.MemberID()), Alarm: pb.AlarmType_NOSPACE}
		if _, err := member.Alarm(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	alarm(pb.AlarmRequest_ACTIVATE)
	if err := put(t, st, "a", "1"); !errors.Is(err, kv.ErrUnknown) && !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("a commit to members that are full: %v", err)
	}
	alarm(pb.AlarmRequest_DEACTIVATE)
	wrong.Jump(-time.Hour)
	retried(t, 10*time.Second, st, "a", "2")
}
