package ref_test

import (
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/conformance"
	"github.com/moering/moering/kernels/ref"
)

func TestConformanceUnified(t *testing.T) {
	conformance.Run(t, func(testing.TB) kernels.Device { return ref.Open(ref.Options{Threads: 3}) })
}

func TestConformanceDiscrete(t *testing.T) {
	conformance.Run(t, func(testing.TB) kernels.Device {
		return ref.Open(ref.Options{Discrete: true, Seed: 1})
	})
}
