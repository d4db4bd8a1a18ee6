package tests

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// python finds an interpreter; MOERING_PYTHON names one with NumPy, tqdm, Ray and LangChain,
// without which their tests are left out.
func python(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("MOERING_PYTHON"), "python3"} {
		if bin, err := exec.LookPath(name); name != "" && err == nil {
			old := exec.Command(bin, "-c", "import sys; sys.exit(sys.version_info < (3, 9))")
			if old.Run() == nil {
				return bin
			}
		}
	}
	t.Skip("needs Python 3.9 or later")
	return ""
}

// pythonEnv lets Python find the package in the source tree, and the library that was built.
func pythonEnv(t *testing.T, c clib) []string {
	t.Helper()
	tree, err := filepath.Abs("../bindings/python")
	if err != nil {
		t.Fatal(err)
	}
	return append(os.Environ(), "PYTHONPATH="+tree, "PYTHONDONTWRITEBYTECODE=1",
		"MOERING_LIBRARY="+filepath.Join(c.lib(), "libmoering.so"), "RAY_USAGE_STATS_ENABLED=0")
}

// The Python package's own tests: generation, sessions, misuse, processes and signals, examples,
// and a Ray cluster, which takes half a minute.
func TestPythonPackage(t *testing.T) {
	c, bin := needLibrary(t), python(t)
	cmd := exec.Command(bin, "-m", "unittest", "discover", "-s", "../bindings/python/tests")
	cmd.Env = pythonEnv(t, c)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The package is typed, as strictly as mypy can ask for.
func TestPythonPackageIsTyped(t *testing.T) {
	bin := python(t)
	if exec.Command(bin, "-c", "import mypy").Run() != nil {
		t.Skip("needs mypy (tests/requirements.txt)")
	}
	cmd := exec.Command(bin, "-m", "mypy", "--cache-dir", t.TempDir())
	cmd.Dir = "../bindings/python"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// What the wheel may add to an environment, in bytes, and how long opening the built-in model in a
// new process may take, library included, at the best of openingTries.
const (
	wheelBytesMax = 40e6
	openingMax    = 300 * time.Millisecond
	openingTries  = 5
)

// openingScript prints the seconds from the import to an open model.
const openingScript = `
import time
begin = time.perf_counter()
import moering
engine = moering.Engine("mr:tiny")
print(time.perf_counter() - begin)
engine.close()
`

// The wheel installs into a fresh environment, and the examples there write what the command line
// writes, with no Go and no other library in reach. It is small, and opens a model at once.
func TestWheelInFreshEnvironment(t *testing.T) {
	c, bin := needLibrary(t), python(t)
	if _, err := exec.LookPath("readelf"); err != nil {
		t.Skip("needs readelf")
	}
	dir := t.TempDir()
	venv := exec.Command(bin, "-m", "venv", filepath.Join(dir, "venv"))
	if out, err := venv.CombinedOutput(); err != nil {
		t.Skipf("no virtual environment can be made: %v\n%s", err, out)
	}
	shared := filepath.Join(c.lib(), "libmoering.so")
	pack := func(dir string) string {
		return strings.TrimSpace(string(run(t, exec.Command(bin, "../bindings/python/wheel.py",
			shared, dir))))
	}
	wheel, again := pack(dir), pack(filepath.Join(dir, "again"))
	if a, b := read(t, wheel), read(t, again); a != b || len(a) < 1<<20 {
		t.Errorf("two wheels of the same inputs differ: %d and %d bytes", len(a), len(b))
	}
	wheelTag(t, bin, wheel)
	fresh := filepath.Join(dir, "venv", "bin", "python")
	run(t, exec.Command(fresh, "-m", "pip", "install", "--quiet", "--no-index",
		"--disable-pip-version-check", wheel))
	inFresh := func(args ...string) string {
		cmd := exec.Command(fresh, args...)
		cmd.Env = []string{"PATH=/nowhere"}
		return string(run(t, cmd))
	}
	moering := filepath.Join(dir, "moering")
	run(t, exec.Command("go", "build", "-o", moering, "../cmd/moering"))
	byCommand := func(args ...string) string {
		return strings.TrimSuffix(string(run(t, exec.Command(moering,
			append([]string{"run", "-m", tinyModel, "-n", "64"}, args...)...))), "\n")
	}
	const prompt, seed = "package main\n\nimport (", "11"
	got := inFresh("../docs/examples/python/generate.py", "mr:tiny", prompt, seed)
	want := byCommand("--context=512", "--temperature=0.8", "--top-p=0.95", "--seed", seed, prompt)
	if got != want || len(got) < 10 {
		t.Errorf("%q, the command line %q", got, want)
	}
	example := func(path string) string {
		_, lines, _ := strings.Cut(read(t, path), "```python\n")
		lines, _, _ = strings.Cut(lines, "```")
		return lines
	}
	readme := example("../README.md")
	if other := example("../bindings/python/README.md"); other != readme {
		t.Errorf("the READMEs have different examples:\n%s\n%s", readme, other)
	}
	got, want = inFresh("-c", readme), byCommand("--temperature=0", "package main")
	if got != want || len(got) < 10 {
		t.Errorf("the README's lines: %q, the command line %q", got, want)
	}
	installed := strings.TrimSpace(inFresh("-c", "import moering; print(moering.__path__[0])"))
	wheelIsSmallAndQuick(t, installed, func() string { return inFresh("-c", openingScript) })
}

func wheelIsSmallAndQuick(t *testing.T, installed string, open func() string) {
	t.Helper()
	var bytes int64
	err := filepath.WalkDir(installed, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		bytes += info.Size()
		return err
	})
	if err != nil || bytes > wheelBytesMax || bytes < 1<<20 {
		t.Errorf("%d bytes are installed in %s, at most %.0f may be; %v", bytes, installed,
			wheelBytesMax, err)
	}
	best := time.Hour
	for range openingTries {
		seconds, err := strconv.ParseFloat(strings.TrimSpace(open()), 64)
		if err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Duration(seconds*float64(time.Second)))
	}
	t.Logf("%.1f MB installed, opened in %v", float64(bytes)/1e6, best.Round(time.Millisecond))
	if best > openingMax {
		t.Errorf("import and opening the built-in model take %v, at most %v", best, openingMax)
	}
}

// wheelTag has auditwheel, where there is one, confirm the platform tag of a wheel.
func wheelTag(t *testing.T, python, wheel string) {
	t.Helper()
	if exec.Command(python, "-c", "import auditwheel").Run() != nil {
		t.Log("auditwheel is not installed (tests/requirements.txt): the wheel's tag is not checked")
		return
	}
	tag := regexp.MustCompile(`manylinux_\d+_\d+_\w+`).FindString(filepath.Base(wheel))
	out := strings.Join(strings.Fields(string(run(t, exec.Command(python, "-m", "auditwheel", "show",
		wheel)))), " ")
	if want := `following platform tag: "` + tag; tag == "" || !strings.Contains(out, want) {
		t.Errorf("tag %q; auditwheel: %s", tag, out)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
