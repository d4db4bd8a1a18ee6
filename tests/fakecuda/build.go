// Package fakecuda builds what stands in for a GPU in tests: the player, which executes the CUDA
// sources of kernels/cuda on the host (play/play.h), and the driver library around it (driver/).
//
// Only tests use it. It needs a C++ compiler: $CXX, or g++ or clang++.
package fakecuda

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"
)

// Build returns the path of the stand-in driver library, compiled where its sources have changed.
// The compiled files are kept in the user's cache folder, by the hash of what they are made of. The
// test is skipped where there is no C++ compiler, and fails where one finds an error.
func Build(t testing.TB) string {
	t.Helper()
	return build(t, "libfakecuda", "play/*.cc", "driver/*.cc")
}

// BuildPlayer is Build for the player alone, whose door is mr_play_launch in play/kernels.cc.
func BuildPlayer(t testing.TB) string {
	t.Helper()
	return build(t, "libplay", "play/*.cc")
}

// BuildPlayerWith is BuildPlayer with one more source, for tests of the player itself.
func BuildPlayerWith(t testing.TB, source string) string {
	t.Helper()
	return build(t, "libplay", "play/*.cc", source)
}

func build(t testing.TB, name string, patterns ...string) string {
	t.Helper()
	compiler, err := findCompiler()
	if err != nil {
		t.Skip(err)
	}
	path, err := compile(compiler, name, patterns)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func findCompiler() (string, error) {
	for _, name := range []string{os.Getenv("CXX"), "g++", "clang++"} {
		if name == "" {
			continue
		}
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no C++ compiler ($CXX, g++ or clang++) to build the stand-in GPU with")
}

// flags are the compiler's: as for the GPU, products and sums are not contracted.
func flags() []string {
	f := []string{"-std=c++17", "-O2", "-g1", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC",
		"-Wall", "-Wextra", "-Wno-psabi", "-pthread"}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA { // else each fused multiply-add is a call
		f = append(f, "-mavx2", "-mfma")
	}
	return f
}

func compile(compiler, name string, patterns []string) (string, error) {
	folder, err := sourceFolder()
	if err != nil {
		return "", err
	}
	kernels := filepath.Join(folder, "..", "..", "kernels", "cuda")
	sources, err := find(folder, patterns)
	if err != nil {
		return "", err
	}
	headers, err := find(folder, []string{"play/*.h", "driver/*.h", kernels + "/*.h",
		kernels + "/*.cuh", kernels + "/*.cu", kernels + "/*.inc"})
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("a place for the stand-in GPU: %w", err)
	}
	cache = filepath.Join(cache, "moering", "fakecuda")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	args := append(flags(), "-I"+filepath.Join(folder, "play"), "-I"+kernels)
	objects := make([]string, len(sources))
	errs := make([]error, len(sources))
	var wait sync.WaitGroup
	for i, source := range sources {
		wait.Go(func() {
			sum, err := hash(compiler, args, append([]string{source}, needed(source, headers)...))
			if err != nil {
				errs[i] = err
				return
			}
			objects[i] = filepath.Join(cache, sum+".o")
			errs[i] = produce(objects[i], compiler, append(slices.Clone(args), "-c", source))
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return "", err
		}
	}
	sum, err := hash(compiler, objects, nil)
	if err != nil {
		return "", err
	}
	library := filepath.Join(cache, name+"-"+sum+".so")
	return library, produce(library, compiler, append([]string{"-shared", "-pthread"}, objects...))
}

// sourceFolder is where this package lies, of the module that tests run in: a binary that was built with
// -trimpath does not know.
func sourceFolder() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := at; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "tests", "fakecuda"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("the sources of the stand-in GPU: no go.mod above %s", at)
		}
	}
}

// needed leaves out what a source does not include: the kernels, but for kernels.cc.
func needed(source string, headers []string) []string {
	if filepath.Base(source) == "kernels.cc" {
		return headers
	}
	var out []string
	for _, h := range headers {
		if filepath.Ext(h) == ".h" || filepath.Base(h) == "common.cuh" {
			out = append(out, h)
		}
	}
	return out
}

func find(folder string, patterns []string) ([]string, error) {
	var files []string
	for _, p := range patterns {
		if !filepath.IsAbs(p) {
			p = filepath.Join(folder, p)
		}
		some, err := filepath.Glob(p)
		if err != nil {
			return nil, err
		}
		files = append(files, some...)
	}
	return files, nil
}

// lock keeps test binaries that run at once from compiling the same.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

func hash(compiler string, args, files []string) (string, error) {
	h := sha256.New()
	version, err := exec.Command(compiler, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", compiler, err)
	}
	fmt.Fprintf(h, "%s\n%s\n", version, strings.Join(args, " "))
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "\n%s\n", name)
		_, err = io.Copy(h, f)
		_ = f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// produce runs the compiler, unless the file is there.
func produce(path, compiler string, args []string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	part := fmt.Sprintf("%s.%d", path, os.Getpid())
	out, err := exec.Command(compiler, append(args, "-o", part)...).CombinedOutput()
	if err != nil {
		_ = os.Remove(part)
		return fmt.Errorf("%s %s: %w\n%s", compiler, strings.Join(args, " "), err,
			bytes.TrimSpace(out))
	}
	return os.Rename(part, path)
}
