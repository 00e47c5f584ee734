package bench

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/minio/minio-go/v7"
)

// Limits of the removal of what a run made.
const (
	cleanTime      = 5 * time.Minute
	cleanTimeEnded = 10 * time.Second // where nobody wants to wait any more: when the context has ended
)

// clean removes what the run made. What could not be removed stays; the
// measurement stands.
func (r *run) clean(ctx context.Context) {
	r.setPhase("clean")
	within := cmp.Or(r.hurried, cleanTimeEnded)
	cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
	defer cancel()
	told := make(chan struct{})
	hurry := func() {
		defer close(told)
		r.say(fmt.Sprintf("interrupted: what is in bucket %s under %s is being removed, for at most %s; another signal ends that at once and leaves it", r.Bucket, r.prefix, within))
		time.AfterFunc(within, cancel)
	}
	stop := func() bool { return false }
	if ctx.Err() != nil {
		hurry() // before anything is removed
	} else {
		stop = context.AfterFunc(ctx, hurry)
	}
	err := r.removeAll(cleaning)
	if !stop() {
		<-told
	}
	if err != nil {
		r.say(fmt.Sprintf("not all was removed that is in bucket %s under %s: %v", r.Bucket, r.prefix, err))
	}
}

func (r *run) say(text string) {
	if r.Say != nil {
		r.Say(text)
	}
}

// removeAll removes the objects under the run's prefix, and gives the first error.
func (r *run) removeAll(ctx context.Context) (first error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listed := make(chan error, 1)
	objects := make(chan minio.ObjectInfo)
	go func() {
		defer close(objects)
		var err error
		for o := range r.core.Client.ListObjects(ctx, r.Bucket, minio.ListObjectsOptions{Prefix: r.prefix, Recursive: true}) {
			if err = o.Err; err != nil {
				break
			}
			select {
			case objects <- o:
			case <-ctx.Done():
			}
		}
		if err == nil {
			err = ctx.Err()
		}
		listed <- err
	}()
	for e := range r.core.RemoveObjects(ctx, r.Bucket, objects, minio.RemoveObjectsOptions{}) {
		if first == nil {
			first = e.Err
		}
	}
	cancel() // it has ended already, unless nobody took what was listed
	if err := <-listed; first == nil {
		first = err
	}
	return first
}
