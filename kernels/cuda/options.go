package cuda

import (
	"fmt"
	"time"
)

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
	// CuBLASLt lets NVIDIA's library have large products with F16 and BF16 weights, where it is
	// installed. It is not the default: the library chooses the order of a sum by the shape, so that a
	// row's bits depend on the rows beside it, and with them on batches, budgets and chunks
	// (docs/decisions/0015-cublaslt.md). Accuracy stays as it is without. Info's Detail says
	// what became of it.
	CuBLASLt CuBLASLt
	// CuBLASLtLibrary is the library; "" looks for libcublasLt.so.13, .12 and .11. Tests name the
	// stand-in here.
	CuBLASLtLibrary string
}

// CuBLASLt says which products are cuBLASLt's.
type CuBLASLt int

// The settings; the zero value loads nothing.
const (
	CuBLASLtOff    CuBLASLt = iota
	CuBLASLtFaster          // those that it makes faster than the kernels here: measured at first use
	CuBLASLtAlways          // all that it can have
)

var cuBLASLtNames = [...]string{"off", "faster", "always"}

// String returns "off", "faster" or "always".
func (c CuBLASLt) String() string { return cuBLASLtNames[min(max(c, 0), CuBLASLtAlways)] }

// ParseCuBLASLt reads what String prints; "" is off.
func ParseCuBLASLt(s string) (CuBLASLt, error) {
	for i, name := range cuBLASLtNames {
		if s == name {
			return CuBLASLt(i), nil
		}
	}
	if s == "" {
		return CuBLASLtOff, nil
	}
	return CuBLASLtOff, fmt.Errorf("cuBLASLt %q: use off, faster or always", s)
}

const (
	// The workspace that NVIDIA recommends: for Hopper and later, and for GPUs before.
	workspaceBytes, workspaceBytesBefore = 32 << 20, 4 << 20
	// denseProductMost bounds the scratch memory that a product lies in before it is added to what there
	// is; larger ones stay with the kernels here.
	denseProductMost = 64 << 20
)

// ScratchBytes bounds the device memory that streams want more for products of cuBLASLt with so many
// rows, inputs and outputs at most. Where they do not get it, they do without cuBLASLt.
func (c CuBLASLt) ScratchBytes(rows, inputs, outputs int) int64 {
	if c == CuBLASLtOff {
		return 0
	}
	const values, pieces, sums = 4, 2 * 3 * 2, 1 // bytes an input, of a trial and both its products
	n := int64(rows) * (int64(inputs) + 64) * (values + pieces + sums)
	n += min(4*int64(rows)*int64(outputs), denseProductMost) + workspaceBytes
	return n + n/4 + 1<<20
}

// DenseChoice is what was decided about products of cuBLASLt of a shape: with so many rows, or fewer
// and more than half as many.
type DenseChoice struct {
	Type                  string // of the weights
	Pieces                int    // in which activations are multiplied
	Rows, Outputs, Inputs int
	// Own and CuBLASLt are the times of one product, activations included; 0 where it was not measured.
	Own, CuBLASLt time.Duration
	Used          bool
	Why           string // it is not used, where the library failed
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
