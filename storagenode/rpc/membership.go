package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc/auth"
)

// AnnouncePath is where a repairer takes announcements.
const AnnouncePath = "/v1/announce"

// wireAnnouncement is an announcement with what the JSON of its drives leaves
// out. A status (errors.go) and, where it is good, a Welcome as JSON answer it.
type wireAnnouncement struct {
	storagenode.Announcement
	Drives []wireReport `json:"drives"`
}

// Membership gives the other side of NewMembershipHandler, at the client's
// node: a repairer. Errors keep their identity; those of the way are
// ErrUnavailable.
func (c *Client) Membership() storagenode.Membership { return membership{c} }

type membership struct{ c *Client }

// Announce implements storagenode.Membership.
func (m membership) Announce(ctx context.Context, a storagenode.Announcement) (storagenode.Welcome, error) {
	w := wireAnnouncement{Announcement: a, Drives: []wireReport{}}
	for _, r := range a.Drives {
		w.Drives = append(w.Drives, wireReport{DriveReport: r, Replaces: r.Replaces})
	}
	text, err := json.Marshal(w)
	if err != nil {
		return storagenode.Welcome{}, fmt.Errorf("announce: %w", err)
	}
	var welcome storagenode.Welcome
	err = m.c.exchange(ctx, http.MethodPost, m.c.base.JoinPath(AnnouncePath), auth.NewBody(text, nil), func(a *auth.Answer) error {
		text, err := io.ReadAll(io.LimitReader(a, maxReports))
		if err != nil {
			return err
		}
		r := wireReader{b: text}
		if err := r.status(); err != nil {
			return err
		}
		return json.Unmarshal(r.b, &welcome)
	})
	if err != nil {
		return storagenode.Welcome{}, fmt.Errorf("announce to %s: %w", m.c, err)
	}
	return welcome, nil
}

// NewMembershipHandler serves announcements at AnnouncePath. A Guard has to be
// wrapped around it; it answers nobody else's requests.
func NewMembershipHandler(m storagenode.Membership) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+AnnouncePath, func(w http.ResponseWriter, r *http.Request) {
		if _, guarded := r.Body.(*auth.Incoming); !guarded {
			http.Error(w, "not authenticated", http.StatusUnauthorized)
			return
		}
		var a wireAnnouncement
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			http.Error(w, "announcement cannot be read", http.StatusBadRequest)
			return
		}
		a.Announcement.Drives = nil
		for _, d := range a.Drives {
			d.DriveReport.Replaces = d.Replaces
			a.Announcement.Drives = append(a.Announcement.Drives, d.DriveReport)
		}
		welcome, err := m.Announce(r.Context(), a.Announcement)
		answer := appendStatus(nil, err)
		if err == nil {
			text, _ := json.Marshal(welcome) // plain fields: cannot fail
			answer = append(answer, text...)
		}
		_, _ = w.Write(answer) // the connection is gone: nobody to tell
	})
	return mux
}
