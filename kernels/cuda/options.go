package cuda

import "fmt"

// Options are the choices of Open; the zero value takes the first device and the system's driver.
type Options struct {
	// Device is an ordinal ("0", "1") or a UUID as nvidia-smi -L prints it ("GPU-..."); "" is the
	// first device.
	Device string
	// Library is the driver's library; "" means libcuda.so.1. Tests name the stand-in here.
	Library string
	// MemoryBytes bounds the device memory that Alloc gives, streams' own scratch memory included; 0
	// takes what is free at Open, less what the driver itself needs.
	MemoryBytes int64
	// HalfActivations rounds the activations of products with F16 and BF16 weights to bfloat16, except
	// in ops that are Exact: three times fewer products for the tensor cores, and the accuracy with
	// which such models are usually served. Without it activations keep float32's.
	HalfActivations bool
}

// DeviceInfo describes a device that the driver sees.
type DeviceInfo struct {
	Ordinal      int
	Name         string
	UUID         string // "GPU-" and 32 hexadecimal digits in groups, as nvidia-smi prints it
	MemoryBytes  int64
	Major, Minor int // compute capability
	Processors   int // streaming multiprocessors
	// DriverVersion is the newest CUDA version that the driver serves: 12040 is 12.4.
	DriverVersion int
}

func (i DeviceInfo) String() string {
	return fmt.Sprintf("%d: %s, %s, %.1f GiB, compute capability %d.%d, driver for CUDA %s",
		i.Ordinal, i.Name, i.UUID, float64(i.MemoryBytes)/(1<<30), i.Major, i.Minor,
		versionText(i.DriverVersion))
}

func versionText(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }
