//go:build cgo

package engine

import (
	"context"
	"fmt"

	"github.com/moering/moering/kernels/cpu/bench"
)

// BenchKernels measures the CPU's kernels beside the machine's memory bandwidth and peak arithmetic,
// and hands out each result as it is there. It takes the whole machine: nothing else should run.
func BenchKernels(ctx context.Context, o KernelOptions, each func(KernelResult)) error {
	err := bench.Run(ctx, o, each)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return err
}
