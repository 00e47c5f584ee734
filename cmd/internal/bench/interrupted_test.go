package bench

import (
	"context"
	"testing"
	"time"
)

// TestInterrupted: requests that were under way when somebody ended the
// measurement are no errors of the endpoint.
func TestInterrupted(t *testing.T) {
	floor, err := StartFloor(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer floor.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res, err := Run(ctx, Config{
		Endpoint: floor.Address(), AccessKey: "access", SecretKey: "secret-of-the-test", Region: "us-east-1", Bucket: "bkt",
		Op: Put, Size: 1 << 20, Concurrency: 4, Duration: time.Minute,
		Progress: func(p Progress) {
			if p.Phase == "run" && p.Ops > 0 {
				cancel()
			}
		},
	})
	if err != nil || res.Operations == 0 || res.Errors != 0 || res.Seconds > 50 {
		t.Errorf("%+v, %v", res, err)
	}
}
