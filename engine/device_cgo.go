//go:build cgo

package engine

import (
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/cpu"
)

const haveCPU = true

// openCPU opens the C device; MOERING_CPU_ISA overrides the instruction set, for tests.
func openCPU(o Options) (kernels.Device, error) {
	d, err := cpu.Open(cpu.Options{Threads: o.Threads, ISA: o.getenv("MOERING_CPU_ISA")})
	if err != nil {
		return nil, err
	}
	return d, nil
}
