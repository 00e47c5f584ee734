package repair

import (
	"context"
	"errors"
	"fmt"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// Tenant keeps something of its own on the drives, as the metadata of a store in
// one process does.
type Tenant interface {
	// Leave has what is on a drive moved to others or, where leaves is false,
	// lets it be used again. It says whether the drive may be taken out: nothing
	// that counts is on it any more. Called again and again, it must not block.
	Leave(id storagenode.DriveID, leaves bool) (left bool)
}

// ErrNotDrainable is wrapped with why a drive cannot be drained, or no longer be
// kept from it.
var ErrNotDrainable = errors.New("not possible in this state")

// Drain has a drive give its slots away, to be taken out when it is DRAINED.
// Reads go on and nothing loses a copy meanwhile; new groups leave it out. To
// call it for one that is being drained does nothing.
func (r *Repairer) Drain(ctx context.Context, id storagenode.DriveID) (storagenode.DriveState, error) {
	return r.command(ctx, id, func(was storagenode.DriveState) (storagenode.DriveState, error) {
		switch was {
		case storagenode.DriveDraining, storagenode.DriveDrained:
			return was, nil
		case storagenode.DriveActive, storagenode.DriveSuspect, storagenode.DriveDown:
			return storagenode.DriveDraining, nil
		}
		return was, fmt.Errorf("drive %s is %s, so its slots move without a command: %w", id, was, ErrNotDrainable)
	})
}

// Undrain takes a drive back that is being drained or is DRAINED. What moved
// away stays where it is.
func (r *Repairer) Undrain(ctx context.Context, id storagenode.DriveID) (storagenode.DriveState, error) {
	return r.command(ctx, id, func(was storagenode.DriveState) (storagenode.DriveState, error) {
		switch was {
		case storagenode.DriveDraining, storagenode.DriveDrained:
			return storagenode.DriveDown, nil // until the next look at it
		case storagenode.DriveActive, storagenode.DriveSuspect, storagenode.DriveDown:
			return was, nil
		}
		return was, fmt.Errorf("drive %s is %s: %w", id, was, ErrNotDrainable)
	})
}

// command stores what state follows on the stored one of a drive. The leader
// goes on from there with its next look.
func (r *Repairer) command(ctx context.Context, id storagenode.DriveID, next func(was storagenode.DriveState) (storagenode.DriveState, error)) (now storagenode.DriveState, err error) {
	var refused error
	err = r.cfg.Records.EditDrive(ctx, id, func(d *metadata.DriveRecord) bool {
		if refused = nil; d.Added.IsZero() {
			refused = fmt.Errorf("drive %s is not in the metadata yet: %w", id, ErrNotDrainable)
			return false
		}
		was := d.State
		now, refused = next(was)
		d.State = now
		return refused == nil && now != was
	})
	if err == nil {
		err = refused
	}
	return now, err
}
