package engine

import (
	"fmt"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/cuda"
	"github.com/moering/moering/kernels/ref"
)

// openDevice opens the device of effective options.
func openDevice(o Options) (kernels.Device, error) {
	if o.discrete != nil {
		return ref.Open(*o.discrete), nil
	}
	name, which := o.device()
	switch name {
	case "cpu":
		return openCPU(o)
	case "cuda":
		d, err := cuda.Open(cuda.Options{Device: which, Library: o.getenv("MOERING_CUDA_LIBRARY"),
			MemoryBytes: o.DeviceMemory, HalfActivations: o.HalfActivations, CuBLASLt: o.cuBLASLt(),
			CuBLASLtLibrary: o.getenv("MOERING_CUBLASLT_LIBRARY")})
		if err != nil {
			return nil, err
		}
		return d, nil
	case "ref":
		return ref.Open(ref.Options{Threads: o.Threads}), nil
	}
	return nil, fmt.Errorf("%w: device %q", ErrUsage, o.Device)
}

// cuBLASLtBytes is what products of cuBLASLt with chunk rows take more on the device.
func (e *Engine) cuBLASLtBytes(chunk int) int64 {
	m := e.model
	width := max(m.Dim, m.Heads*m.HeadDim, m.DenseWidth, m.SharedWidth)
	return e.options.cuBLASLt().ScratchBytes(chunk, width, width)
}

// arithmeticText names choices of a GPU's arithmetic where they may decide what tokens come out.
func (e *Engine) arithmeticText() (text string) {
	if e.device.Info().Name != "cuda" {
		return ""
	}
	if e.options.HalfActivations {
		text = ", half activations"
	}
	if use := e.options.cuBLASLt(); use != cuda.CuBLASLtOff {
		text += fmt.Sprintf(", cuBLASLt %v", use)
	}
	return text
}

// openProcessor opens the device that computes experts beside another.
func openProcessor(o Options) (kernels.Device, error) {
	if o.discrete != nil || !haveCPU {
		return ref.Open(ref.Options{Threads: o.Threads}), nil
	}
	return openCPU(o)
}

// bestDevice is a GPU if there is one, else the processor. It says what it found.
func bestDevice(o Options) string {
	log := o.logger()
	gpus, err := cuda.Devices(o.getenv("MOERING_CUDA_LIBRARY"))
	if err == nil && len(gpus) > 0 {
		log.Info("gpu", "found", len(gpus), "first", gpus[0].String())
		return "cuda"
	}
	device := "ref"
	if haveCPU {
		device = "cpu"
	}
	log.Info("no GPU", "reason", err, "device", device)
	return device
}
