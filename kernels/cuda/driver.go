//go:build cgo

package cuda

/*
#cgo CFLAGS: -O2 -std=c11 -Wall -Wextra
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "driver.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/moering/moering/kernels"
)

const (
	libraryDefault = "libcuda.so.1"
	messageBytes   = 512
	nameBytes      = 256
	// devicesMax bounds what a driver may claim to have.
	devicesMax = 64
)

// driver is the loaded library. Its methods are safe for concurrent use, as the driver's are.
type driver struct {
	c       *C.driver
	version int
	devices int
}

// openDriver loads the library and starts the driver. The table lives until nothing refers to it.
func openDriver(library string) (*driver, error) {
	if library == "" {
		library = libraryDefault
	}
	path := C.CString(library)
	defer C.free(unsafe.Pointer(path))
	message := (*C.char)(C.calloc(1, messageBytes))
	defer C.free(unsafe.Pointer(message))
	c := C.driver_open(path, message, messageBytes)
	if c == nil {
		return nil, loadFailure(library, C.GoString(message))
	}
	d := &driver{c: c}
	runtime.AddCleanup(d, func(c *C.driver) { C.driver_free(c) }, c)
	var version, devices C.int
	if r := C.driver_init(c, &version, &devices); r != 0 {
		return nil, d.failure("starting the NVIDIA driver", r)
	}
	if devices < 1 || devices > devicesMax {
		return nil, fmt.Errorf("%w: cuda: the driver counts %d devices", kernels.ErrDevice,
			int(devices))
	}
	d.version, d.devices = int(version), int(devices)
	return d, nil
}

// EnvLibrary returns MOERING_CUDA_LIBRARY as C sees it: in a process whose host set it after the Go
// runtime began, os.Getenv would not.
func EnvLibrary() string { return C.GoString(C.driver_env_library()) }

// Devices lists what the driver sees; the library is as in Options. Errors wrap kernels.ErrDevice:
// no driver, no device, a driver that does not start.
func Devices(library string) ([]DeviceInfo, error) {
	d, err := openDriver(library)
	if err != nil {
		return nil, err
	}
	list := make([]DeviceInfo, d.devices)
	for i := range list {
		if _, list[i], err = d.describe(i); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// describe asks for a device by its ordinal, and returns its handle too.
func (d *driver) describe(ordinal int) (C.int, DeviceInfo, error) {
	info := DeviceInfo{Ordinal: ordinal, DriverVersion: d.version}
	var device, major, minor, processors C.int
	var bytes C.uint64_t
	var uuid [16]C.uint8_t
	var name [nameBytes]C.char
	r := C.device_get(d.c, C.int(ordinal), &device)
	for _, ask := range []func() C.int{
		func() C.int { return C.device_name(d.c, device, &name[0], nameBytes) },
		func() C.int { return C.device_uuid(d.c, device, &uuid[0]) },
		func() C.int { return C.device_memory(d.c, device, &bytes) },
		func() C.int { return C.device_attribute(d.c, device, C.A_MAJOR, &major) },
		func() C.int { return C.device_attribute(d.c, device, C.A_MINOR, &minor) },
		func() C.int { return C.device_attribute(d.c, device, C.A_PROCESSORS, &processors) },
	} {
		if r == 0 {
			r = ask()
		}
	}
	if r != 0 {
		return 0, info, d.failure(fmt.Sprintf("describing device %d", ordinal), r)
	}
	name[nameBytes-1] = 0
	info.Name = C.GoString(&name[0])
	info.UUID = uuidText(*(*[16]byte)(unsafe.Pointer(&uuid)))
	info.MemoryBytes = int64(bytes)
	info.Major, info.Minor, info.Processors = int(major), int(minor), int(processors)
	return device, info, nil
}

func uuidText(b [16]byte) string {
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// find returns the device that an option names.
func (d *driver) find(name string) (C.int, DeviceInfo, error) {
	var seen []string
	for i := range d.devices {
		device, info, err := d.describe(i)
		if err != nil {
			return 0, info, err
		}
		if name == "" || name == fmt.Sprint(i) || strings.EqualFold(name, info.UUID) {
			return device, info, nil
		}
		seen = append(seen, info.String())
	}
	return 0, DeviceInfo{}, fmt.Errorf("%w: cuda: no device %q; there are:\n  %s", kernels.ErrDevice,
		name, strings.Join(seen, "\n  "))
}

// control asks the stand-in; ok is false for a driver.
func (d *driver) control(request string) (reply string, ok bool) {
	const replyBytes = 64 << 10
	q := C.CString(request)
	defer C.free(unsafe.Pointer(q))
	buffer := (*C.char)(C.calloc(1, replyBytes))
	defer C.free(unsafe.Pointer(buffer))
	if C.driver_control(d.c, q, buffer, replyBytes) != 0 {
		return "", false
	}
	return C.GoString(buffer), true
}
