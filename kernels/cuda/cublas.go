//go:build cgo

package cuda

/*
#include <stdlib.h>
#include "cublas.h"
*/
import "C"

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

const (
	// cublasOldest and cublasNewest are the major versions whose interface is the one used.
	cublasOldest, cublasNewest = 11, 13
	capabilityHopper           = 9
)

// cublas is the library with its handle, and what was found out about it. Its mutex orders the
// library's calls.
type cublas struct {
	c         *C.cublas
	use       CuBLASLt
	workspace int64

	mu      sync.Mutex
	choices map[denseShape]DenseChoice // by class
}

// openCuBLASLt looks for the library and starts it. That it is not there is no failure: the device's
// description says so.
func (d *Device) openCuBLASLt(o Options) {
	b, name, err := d.findCuBLASLt(o.CuBLASLtLibrary)
	if err != nil {
		d.info.Detail += ", no cuBLASLt: " + err.Error()
		return
	}
	b.use, b.workspace = o.CuBLASLt, workspaceBytes
	if d.about.Major < capabilityHopper {
		b.workspace = workspaceBytesBefore
	}
	b.choices = make(map[denseShape]DenseChoice)
	d.cublas = b
	d.info.Detail += fmt.Sprintf(", %s %s", name, o.CuBLASLt)
}

// findCuBLASLt returns the first library of those looked for that starts, and its name with version.
func (d *Device) findCuBLASLt(library string) (*cublas, string, error) {
	if library != "" {
		return d.loadCuBLASLt(library)
	}
	var reasons []string
	for major := cublasNewest; major >= cublasOldest; major-- {
		b, name, err := d.loadCuBLASLt(fmt.Sprintf("libcublasLt.so.%d", major))
		if err == nil {
			return b, name, nil
		}
		reasons = append(reasons, err.Error())
	}
	return nil, "", errors.New(strings.Join(reasons, "; "))
}

func (d *Device) loadCuBLASLt(library string) (*cublas, string, error) {
	path := C.CString(library)
	defer C.free(unsafe.Pointer(path))
	message := (*C.char)(C.calloc(1, messageBytes))
	defer C.free(unsafe.Pointer(message))
	c := C.cublas_open(path, message, messageBytes)
	if c == nil {
		return nil, "", errors.New(C.GoString(message))
	}
	var major, minor, patch C.int
	r := C.cublas_version(c, &major, &minor, &patch)
	if r == 0 && (major < cublasOldest || major > cublasNewest) {
		C.cublas_free(c)
		return nil, "", fmt.Errorf("%s is of version %d.%d; %d to %d are known", library, int(major),
			int(minor), cublasOldest, cublasNewest)
	}
	if r == 0 {
		r = C.cublas_start(c, d.driver.c, d.context)
	}
	if r != 0 {
		C.cublas_free(c)
		return nil, "", d.fail("starting "+library, r)
	}
	return &cublas{c: c}, fmt.Sprintf("cuBLASLt %d.%d.%d", int(major), int(minor), int(patch)), nil
}

// closeCuBLASLt gives the library's handle back; no stream is open.
func (d *Device) closeCuBLASLt() error {
	b := d.cublas
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	err := d.end("ending cuBLASLt", C.cublas_end(b.c, d.driver.c, d.context))
	C.cublas_free(b.c)
	b.c = nil
	return err
}

// plan asks for the algorithm of a shape; the error says why there is none.
func (d *Device) densePlan(s denseShape) (*C.cublas_plan, error) {
	b := d.cublas
	shape := C.cublas_shape{rows: C.uint64_t(s.rows), outputs: C.uint64_t(s.outputs),
		inputs: C.uint64_t(s.inputs), workspace: C.uint64_t(b.workspace), alignment: denseAlign,
		_type: s.elements()}
	b.mu.Lock()
	defer b.mu.Unlock()
	var plan *C.cublas_plan
	r := C.cublas_make_plan(b.c, d.driver.c, d.context, &shape, &plan)
	if r != 0 {
		return nil, d.fail(fmt.Sprintf("looking for an algorithm for %v", s), r)
	}
	return plan, nil
}

func (b *cublas) freePlan(p *C.cublas_plan) {
	b.mu.Lock()
	defer b.mu.Unlock()
	C.cublas_free_plan(p)
}

// choice returns what was decided about a class of shapes.
func (b *cublas) choice(class denseShape) (DenseChoice, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.choices[class]
	return c, ok
}

// decide remembers what a stream found; who is first decides for the device.
func (b *cublas) decide(class denseShape, c DenseChoice) DenseChoice {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known, ok := b.choices[class]; ok {
		return known
	}
	b.choices[class] = c
	return c
}

// DenseChoices lists what was decided about products of cuBLASLt so far, in the order of their shapes.
func (d *Device) DenseChoices() []DenseChoice {
	b := d.cublas
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.choices), func(x, y DenseChoice) int {
		return cmp.Or(strings.Compare(x.Type, y.Type), cmp.Compare(x.Pieces, y.Pieces),
			cmp.Compare(x.Outputs, y.Outputs), cmp.Compare(x.Inputs, y.Inputs),
			cmp.Compare(x.Rows, y.Rows))
	})
}
