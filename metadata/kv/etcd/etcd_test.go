package etcd_test

import (
	"fmt"
	"testing"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/kvtest"
)

func TestConformance(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n, " members"), func(t *testing.T) {
			s, stores := start(t, n), 0
			kvtest.RunFar(t, func(t *testing.T) kv.Store {
				stores++
				return s.open(fmt.Sprintf("/t%d/", stores))
			})
		})
	}
}
