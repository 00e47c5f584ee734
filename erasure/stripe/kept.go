package stripe

import "kintsugi/erasure"

// How a reader takes pieces that are kept (hot.go), and has others kept.

// hotKey names the piece that begins at from of a stripe.
func (r *reader) hotKey(stripe, from int) hotKey {
	return hotKey{r.blob.ID, int64(stripe)*erasure.StripeSize + int64(from)}
}

// hot gives what a window wants of a piece that is kept, as take does.
func (r *reader) hot(win, whole window) ([]byte, *buffer) {
	return r.set.hot.take(r.hotKey(whole.stripe, whole.from), win.from-whole.from, win.to-whole.from)
}

// keep keeps those pieces that lie wholly in a window, which was read into mem.
func (r *reader) keep(win window, mem *buffer) {
	base := int64(win.stripe) * erasure.StripeSize
	for at := win.from; at < win.to; {
		_, whole := r.piece(base + int64(at))
		if whole.from == at && whole.to <= win.to {
			r.set.hot.keep(r.hotKey(whole.stripe, at), mem, at-win.from, whole.to-win.from)
		}
		at = whole.to
	}
}

// wide takes the rest of a window's first and last piece in where they should be
// kept; drives that are read in turn do so by themselves.
func (r *reader) wide(win window) window {
	if !r.set.cfg.Remote {
		return win
	}
	base, wide := int64(win.stripe)*erasure.StripeSize, win
	_, first := r.piece(base + int64(win.from))
	_, last := r.piece(base + int64(win.to-1))
	widens := func(p window) bool { return r.set.hot.widens(r.hotKey(p.stripe, p.from), p.to-p.from) }
	if (first.from < win.from || first == last && first.to > win.to) && widens(first) {
		wide.from, wide.to = first.from, max(wide.to, first.to)
	}
	if first != last && last.to > win.to && widens(last) {
		wide.to = last.to
	}
	if wide != win && !r.direct(wide) {
		return win
	}
	return wide
}

// lacking ends a window before the first piece that is kept.
func (r *reader) lacking(win window) window {
	base := int64(win.stripe) * erasure.StripeSize
	_, whole := r.piece(base + int64(win.from))
	for whole.to < win.to {
		if r.set.hot.has(r.hotKey(whole.stripe, whole.to)) {
			win.to = whole.to
			break
		}
		_, whole = r.piece(base + int64(whole.to))
	}
	return win
}

// kept says that the next window begins with a piece that is kept.
func (r *reader) kept() bool {
	_, whole := r.piece(r.off)
	return r.set.hot.has(r.hotKey(whole.stripe, whole.from))
}

// takeKept adds pieces that are kept of what is next to a batch, as many as it
// takes, and says where they end.
func (r *reader) takeKept(b *batch) (end int64) {
	end = r.off
	for end < r.end && !b.full() {
		p, buf := r.hot(r.piece(end))
		if p == nil {
			break
		}
		b.add(p, buf)
		end += int64(len(p))
	}
	return end
}
