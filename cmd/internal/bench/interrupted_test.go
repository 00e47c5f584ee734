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
	time.AfterFunc(300*time.Millisecond, cancel)
	res, err := Run(ctx, Config{
		Endpoint: floor.Address(), AccessKey: "access", SecretKey: "secret-of-the-test", Region: "us-east-1", Bucket: "bkt",
		Op: Put, Size: 1 << 20, Concurrency: 4, Duration: 10 * time.Second,
	})
	if err != nil || res.Operations == 0 || res.Errors != 0 || res.Seconds > 5 {
		t.Errorf("%+v, %v", res, err)
	}
}
