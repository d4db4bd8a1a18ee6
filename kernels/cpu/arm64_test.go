//go:build cgo

package cpu

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestNEONUnderQEMU builds the tests for 64-bit ARM and runs what concerns NEON under qemu-user.
func TestNEONUnderQEMU(t *testing.T) {
	const compiler, emulator, libraries = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
	if runtime.GOARCH == "arm64" {
		t.Skip("this is such a machine: the other tests have run on it")
	}
	for _, program := range []string{compiler, emulator} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("NEON is not tested without %s (packages gcc-aarch64-linux-gnu, "+
				"libc6-dev-arm64-cross, qemu-user): %v", program, err)
		}
	}
	if testing.Short() {
		t.Skip("building for another machine takes a minute")
	}
	binary := filepath.Join(t.TempDir(), "cpu.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=1", "CC="+compiler,
		"GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building for arm64: %v\n%s", err, out)
	}
	for _, tests := range []string{
		"TestBitsAreTheSame|TestAttention|TestRMSNorm|TestNumbersThatAreNotFinite|TestQ8Products",
		"TestConformance/neon/(attention|kv|route|norm)", "TestConformance/neon/matmul/(Q|I|M|F16)",
	} {
		c := exec.CommandContext(t.Context(), emulator, "-L", libraries, binary, "-test.v",
			"-test.run", tests)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("under %s: %v\n%s", emulator, err, out)
		}
		if text := string(out); strings.Contains(text, "without neon") ||
			!strings.Contains(text, "--- PASS") {
			t.Fatalf("NEON was not tested:\n%s", text)
		}
	}
}
