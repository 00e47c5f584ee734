package main

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"

	"kintsugi/gateway/console"
	"kintsugi/storagenode"
)

// drivesOf finds the drives that a request names, one at least.
func (a *adminAPI) drivesOf(r *http.Request) ([]storagenode.DriveID, error) {
	known := knownDrives{}
	for _, d := range a.drives.Reports() {
		known[d.ID] = d
	}
	for _, d := range a.repairer.Status().Drives {
		if _, reported := known[d.ID]; !reported && d.State != storagenode.DriveRetired {
			known[d.ID] = storagenode.DriveReport{Node: d.Node, Zone: d.Zone, Dir: d.Dir}
		}
	}
	return known.named(r.URL.Query())
}

// knownDrives are those that may be named, also such as are away or that the repairer
// has not looked at yet.
type knownDrives map[storagenode.DriveID]storagenode.DriveReport

// named finds what the parameters drive, node and zone name, each drive once.
func (k knownDrives) named(q url.Values) (ids []storagenode.DriveID, err error) {
	for _, text := range q["drive"] {
		id, err := k.one(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	for what, of := range map[string]func(storagenode.DriveReport) string{
		"node": func(d storagenode.DriveReport) string { return d.Node },
		"zone": func(d storagenode.DriveReport) string { return d.Zone },
	} {
		for _, name := range q[what] {
			some := k.with(of, name)
			if len(some) == 0 {
				return nil, &console.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no %s %q has drives: see kintsugi admin topology", what, name)}
			}
			ids = append(ids, some...)
		}
	}
	if len(ids) == 0 {
		return nil, &console.Error{Status: http.StatusBadRequest, Message: "no drive named: drive=ID, node=NAME or zone=NAME, as often as there are"}
	}
	slices.SortFunc(ids, func(a, b storagenode.DriveID) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(ids), nil
}

// with gives the drives of which name is true; none where it is "".
func (k knownDrives) with(of func(storagenode.DriveReport) string, name string) (ids []storagenode.DriveID) {
	for id, d := range k {
		if name != "" && of(d) == name {
			ids = append(ids, id)
		}
	}
	return ids
}

// one finds a drive by its id or its directory.
func (k knownDrives) one(text string) (storagenode.DriveID, error) {
	var found []storagenode.DriveID
	isNode := false // a bare name, which the client took for a directory here
	for id, d := range k {
		if d.Dir == text || id.String() == text || d.Node+":"+d.Dir == text {
			found = append(found, id)
		}
		isNode = isNode || d.Node == path.Base(text)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return storagenode.DriveID{}, &console.Error{Status: http.StatusConflict, Message: fmt.Sprintf("%d drives are in a directory %q: name an id, or node:directory", len(found), text)}
	}
	hint := ""
	if isNode {
		hint = fmt.Sprintf("; %s is a node, whose drives are node:directory", path.Base(text))
	}
	return storagenode.DriveID{}, &console.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no drive %q: name an id, a directory, or node:directory as `kintsugi admin drives` lists them%s", text, hint)}
}
