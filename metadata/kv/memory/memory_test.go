package memory_test

import (
	"testing"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/kvtest"
	"kintsugi/metadata/kv/memory"
)

func TestConformance(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.Store { return memory.New() })
}
