// Package tests holds what crosses packages.
package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/moering/moering"

// pkg is what go list says about a package.
type pkg struct {
	ImportPath string
	Imports    []string // direct
	Deps       []string // all
	CgoFiles   []string
}

// mayDependOn names, for each top directory, the others that its packages may depend on. All may
// depend on internal, which holds what has no place in the design, such as the invariants tag.
func mayDependOn() map[string][]string {
	return map[string][]string{
		"internal": {},
		"kernels":  {},
		"offload":  {"kernels"},
		"sched":    {},
		"engine":   {"sched", "offload", "kernels"},
		"capi":     {"engine", "sched", "offload", "kernels"},
		"cmd":      {"engine", "sched", "offload", "kernels"},
	}
}

// pure is what sched may import directly: packages without a clock, files, goroutines or chance
// that is not seeded.
func pure() []string {
	return []string{"bytes", "cmp", "container/heap", "container/list", "container/ring",
		"encoding/binary", "encoding/json", "errors", "fmt", "hash/maphash", "io", "iter", "maps", "math",
		"math/bits", "math/rand/v2", "slices", "sort", "strconv", "strings", "unsafe"}
}

// mayUseCgo names the packages that hold C.
func mayUseCgo() []string {
	return []string{"kernels/cpu", "kernels/cuda", "capi", "tests/fakecuda"} // the last one for tests alone
}

// shippedModel is a package that is nothing but data: the model that engine and its users carry.
const shippedModel = "tests/testdata/tiny"

// faces are libraries of the command line, which a library must not bring along.
func faces() []string {
	return []string{"github.com/alecthomas/kong", "github.com/vbauerster/mpb",
		"github.com/pkg/profile"}
}

// violations lists what a package depends on and must not.
func violations(p pkg) (out []string) {
	path, inside := strings.CutPrefix(p.ImportPath, module+"/")
	if !inside {
		return nil
	}
	top, _, _ := strings.Cut(path, "/")
	allowed, known := mayDependOn()[top]
	if !known && top != "tests" && top != "bindings" && top != "docs" {
		out = append(out, "is in a directory that the design does not know")
	}
	for _, dep := range p.Deps {
		d, inside := strings.CutPrefix(dep, module+"/")
		dtop, _, _ := strings.Cut(d, "/")
		if d == shippedModel && top != "kernels" && top != "offload" && top != "sched" {
			continue
		}
		if known && inside && dtop != top && dtop != "internal" && !slices.Contains(allowed, dtop) {
			out = append(out, "depends on "+d)
		}
		if top != "cmd" && slices.ContainsFunc(faces(), func(f string) bool {
			return strings.HasPrefix(dep, f)
		}) {
			out = append(out, "depends on "+dep)
		}
	}
	for _, imported := range p.Imports {
		d, inside := strings.CutPrefix(imported, module+"/")
		isFace := top == "cmd" || top == "capi"
		if isFace && inside && d != "engine" && !strings.HasPrefix(d, top+"/") {
			out = append(out, "imports "+d)
		}
		if top == "sched" && !inside && !slices.Contains(pure(), imported) {
			out = append(out, "imports "+imported)
		}
	}
	if len(p.CgoFiles) > 0 && !slices.Contains(mayUseCgo(), path) {
		out = append(out, fmt.Sprintf("uses cgo in %v", p.CgoFiles))
	}
	return out
}

// list asks the go command, as if cgo were on, whether or not it is for this test.
func list(t *testing.T) []pkg {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-json=ImportPath,Imports,Deps,CgoFiles", "./...")
	c.Dir = ".."
	c.Env = append(os.Environ(), "CGO_ENABLED=1")
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v, %s", err, stderr.String())
	}
	var packages []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// TestPackagesKeepTheHierarchy holds section 2 of docs/design.md.
func TestPackagesKeepTheHierarchy(t *testing.T) {
	seen := 0
	for _, p := range list(t) {
		if strings.HasPrefix(p.ImportPath, module+"/") {
			seen++
		}
		for _, v := range violations(p) {
			t.Errorf("%s %s", p.ImportPath, v)
		}
	}
	if seen < 5 {
		t.Errorf("go list shows only %d packages of this module", seen)
	}
}

func TestEveryRuleOfTheHierarchyCanFail(t *testing.T) {
	for _, c := range []struct {
		path string
		p    pkg
	}{
		{"kernels/ref", pkg{Deps: []string{module + "/offload/store"}}},
		{"offload/ring", pkg{Deps: []string{module + "/sched"}}},
		{"offload/ring", pkg{Deps: []string{module + "/engine"}}},
		{"sched", pkg{Deps: []string{module + "/kernels"}}},
		{"sched", pkg{Deps: []string{module + "/" + shippedModel}}},
		{"engine", pkg{Deps: []string{module + "/tests"}}},
		{"sched", pkg{Imports: []string{"time"}}},
		{"sched/policy", pkg{Imports: []string{"sync"}}},
		{"engine", pkg{Deps: []string{module + "/cmd/moering"}}},
		{"engine", pkg{Deps: []string{"github.com/alecthomas/kong"}}},
		{"cmd/moering", pkg{Imports: []string{module + "/offload/store"}}},
		{"capi", pkg{Imports: []string{module + "/engine/internal/sample"}}},
		{"offload/reader", pkg{CgoFiles: []string{"uring.go"}}},
		{"internal/invariants", pkg{Deps: []string{module + "/kernels"}}},
		{"utils", pkg{}},
	} {
		c.p.ImportPath = module + "/" + c.path
		if len(violations(c.p)) != 1 {
			t.Errorf("%+v: %v", c.p, violations(c.p))
		}
	}
	fine := pkg{ImportPath: module + "/engine", Deps: []string{module + "/sched", "os", "time"}}
	if v := violations(fine); len(v) > 0 {
		t.Error(v)
	}
	carries := pkg{ImportPath: module + "/capi", Deps: []string{module + "/" + shippedModel}}
	if v := violations(carries); len(v) > 0 {
		t.Error(v)
	}
}
