package gateway

import (
	"runtime"
	"strings"
	"testing"
)

// TestLongListsAreRefusedEarly: a body within its bound that holds hundreds of
// thousands of empty entries does not become a hundred times its size in memory.
func TestLongListsAreRefusedEarly(t *testing.T) {
	for name, c := range map[string]struct {
		v    any
		text string
	}{
		"completion": {&completionList{}, "<CompleteMultipartUpload>" + strings.Repeat("<Part/>", maxCompletion/7-10) + "</CompleteMultipartUpload>"},
		"deletion":   {&deletion{}, "<Delete>" + strings.Repeat("<Object/>", maxDeletion/9-10) + "</Delete>"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := decodeXML([]byte(c.text), c.v)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; err != errMalformedXML || n > 4*uint64(len(c.text)) {
				t.Errorf("%v, %d MiB for %d", err, n>>20, len(c.text)>>20)
			}
		})
	}
}
