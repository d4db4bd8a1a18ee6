//go:build cgo

package cuda

/*
#include <stdlib.h>
#include "driver.h"
*/
import "C"

import (
	"fmt"
	"strings"
	"sync"
	"unsafe"
)

const logBytes = 8 << 10 // of the driver's compiler

// modules are the kernels that are compiled, by the driver, from PTX. Those that every model needs
// are compiled at Open; those of a weight format when an op first has such weights.
type modules struct {
	mu        sync.RWMutex
	loaded    map[string]C.uint64_t
	functions [kernelCount]C.uint64_t // 0: not compiled yet
}

// loadKernels compiles the kernels that are of no weight format, so that a driver which cannot
// compile shows at Open.
func (d *Device) loadKernels() error {
	d.modules.loaded = make(map[string]C.uint64_t)
	for k := range kernelProduct {
		if _, err := d.function(k); err != nil {
			return err
		}
	}
	return nil
}

// function returns the handle of a kernel. Who asks first waits for its module; later it is a read.
func (d *Device) function(k kernelID) (C.uint64_t, error) {
	m := &d.modules
	m.mu.RLock()
	f := m.functions[k]
	m.mu.RUnlock()
	if f != 0 {
		return f, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.functions[k] != 0 {
		return m.functions[k], nil
	}
	module, err := d.load(k.module())
	if err != nil {
		return 0, err
	}
	name := C.CString(k.name())
	defer C.free(unsafe.Pointer(name))
	var found C.uint64_t
	if r := C.module_function(d.driver.c, d.context, module, name, &found); r != 0 {
		return 0, d.fail("looking up kernel "+k.name(), r)
	}
	m.functions[k] = found
	return found, nil
}

// load compiles a module, once. The caller holds the lock.
func (d *Device) load(name string) (C.uint64_t, error) {
	if module, ok := d.modules.loaded[name]; ok {
		return module, nil
	}
	text, err := modulePTX(name)
	if err != nil {
		return 0, err
	}
	image := C.CString(text)
	defer C.free(unsafe.Pointer(image))
	log := (*C.char)(C.calloc(1, logBytes))
	defer C.free(unsafe.Pointer(log))
	var module C.uint64_t
	r := C.module_load(d.driver.c, d.context, image, log, logBytes, &module)
	if r != 0 {
		err := d.fail(fmt.Sprintf("loading the kernels of %s (PTX %s; %s)", name, isaOf(text),
			d.info.Detail), r)
		if said := strings.TrimSpace(C.GoString(log)); said != "" {
			err = fmt.Errorf("%w; the compiler says:\n%s", err, said)
		}
		return 0, err
	}
	d.modules.loaded[name] = module
	return module, nil
}

// nameOf returns the name of a function, for errors.
func (d *Device) nameOf(function C.uint64_t) string {
	d.modules.mu.RLock()
	defer d.modules.mu.RUnlock()
	for k, f := range d.modules.functions {
		if f == function {
			return kernelID(k).name()
		}
	}
	return "a kernel"
}

// isaOf returns the PTX version of a module, which decides how old a driver may be.
func isaOf(text string) string {
	_, rest, _ := strings.Cut(text, ".version ")
	version, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(version)
}

// unloadKernels gives all modules back.
func (d *Device) unloadKernels() error {
	d.modules.mu.Lock()
	defer d.modules.mu.Unlock()
	var first error
	for name, module := range d.modules.loaded {
		err := d.end("unloading the kernels of "+name,
			C.module_unload(d.driver.c, d.context, module))
		if first == nil {
			first = err
		}
	}
	clear(d.modules.loaded)
	d.modules.functions = [kernelCount]C.uint64_t{}
	return first
}
