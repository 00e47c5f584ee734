// Package arch holds the house rules as tests: which way imports point, what
// is documented, how long things may be. Exceptions may only shrink.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "kintsugi"

// may lists, for each folder of packages, what else of this module its
// non-test code may import. A folder speaks for those below it unless they
// have an entry of their own.
var may = map[string][]string{
	"storagenode":           {},
	"storagenode/clock":     {},
	"storagenode/lane":      {},
	"storagenode/tcp":       {},
	"storagenode/vfs":       {},
	"storagenode/segment":   {"storagenode", "storagenode/clock", "storagenode/lane", "storagenode/vfs", "storagenode/vfs/pebblefs"},
	"storagenode/node":      {"storagenode", "storagenode/clock", "storagenode/vfs"},
	"storagenode/rpc":       {"storagenode", "storagenode/clock", "storagenode/lane", "storagenode/rpc/auth", "storagenode/tcp"},
	"storagenode/rpc/auth":  {"storagenode/clock"},
	"storagenode/storetest": {"storagenode"},
	"erasure":               {"storagenode"},
	"erasure/stripe":        {"storagenode", "storagenode/clock", "erasure"},
	"metadata":              {"storagenode", "erasure"},
	"metadata/kv":           {},
	"metadata/kv/kvtest":    {"metadata/kv"},
	"metadata/kv/memory":    {"metadata/kv"},
	"metadata/kv/journal":   {"metadata/kv", "storagenode", "storagenode/clock", "storagenode/lane", "storagenode/vfs", "storagenode/vfs/pebblefs"},
	"metadata/kv/etcd":      {"metadata/kv", "storagenode/clock", "storagenode/lane", "storagenode/tcp"},
	"metadata/catalog":      {"metadata", "metadata/kv", "erasure", "storagenode", "storagenode/clock"},
	"gateway":               {"metadata", "erasure", "erasure/stripe", "storagenode", "storagenode/clock", "storagenode/tcp", "gateway/sigv4", "gateway/checksum"},
	"gateway/sigv4":         {"gateway/sigv4/twin"},
	"gateway/checksum":      {"gateway/checksum/lanes"},
	"gateway/console":       {"gateway/sigv4"},
	"repair":                {"metadata", "erasure", "erasure/stripe", "storagenode", "storagenode/clock"},
	"cmd":                   {"*"},
}

// contracts import the standard library and lower contracts; these are their
// only other imports.
var contracts = map[string][]string{
	"storagenode":       {"github.com/zeebo/xxh3"},
	"storagenode/clock": {},
	"erasure":           {"github.com/klauspost/reedsolomon"},
	"metadata":          {},
	"metadata/kv":       {},
}

const (
	maxFunction = 70  // lines: a screen
	maxFile     = 500 // lines: a sitting
	maxMethods  = 8   // of an interface: a breath
)

// Exceptions of today, by path or path:name. Take away, never add.
var longFunctions = map[string]bool{}
var longFiles = map[string]bool{}
var wideInterfaces = map[string]bool{
	"storagenode/vfs/vfs.go:File": true, // as wide as the calls of the system that it stands for
	"storagenode/vfs/vfs.go:FS":   true,
}

type source struct {
	path, dir string // relative to the module's root
	file      *ast.File
	lines     int
}

func sources(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	root := filepath.Join("..", "..", "..")
	fset := token.NewFileSet()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "data" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all = append(all, source{path: rel, dir: filepath.Dir(rel), file: f, lines: strings.Count(string(text), "\n")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found %d files: the walk is wrong", len(all))
	}
	return fset, all
}

func TestImportsPointOneWay(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		allowed, known := rule(s.dir)
		if !known {
			t.Errorf("%s: no rule says what %s may import", s.path, s.dir)
			continue
		}
		for _, spec := range s.file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			ours, isOurs := strings.CutPrefix(path, module+"/")
			if isOurs && !slices.Contains(allowed, "*") && !slices.Contains(allowed, ours) && !within(s.dir, ours) {
				t.Errorf("%s imports %s", s.path, path)
			}
			if extra, isContract := contracts[s.dir]; isContract && !isOurs && strings.Contains(strings.SplitN(path, "/", 2)[0], ".") && !slices.Contains(extra, path) {
				t.Errorf("%s: a contract imports %s", s.path, path)
			}
		}
	}
}

// within says that a package imports another below the same entry, e.g.
// storagenode/vfs/pebblefs importing storagenode/vfs.
func within(dir, ours string) bool { return strings.HasPrefix(dir+"/", ours+"/") && dir != ours }

func rule(dir string) ([]string, bool) {
	for d := dir; d != "."; d = filepath.Dir(d) {
		if allowed, ok := may[d]; ok {
			return allowed, true
		}
	}
	return nil, false
}

func TestEveryPackageHasADoc(t *testing.T) {
	_, all := sources(t)
	documented := map[string]bool{}
	for _, s := range all {
		documented[s.dir] = documented[s.dir] || s.file.Doc != nil && len(s.file.Doc.Text()) > 40
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment a newcomer could start from", dir)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		for _, decl := range s.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
					t.Errorf("%s: func %s has no comment", s.path, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil {
						t.Errorf("%s: type %s has no comment", s.path, ts.Name.Name)
					}
				}
			}
		}
	}
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	expr := d.Recv.List[0].Type
	if star, ok := expr.(*ast.StarExpr); ok {
		expr = star.X
	}
	if ix, ok := expr.(*ast.IndexExpr); ok {
		expr = ix.X
	}
	id, ok := expr.(*ast.Ident)
	return ok && id.IsExported()
}

func TestNothingIsTooLong(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		if s.lines > maxFile && !longFiles[s.path] {
			t.Errorf("%s has %d lines, at most %d", s.path, s.lines, maxFile)
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch d := n.(type) {
			case *ast.FuncDecl:
				lines := fset.Position(d.End()).Line - fset.Position(d.Pos()).Line + 1
				if lines > maxFunction && !longFunctions[s.path+":"+d.Name.Name] {
					t.Errorf("%s: %s has %d lines, at most %d", s.path, d.Name.Name, lines, maxFunction)
				}
			case *ast.TypeSpec:
				it, ok := d.Type.(*ast.InterfaceType)
				if ok && methods(it) > maxMethods && !wideInterfaces[s.path+":"+d.Name.Name] {
					t.Errorf("%s: interface %s has %d methods, at most %d", s.path, d.Name.Name, methods(it), maxMethods)
				}
			}
			return true
		})
	}
}

func methods(it *ast.InterfaceType) int {
	n := 0
	for _, f := range it.Methods.List {
		n += len(f.Names)
	}
	return n
}

func TestNoVaguePackageNames(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		for _, part := range strings.Split(s.dir, string(filepath.Separator)) {
			switch part {
			case "util", "utils", "common", "base", "helper", "helpers", "manager", "misc":
				t.Errorf("%s: %q says nothing", s.path, part)
			}
		}
	}
}
