package cuda

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPTXIsOfTheseSources compares the sources with the hashes of those that the committed PTX was
// made of. It needs no compiler; ./build.sh ptx --check makes the PTX again.
func TestPTXIsOfTheseSources(t *testing.T) {
	text, err := os.ReadFile("ptx/sources.txt")
	if err != nil {
		t.Fatal(err)
	}
	var now strings.Builder
	for _, pattern := range []string{"*.cu", "*.cuh", "*.inc", "args.h"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(source)
			fmt.Fprintf(&now, "%s  %s\n", hex.EncodeToString(sum[:]), name)
		}
	}
	if now.String() != string(text) {
		t.Errorf("the PTX is of other sources: run ./build.sh ptx and commit\n%s\nnow:\n%s", text,
			now.String())
	}
}
