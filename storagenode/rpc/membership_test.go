package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc/auth"
)

type registry struct {
	got     storagenode.Announcement
	welcome storagenode.Welcome
	err     error
}

func (r *registry) Announce(_ context.Context, a storagenode.Announcement) (storagenode.Welcome, error) {
	r.got = a
	return r.welcome, r.err
}

func TestAnnounce(t *testing.T) {
	m := &registry{welcome: storagenode.Welcome{
		Cluster: testCluster, Leads: true,
		Drives: []storagenode.KnownDrive{{Drive: testDrive, Dir: "/d", Device: 1<<64 - 1, Total: 1 << 40}},
	}}
	bare := NewMembershipHandler(m)
	server := httptest.NewServer(auth.NewGuard(auth.GuardConfig{Key: testKey(t)}).Wrap(bare))
	defer server.Close()
	c := (&rig{t: t}).dial(server.URL)
	a := storagenode.Announcement{
		Cluster: testCluster, Name: "n1", Zone: "z1", Address: "http://n1:9100", Version: "v1",
		Drives: []storagenode.DriveReport{{ID: testDrive, Node: "n1", State: storagenode.DriveBroken, Replaces: storagenode.DriveID{9}}},
	}
	for range 2 { // the second time without learning the server's life
		w, err := c.Membership().Announce(t.Context(), a)
		if err != nil || !reflect.DeepEqual(w, m.welcome) || !reflect.DeepEqual(m.got, a) {
			t.Fatalf("%+v, %v; arrived %+v", w, err, m.got)
		}
	}
	for _, want := range []error{storagenode.ErrNameTaken, storagenode.ErrOtherCluster, errors.New("no name")} {
		m.err = fmt.Errorf("node n1: %w", want)
		_, err := c.Membership().Announce(t.Context(), a)
		for _, s := range sentinels {
			if errors.Is(err, s) != errors.Is(want, s) {
				t.Errorf("%v arrives as %v", m.err, err)
			}
		}
		if err == nil || !strings.Contains(err.Error(), want.Error()) {
			t.Errorf("%v arrives as %v", m.err, err)
		}
	}
	// Not without its guard, and not past it.
	m.got = storagenode.Announcement{}
	for _, h := range []http.Handler{bare, server.Config.Handler} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", AnnouncePath, strings.NewReader(`{"name":"n1"}`)))
		if w.Code != http.StatusUnauthorized || m.got.Name != "" {
			t.Fatalf("answer %d, arrived %+v", w.Code, m.got)
		}
	}
	server.Close()
	if _, err := c.Membership().Announce(t.Context(), a); !errors.Is(err, storagenode.ErrUnavailable) {
		t.Fatal(err)
	}
}
