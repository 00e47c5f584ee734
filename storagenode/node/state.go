package node

import "kintsugi/storagenode"

// fail records why the place has no usable drive.
func (p *place) fail(state storagenode.DriveState, reason string) {
	p.setState(state, reason, nil)
}

// setState changes state and store together, publishes and tells.
func (p *place) setState(state storagenode.DriveState, reason string, store storagenode.Drive) {
	p.node.tell.Lock()
	defer p.node.tell.Unlock()
	p.turn(state, reason, store)
}

// turn is setState for who holds the node's tell.
func (p *place) turn(state storagenode.DriveState, reason string, store storagenode.Drive) {
	now := p.node.cfg.Clock.Now()
	p.mu.Lock()
	changed := p.state != state || p.reason != reason || p.store != store || p.since.IsZero()
	if p.state != state || p.since.IsZero() {
		p.since = now
	}
	p.state, p.reason, p.store, p.astray = state, reason, store, false
	id := p.identity.Drive
	p.mu.Unlock()
	if !changed {
		return
	}
	if !id.IsZero() {
		p.node.publish(p, id, &entry{store: store, state: state, place: p})
	}
	say, about := p.node.cfg.Logger.Info, []any{"dir", p.dir, "state", state.String()}
	if !id.IsZero() {
		about = append(about, "drive", id.String())
	}
	if state != storagenode.DriveActive {
		say, about = p.node.cfg.Logger.Warn, append(about, "reason", reason)
	}
	say("drive state", about...)
	p.inform()
}

// inform has Changed told how the drive is now; the caller holds the node's tell.
func (p *place) inform() {
	if r, ok := p.report(); ok && p.node.cfg.Changed != nil {
		p.node.cfg.Changed(r)
	}
}

// silent is what the watch says of a drive whose check, begun at began, does not
// end. Where it has ended meanwhile, or found worse, that stands.
func (p *place) silent(began int64, state storagenode.DriveState) {
	p.node.tell.Lock()
	defer p.node.tell.Unlock()
	p.mu.Lock()
	store, is := p.store, p.state
	p.mu.Unlock()
	if p.checking.Load() == began && is <= state {
		p.turn(state, "does not answer", store)
	}
}

// report says how the place's drive is; false where there is nothing to say.
func (p *place) report() (storagenode.DriveReport, bool) {
	p.mu.Lock()
	r := storagenode.DriveReport{
		ID: p.identity.Drive, Node: p.node.cfg.Name, Zone: p.node.cfg.Zone, Dir: p.dir,
		State: p.state, Reason: p.reason, Since: p.since, Heard: p.heard, Device: p.device, Total: p.total,
		Replaces: p.identity.Replaces,
	}
	if r.ID.IsZero() {
		r.ID = p.lost
	}
	store := p.store
	p.mu.Unlock()
	if store != nil {
		r.Space = store.Space()
	}
	return r, !r.ID.IsZero() && !p.node.elsewhere(p, r.ID)
}

// withdraw takes the store out of service.
func (p *place) withdraw() (storagenode.Drive, *ground) {
	p.node.tell.Lock()
	defer p.node.tell.Unlock()
	p.mu.Lock()
	store, g := p.store, p.ground
	p.store, p.ground = nil, nil
	id := p.identity.Drive
	p.mu.Unlock()
	if store != nil {
		p.node.publish(p, id, &entry{state: storagenode.DriveDown, place: p})
	}
	return store, g
}
