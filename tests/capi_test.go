package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moering/moering/engine"
)

// clib is the C library as ./build.sh lib installs it, made once for all tests.
type clib struct{ prefix string }

func (c clib) lib() string     { return filepath.Join(c.prefix, "lib") }
func (c clib) include() string { return filepath.Join(c.prefix, "include") }

// needC skips where there is no C compiler to test with.
func needC(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the C library is tested on Linux")
	}
	if out, err := exec.Command("go", "env", "CGO_ENABLED").Output(); err != nil ||
		strings.TrimSpace(string(out)) != "1" {
		t.Skip("needs cgo")
	}
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("needs a C compiler")
	}
}

// library builds the C library, once.
var library = sync.OnceValues(func() (clib, error) {
	prefix, err := os.MkdirTemp("", "moering-lib-")
	if err != nil {
		return clib{}, err
	}
	scratch = prefix
	cmd := exec.Command("./build.sh", "lib", "--prefix", prefix)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return clib{}, fmt.Errorf("build.sh lib: %w\n%s", err, out)
	}
	return clib{prefix}, nil
})

// scratch is where library has put it.
var scratch string

func TestMain(m *testing.M) {
	code := m.Run()
	if scratch != "" {
		os.RemoveAll(scratch)
	}
	os.Exit(code)
}

func needLibrary(t *testing.T) clib {
	t.Helper()
	needC(t)
	c, err := library()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// compile makes a program of a C file with the library in directory lib.
func compile(t *testing.T, c clib, lib, source string, flags ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "program")
	args := append([]string{"-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", source,
		"-o", bin, "-I" + c.include(), "-L" + lib, "-Wl,-rpath," + lib, "-lmoering", "-lpthread"},
		flags...)
	run(t, exec.Command("cc", args...))
	return bin
}

const (
	tinyModel = "testdata/tiny/tiny.gguf"
	header    = "../capi/moering.h"
)

// The header is C11 and C++17 without a warning, initialisers included, and needs nothing before
// it. Its structs have no padding, in which an older program's rubbish would become a newer field.
func TestHeaderIsCleanCAndCXX(t *testing.T) {
	needC(t)
	text, err := os.ReadFile(header)
	if err != nil {
		t.Fatal(err)
	}
	source := `#include "moering.h"` + "\n"
	for i, m := range regexp.MustCompile(`#define (MR_(\w+)_INIT)`).FindAllSubmatch(text, -1) {
		kind := "mr_" + strings.ToLower(string(m[2]))
		source += fmt.Sprintf("%s v%d = %s;\n", kind, i, m[1])
	}
	if strings.Count(source, "_INIT;") < 7 {
		t.Fatalf("too few initialisers:\n%s", source)
	}
	dir := t.TempDir()
	for _, c := range [][]string{{"cc", "header.c", "-std=c11"},
		{"c++", "header.cc", "-std=c++17"}} {
		file := filepath.Join(dir, c[1])
		if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := exec.LookPath(c[0]); err != nil {
			t.Logf("%s is not here: its half of the test is left out", c[0])
			continue
		}
		run(t, exec.Command(c[0], c[2], "-Wall", "-Wextra", "-pedantic", "-Wpadded", "-Werror",
			"-I../capi", "-c", file, "-o", filepath.Join(dir, "out.o")))
	}
}

// What the engine can be told and tells is in the C API, as far as its Go files show.
func TestCAPIHasTheEnginesOptionsAndFigures(t *testing.T) {
	text := read(t, "../capi/engine.go") + read(t, "../capi/session.go") +
		read(t, "../capi/internal/core/engine.go")
	for _, s := range []struct {
		kind   reflect.Type
		from   string // a variable of this kind in the text, or none
		except string // what C has otherwise, or for itself
	}{{reflect.TypeFor[engine.Options](), "(out|options|o)", ""},
		{reflect.TypeFor[engine.Sampling](), "out", ""},
		{reflect.TypeFor[engine.Info](), "i", "Path"},
		{reflect.TypeFor[engine.Plan](), "p", "MoveRates"},
		{reflect.TypeFor[engine.Stats](), "s", ""}} {
		for i := range s.kind.NumField() {
			f := s.kind.Field(i)
			if !f.IsExported() || f.Name == s.except {
				continue
			}
			used := regexp.MustCompile(`\b` + s.from + `\.` + f.Name + `\b|\b` + f.Name + `: `)
			if !used.MatchString(text) {
				t.Errorf("the C API knows nothing of %v.%s", s.kind, f.Name)
			}
		}
	}
}

// declared lists the functions of the header.
func declared(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(header)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	declaration := regexp.MustCompile(`(?m)^MR_API [\w *]*?\b(mr_\w+)\(`)
	for _, m := range declaration.FindAllSubmatch(text, -1) {
		names = append(names, string(m[1]))
	}
	slices.Sort(names)
	return names
}

// The library exports the functions of the header, and has its name and version.
func TestLibraryExportsTheHeader(t *testing.T) {
	c := needLibrary(t)
	shared := filepath.Join(c.lib(), "libmoering.so")
	var exported []string
	list := string(run(t, exec.Command("nm", "-D", "--defined-only", shared)))
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if name, _, _ := strings.Cut(f[2], "@"); f[1] != "A" {
			exported = append(exported, name)
		}
	}
	slices.Sort(exported)
	if want := declared(t); !slices.Equal(exported, want) || len(want) < 40 {
		t.Errorf("exported\n%v\ndeclared\n%v", exported, want)
	}
	if out := run(t, exec.Command("readelf", "-d", shared)); !strings.Contains(string(out),
		"[libmoering.so.0]") {
		t.Errorf("no soname:\n%s", out)
	}
	info, err := os.Stat(shared)
	if err != nil || info.Size() > wheelBytesMax {
		t.Errorf("%v bytes, %v", info.Size(), err)
	}
}

