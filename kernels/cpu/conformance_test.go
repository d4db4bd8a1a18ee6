//go:build cgo

package cpu_test

import (
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/conformance"
	"github.com/moering/moering/kernels/cpu"
)

func TestConformance(t *testing.T) {
	for _, isa := range cpu.ISAs() {
		t.Run(isa, func(t *testing.T) {
			dev, err := cpu.Open(cpu.Options{Threads: 2, ISA: isa})
			if err != nil {
				t.Skipf("this machine has no %s: %v", isa, err)
			}
			conformance.Run(t, func(testing.TB) kernels.Device { return dev })
		})
	}
}
