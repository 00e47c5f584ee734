package gateway

import (
	"fmt"
	"testing"

	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// TestFullDrivesAreTold: who writes to full drives hears of it, also where the
// quorum is what fails.
func TestFullDrivesAreTold(t *testing.T) {
	full := fmt.Errorf("put: %w", storagenode.ErrReadOnly)
	for _, c := range []struct {
		err  error
		want *fault
	}{
		{full, errTooFewDrives},
		{fmt.Errorf("1 slots of 2: %w: %w", stripe.ErrQuorum, full), errTooFewDrives},
		{fmt.Errorf("open group: %w", metadata.ErrNoPlacement), errTooFewDrives},
		{fmt.Errorf("1 slots of 2: %w: %w", stripe.ErrQuorum, storagenode.ErrBroken), errServiceUnavailable},
	} {
		if f, known := faultOf(c.err); f != c.want || !known {
			t.Errorf("%v: %v, want %v", c.err, f, c.want)
		}
	}
	if errTooFewDrives.code != "ServiceUnavailable" || errTooFewDrives.status != 503 {
		t.Error(errTooFewDrives)
	}
}
