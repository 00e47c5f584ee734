package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestMistypedVariables: a variable that nobody reads is named, with the one that
// may be meant; those that some command or script reads are not.
func TestMistypedVariables(t *testing.T) {
	known := knownVariables(newRoot())
	for _, c := range []struct {
		environ string
		want    []string
	}{
		{"KINTSUGI_ROOT_ACESS_KEY=x", []string{"KINTSUGI_ROOT_ACESS_KEY (the nearest there is: KINTSUGI_ROOT_ACCESS_KEY)"}},
		{"KINTSUGI_CLUSTER_SECRETS=x KINTSUGI_ADMINADDRESS=y", []string{"is: KINTSUGI_CLUSTER_SECRET)", "is: KINTSUGI_ADMIN_ADDRESS)"}},
		{"KINTSUGI_ROOT_SECRET_KEY_FIEL=x", []string{"is: KINTSUGI_ROOT_SECRET_KEY_FILE)"}},
		{"KINTSUGI_DRIVES=x KINTSUGI_ADMIN_URL=x KINTSUGI_JOIN=x KINTSUGI_METADATA=x KINTSUGI_METADATA_PASSWORD_FILE=x KINTSUGI_HTTPS_CERT=x HOME=y", nil},
		{"KINTSUGI_PORT=tcp://10.0.0.1:9000 KINTSUGI_S3_SERVICE_HOST=x KINTSUGI_SERVICE_PORT_HTTP=1 KINTSUGI_PORT_9000_TCP_ADDR=x", nil},
	} {
		var out bytes.Buffer
		warnOfVariables(&out, strings.Fields(c.environ), known)
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %q, want %q", c.environ, out.String(), want)
			}
		}
		if c.want == nil && out.Len() > 0 || strings.Count(out.String(), "\n") > 1 || strings.Contains(out.String(), "x,") {
			t.Errorf("%s: %q", c.environ, out.String())
		}
	}
}
