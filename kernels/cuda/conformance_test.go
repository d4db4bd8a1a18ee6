//go:build cgo

package cuda

import (
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/conformance"
)

// TestConformance runs on a GPU where MOERING_CUDA_LIBRARY names its driver (libcuda.so.1), else on the
// stand-in, which also checks memory and the order of all accesses.
func TestConformance(t *testing.T) {
	conformance.Run(t, func(t testing.TB) kernels.Device {
		d, err := Open(Options{Library: library(t)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}
