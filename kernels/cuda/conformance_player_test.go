//go:build cgo

package cuda

import (
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/conformance"
)

// TestConformanceOfKernels holds the kernels and their planner to the contract without a driver.
func TestConformanceOfKernels(t *testing.T) {
	conformance.Run(t, func(testing.TB) kernels.Device { return openPlayed(t) })
}
