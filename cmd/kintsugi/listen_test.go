package main

import (
	"strings"
	"testing"
)

// TestAddressesThatCannotBeListenedAt: the error names the flag and the address,
// and says what to do.
func TestAddressesThatCannotBeListenedAt(t *testing.T) {
	taken, err := listen("--address", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		taken.Addr().String():  "choose another port",
		"127.0.0.1":            "want host:port",
		"::1:9000":             "want host:port",
		"192.0.2.1:9000":       "no address of this machine",
		"no host:9000":         "by an address of its own",
		"127.0.0.1:99999":      "invalid port",
		"127.0.0.1:not-a-port": "unknown port",
	} {
		l, err := listen("--admin-address", address)
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--admin-address") || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}
