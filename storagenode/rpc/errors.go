package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"kintsugi/storagenode"
)

// errOtherLife: the drive was opened anew since the life that the request
// names. What was put before may be lost.
var errOtherLife = fmt.Errorf("drive was opened anew: %w", storagenode.ErrUnavailable)

// errNoSuchCall: the node is of a version that does not have it.
var errNoSuchCall = &remoteError{text: "the node does not know this call", is: []error{storagenode.ErrUnavailable}}

// sentinels are the errors that keep their identity, by the bit that stands
// for them on the wire. Append only.
var sentinels = [...]error{
	storagenode.ErrNotFound, storagenode.ErrCorrupt, storagenode.ErrStaleEpoch, storagenode.ErrReadOnly,
	storagenode.ErrTooLarge, storagenode.ErrDeleted, storagenode.ErrBroken, storagenode.ErrSuspect,
	storagenode.ErrUnavailable, io.EOF, context.Canceled, context.DeadlineExceeded, errOtherLife,
	storagenode.ErrOtherCluster, storagenode.ErrNameTaken,
}

// maxErrorText bounds the text of an error on the wire, in bytes.
const maxErrorText = 1 << 10

// remoteError is an error of the other side.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// A status on the wire is a mask of sentinels u32 and a text, its length u16
// before it; bit 31 alone stands for an error that is none of them. No error
// is 0 without a text.
const otherError = 1 << 31

func appendStatus(b []byte, err error) []byte {
	if err == nil {
		return append(b, 0, 0, 0, 0, 0, 0)
	}
	mask := uint32(0)
	for i, s := range sentinels {
		if errors.Is(err, s) {
			mask |= 1 << i
		}
	}
	if mask == 0 {
		mask = otherError
	}
	text := err.Error()
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "")
	}
	if err == io.EOF {
		text = ""
	}
	b = le.AppendUint32(b, mask)
	b = le.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// status reads what appendStatus wrote. io.EOF alone is io.EOF itself, which
// readers compare with.
func (r *wireReader) status() error {
	mask, n := r.u32(), int(r.u16())
	text := string(r.bytes(n))
	if r.err != nil || mask == 0 {
		return nil
	}
	e := &remoteError{text: text}
	for i, s := range sentinels {
		if mask&(1<<i) != 0 {
			e.is = append(e.is, s)
		}
	}
	if len(e.is) == 1 && e.is[0] == io.EOF && text == "" {
		return io.EOF
	}
	return e
}
