//go:build !cgo

package cuda

import (
	"fmt"

	"github.com/moering/moering/kernels"
)

// Device is a GPU; this build cannot open one.
type Device struct{ kernels.Device }

func errNoCgo() error {
	return fmt.Errorf("%w: cuda: built without cgo; a GPU needs a build with CGO_ENABLED=1",
		kernels.ErrDevice)
}

// Open fails: without cgo there is no way to the driver.
func Open(Options) (*Device, error) { return nil, errNoCgo() }

// Devices fails like Open.
func Devices(string) ([]DeviceInfo, error) { return nil, errNoCgo() }

// EnvLibrary returns "".
func EnvLibrary() string { return "" }
