//go:build !cgo

package engine

import (
	"fmt"

	"github.com/moering/moering/kernels"
)

const haveCPU = false

func openCPU(Options) (kernels.Device, error) {
	return nil, fmt.Errorf("%w: device cpu: this build is without cgo; use ref", ErrUnsupported)
}