// A program is built by what pkg-config says, shared and static, and writes what the command line
// and the Go program write for the same prompt and seed.
func TestExamplesWriteTheSameText(t *testing.T) {
	c := needLibrary(t)
	const prompt, seed = "package main\n\nimport (", "11"
	dir := t.TempDir()
	build := func(name string) string {
		bin := filepath.Join(dir, filepath.Base(name))
		run(t, exec.Command("go", "build", "-o", bin, name))
		return bin
	}
	want := string(run(t, exec.Command(build("../cmd/moering"), "run", "-m", tinyModel,
		"--context=512", "-n", "64", "--temperature=0.8", "--top-p=0.95", "--seed", seed, prompt)))
	want = strings.TrimSuffix(want, "\n") // the command line ends its line
	programs := map[string]string{"Go": build("../docs/examples/go"),
		"C": compile(t, c, c.lib(), "../docs/examples/c/generate.c"),
		"C, static": compile(t, c, c.lib(), "../docs/examples/c/generate.c",
			"-Wl,-Bstatic", "-lmoering", "-Wl,-Bdynamic", "-lm", "-ldl")}
	if _, err := exec.LookPath("pkg-config"); err == nil {
		cmd := exec.Command("pkg-config", "--cflags", "--libs", "moering")
		cmd.Env = append(os.Environ(), "PKG_CONFIG_PATH="+filepath.Join(c.lib(), "pkgconfig"))
		bin := filepath.Join(dir, "by-pkg-config")
		flags := strings.Fields(string(run(t, cmd)))
		run(t, exec.Command("cc", append([]string{"../docs/examples/c/generate.c", "-o", bin,
			"-Wl,-rpath," + c.lib()}, flags...)...))
		programs["C by pkg-config"] = bin
	}
	for name, bin := range programs {
		for _, model := range []string{"mr:tiny", tinyModel} {
			got := strings.TrimSuffix(string(run(t, exec.Command(bin, model, prompt, seed))), "\n")
			if got != want || len(got) < 10 {
				t.Errorf("%s with %s:\n%q, the command line\n%q", name, model, got, want)
			}
		}
	}
}

// symbolic builds the library with its symbols, which sanitizers name in reports and suppressions;
// flags are for the C compiler and linker.
func symbolic(t *testing.T, flags string) string {
	t.Helper()
	dir := t.TempDir()
	exports, err := filepath.Abs("../capi/libmoering.map")
	if err != nil {
		t.Fatal(err)
	}
	linked := "-w -extldflags '-Wl,-soname,libmoering.so -Wl,--version-script=" + exports + "'"
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o",
		filepath.Join(dir, "libmoering.so"), "-ldflags="+linked, "../capi")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if flags != "" {
		cmd.Env = append(cmd.Env, "CGO_CFLAGS=-g -O1 "+flags, "CGO_LDFLAGS="+flags)
	}
	run(t, cmd)
	return dir
}

// Every mistake of a caller ends in a status and a message: no crash, no hang, no leak, not a byte
// on stdout or stderr. The stream's progress (16 bytes) is freed by the collector, which may not
// have run; everything else must be back.
func TestMisuseEndsInAStatus(t *testing.T) {
	c := needLibrary(t)
	dir := symbolic(t, "")
	bin := compile(t, c, dir, "capi/misuse.c", "-fsanitize=address,undefined",
		"-fno-sanitize-recover=undefined")
	leaks := filepath.Join(dir, "leaks")
	if err := os.WriteFile(leaks, []byte("leak:Cfunc_calloc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, tinyModel, t.TempDir())
	cmd.Env = append(os.Environ(), "LSAN_OPTIONS=print_suppressions=0:suppressions="+leaks)
	if out := run(t, cmd); string(out) != "ok\n" {
		t.Errorf("%q", out)
	}
}

// hammerSeconds is how long threads hammer at one engine; MOERING_HAMMER_SECONDS=60 is the full
// run.
func hammerSeconds() string {
	if s := os.Getenv("MOERING_HAMMER_SECONDS"); s != "" {
		return s
	}
	return "2"
}

// hammerGrowthKB is what the resident set may vary by: the Go heap between two collections.
const hammerGrowthKB = "16384"

func TestThreadsOnOneEngine(t *testing.T) {
	c := needLibrary(t)
	bin := compile(t, c, c.lib(), "capi/hammer.c")
	t.Logf("%s", run(t, exec.Command(bin, "32", hammerSeconds(), hammerGrowthKB)))
}

// The same under ThreadSanitizer, for the C of shim and kernels; MOERING_TSAN=1 asks for it, since
// the library must be compiled for it first.
func TestThreadsUnderThreadSanitizer(t *testing.T) {
	if os.Getenv("MOERING_TSAN") == "" {
		t.Skip("MOERING_TSAN=1 runs it: it compiles the library anew")
	}
	c := needLibrary(t)
	dir := symbolic(t, "-fsanitize=thread")
	bin := compile(t, c, dir, "capi/hammer.c", "-fsanitize=thread")
	unseen := filepath.Join(dir, "unseen")
	if err := os.WriteFile(unseen, []byte("race_top:pool_submit\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "32", hammerSeconds())
	cmd.Env = append(os.Environ(), "TSAN_OPTIONS=suppressions="+unseen)
	t.Logf("%s", run(t, cmd))
}
