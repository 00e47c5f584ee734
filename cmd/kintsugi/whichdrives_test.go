package main

import (
	"net/url"
	"strings"
	"testing"

	"kintsugi/storagenode"
)

// TestDrivesAreNamed: drives by id, directory, node and directory, and all of a node or
// a zone, each once.
func TestDrivesAreNamed(t *testing.T) {
	id := func(b byte) storagenode.DriveID { return storagenode.DriveID{b} }
	known := knownDrives{
		id(1): {Node: "n1", Zone: "z1", Dir: "/d1"}, id(2): {Node: "n1", Zone: "z1", Dir: "/d2"},
		id(3): {Node: "n2", Zone: "z1", Dir: "/d1"}, id(4): {Node: "n3", Dir: "/d4"},
	}
	for query, want := range map[string]string{
		"drive=/d2&drive=" + id(3).String():      "2 3",
		"drive=n2:/d1&drive=n2:/d1":              "3",
		"node=n1":                                "1 2",
		"node=n1&node=n3&drive=/d2":              "1 2 4",
		"zone=z1":                                "1 2 3",
		"zone=z1&node=n3":                        "1 2 3 4",
		"drive=/d1":                              `2 drives are in a directory "/d1"`,
		"drive=/home/me/n3":                      "n3 is a node",
		"drive=/d9":                              `no drive "/d9"`,
		"drive=/d2&node=n9":                      `no node "n9" has drives`,
		"zone=z9":                                `no zone "z9" has drives`,
		"zone=":                                  `no zone "" has drives`,
		"":                                       "no drive named",
		"drive=" + id(9).String() + "&drive=/d2": "no drive",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := known.named(q)
		var got []string
		for _, d := range ids {
			got = append(got, string('0'+rune(d[0])))
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if err == nil && text != want || err != nil && !strings.Contains(text, want) {
			t.Errorf("%s: %s, want %s", query, text, want)
		}
	}
}
