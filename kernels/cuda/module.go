//go:build cgo

package cuda

func (d *Device) loadKernels() error { return nil }
