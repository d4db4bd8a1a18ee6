package engine

import "github.com/moering/moering/kernels/cpu/bench"

// KernelOptions says what BenchKernels measures; the zero value is everything, on all processors.
type KernelOptions = bench.Options

// KernelResult is what one kernel reached.
type KernelResult = bench.Result
