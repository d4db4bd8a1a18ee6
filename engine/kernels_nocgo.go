//go:build !cgo

package engine

import (
	"context"
	"fmt"
)

// BenchKernels needs the kernels of a build with cgo.
func BenchKernels(context.Context, KernelOptions, func(KernelResult)) error {
	return fmt.Errorf("%w: this build is without cgo, and has no kernels to measure", ErrUnsupported)
}
