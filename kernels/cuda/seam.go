//go:build cgo

package cuda

import (
	"fmt"

	"github.com/moering/moering/kernels"
)

// What the device asks of the planner.

func needOf(*planner, kernels.Op) demand { return demand{} }

func planOf(_ *planner, op kernels.Op) ([]launch, error) {
	return nil, fmt.Errorf("%w: cuda: no kernel for %T", kernels.ErrDevice, op)
}

func nameOf(kernelID) string { return "" }
