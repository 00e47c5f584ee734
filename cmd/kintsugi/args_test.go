package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestWrongArguments: whoever mistypes a command hears of it, and what to type.
func TestWrongArguments(t *testing.T) {
	for line, want := range map[string]string{
		"admin frobnicate":                  `unknown command "frobnicate" for "kintsugi admin"; see kintsugi admin --help`,
		"admin repare":                      `unknown command "repare" for "kintsugi admin": did you mean repair; see kintsugi admin --help`,
		"admin stat":                        "did you mean start or status",
		"sever data/d1":                     `unknown command "sever" for "kintsugi": did you mean server; see kintsugi --help`,
		"version":                           `unknown command "version" for "kintsugi"; see kintsugi --help`,
		"bench http://127.0.0.1:9000":       `kintsugi bench takes no arguments, only flags: "http://127.0.0.1:9000" is none; see kintsugi bench --help`,
		"admin drives drian d1":             `did you mean drain`,
		"admin metadata dmup":               `see kintsugi admin metadata --help`,
		"admin drives darin d1":             `see kintsugi admin drives --help`,
		"admin what-if":                     "usage: kintsugi admin what-if [DRIVE...]",
		"admin verify photos cat.jpg":       "usage: kintsugi admin verify [bucket[/key]]",
		"bench --floor --op put,foo":        `--op "foo": want some of [put get`,
		"bench --floor --objects -1":        "objects -1",
		"bench --floor --share -1":          "--share -1",
		"bench --floor --of http://h:1":     "--share",
		"bench --access-key only --op put ": "--secret-key",
		"help sever":                        `unknown command "sever" for "kintsugi": did you mean server; see kintsugi --help`,
		"help admin repare":                 `unknown command "repare" for "kintsugi admin": did you mean repair; see kintsugi admin --help`,
		"bench --access-key a --secret-key abcdefgh --op put --endpoint http://127.0.0.1:1": "--endpoint",
	} {
		root := newRoot()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(strings.Fields(line))
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("kintsugi %s: %v, want %q", line, err, want)
		}
		if out.Len() > 0 {
			t.Errorf("kintsugi %s says %q", line, out.String())
		}
	}
}

// TestHelp: what only holds other commands is not said to run by itself, and help is
// had in either order.
func TestHelp(t *testing.T) {
	say := func(line string) string {
		root := newRoot()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(strings.Fields(line))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Errorf("kintsugi %s: %v", line, err)
		}
		return out.String()
	}
	for line, usage := range map[string]string{
		"--help":              "Usage:\n  kintsugi [command]\n",
		"admin --help":        "Usage:\n  kintsugi admin [command]\n",
		"admin drives --help": "Usage:\n  kintsugi admin drives [flags]\n  kintsugi admin drives [command]\n",
		"server --help":       "Usage:\n  kintsugi server [flags] DIR...\n",
	} {
		if got := say(line); !strings.Contains(got, usage) {
			t.Errorf("kintsugi %s says %s", line, got)
		}
	}
	for _, about := range []string{"", "server", "admin drives drain"} {
		if a, b := say("help "+about), say(about+" --help"); a != b {
			t.Errorf("kintsugi help %s says %q, --help %q", about, a, b)
		}
	}
}
