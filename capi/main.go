//go:build cgo

// Command capi is the C library: ./build.sh lib makes libmoering.so and libmoering.a of it. Shim.c
// has the functions of moering.h, which call the exports of the Go files; core does the work. No Go
// pointer goes to C: handles are numbers, and memory that C borrows is C's.
package main

/*
#cgo CFLAGS: -std=c11 -O2 -Wall -fvisibility=hidden
#cgo LDFLAGS: -lpthread
#include <stdlib.h>
#include <string.h>
#include "shim.h"
*/
import "C"

import (
	_ "embed"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"unsafe"

	"github.com/moering/moering/capi/internal/core"
	"github.com/moering/moering/engine"
)

func main() {}

//go:embed VERSION
var version string

// elementsMax bounds the sizes and counts that C may give; beyond it one is a mistake.
const elementsMax = 1 << 30

// library is what the exports share. It is made with the library and never replaced; C has no place
// to pass it through.
var library = struct {
	engines  *core.Table[*core.Engine]
	sessions *core.Table[*session]
	batches  *core.Table[*batch]
}{
	core.NewTable[*core.Engine](core.KindEngine),
	core.NewTable[*session](core.KindSession),
	core.NewTable[*batch](core.KindBatch),
}

func describeBuild() string {
	revision, modified := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value[:min(len(s.Value), 12)]
			case s.Key == "vcs.modified" && s.Value == "true":
				modified = "-modified"
			}
		}
	}
	return fmt.Sprintf("moering %s %s%s %s %s/%s", strings.TrimSpace(version), revision, modified,
		runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

//export mri_build_info
func mri_build_info(to *C.char, bytes C.size_t) {
	_ = core.Guard(func() error {
		cut(unsafe.Slice(to, int(bytes)), describeBuild())
		return nil
	})
}

// call runs an export's work, and describes a failure for C.
func call(f *C.mri_failure, work func() error) C.mr_status {
	err := core.Guard(work)
	status := core.Status(err)
	if status < 0 {
		place := engine.Where(err)
		f.status, f.offset = C.mr_status(status), C.int64_t(place.Offset)
		f.line = C.int64_t(place.Line)
		cut(f.message[:], err.Error())
		cut(f.file[:], place.File)
		cut(f.tensor[:], place.Tensor)
	}
	return C.mr_status(status)
}

// cut copies as much of s as fits, whole characters, and a NUL.
func cut(to []C.char, s string) {
	s = strings.ReplaceAll(s, "\x00", "?")
	if len(s) > len(to)-1 {
		s = strings.ToValidUTF8(s[:len(to)-1], "")
	}
	for i := range len(s) {
		to[i] = C.char(s[i])
	}
	to[len(s)] = 0
}

// text copies C's bytes.
func text(p *C.char, size C.size_t) (string, error) {
	if size > elementsMax {
		return "", fmt.Errorf("%w: a text of %d bytes", engine.ErrUsage, uint64(size))
	}
	if size == 0 {
		return "", nil
	}
	return string(unsafe.Slice((*byte)(unsafe.Pointer(p)), int(size))), nil
}

// view is C's array as a slice, for the time of a call.
func view[To, From any](p *From, count C.size_t) ([]To, error) {
	if count > elementsMax {
		return nil, fmt.Errorf("%w: an array of %d elements", engine.ErrUsage, uint64(count))
	}
	if count == 0 {
		return nil, nil
	}
	return unsafe.Slice((*To)(unsafe.Pointer(p)), int(count)), nil
}

// fill gives C an array in its own memory: how long it is, and what is in it if there is room.
func fill[To, From any](p *To, capacity C.size_t, count *C.size_t, values []From) error {
	*count = C.size_t(len(values))
	if uint64(len(values)) > uint64(capacity) {
		return fmt.Errorf("%w: %d of %d", core.ErrSpace, uint64(capacity), len(values))
	}
	if len(values) > 0 {
		copy(unsafe.Slice((*From)(unsafe.Pointer(p)), len(values)), values)
	}
	return nil
}

// fillText is fill for a text, with a NUL behind it if there is room for one.
func fillText(p *C.char, capacity C.size_t, size *C.size_t, s string) error {
	err := fill(p, capacity, size, []byte(s))
	if err == nil && uint64(len(s)) < uint64(capacity) {
		*(*byte)(unsafe.Add(unsafe.Pointer(p), len(s))) = 0
	}
	return err
}

// buffer is memory of C that a handle lends out. It grows, and is released with the handle.
type buffer struct {
	p    unsafe.Pointer
	size int
}

// room returns memory of at least so many bytes, which may have moved.
func (b *buffer) room(bytes int) (unsafe.Pointer, error) {
	if bytes > b.size {
		size := max(bytes, 2*b.size, 64)
		p := C.malloc(C.size_t(size))
		if p == nil {
			return nil, fmt.Errorf("%w: %d bytes of C memory", engine.ErrBudget, size)
		}
		C.free(b.p)
		b.p, b.size = p, size
	}
	return b.p, nil
}

// text puts s and a NUL into the buffer.
func (b *buffer) text(s string) (*C.char, error) {
	p, err := b.room(len(s) + 1)
	if err != nil {
		return nil, err
	}
	to := unsafe.Slice((*byte)(p), len(s)+1)
	copy(to, s)
	to[len(s)] = 0
	return (*C.char)(p), nil
}

// release gives the memory back once the thread that it was lent to has done with it.
func (b *buffer) release(borrower *C.mri_failure) {
	C.mri_release(borrower, b.p)
	b.p, b.size = nil, 0
}

// lend puts values into the buffer.
func lend[T any](b *buffer, values []T) (*T, error) {
	var one T
	p, err := b.room(len(values)*int(unsafe.Sizeof(one)) + 1)
	if err != nil {
		return nil, err
	}
	copy(unsafe.Slice((*T)(p), len(values)), values)
	return (*T)(p), nil
}

// withEngine runs work on an open engine, which stays alive meanwhile.
func withEngine(f *C.mri_failure, handle C.uint64_t, work func(*core.Engine) error) C.mr_status {
	return call(f, func() (err error) {
		e, err := library.engines.Get(uint64(handle))
		if err != nil {
			return err
		}
		if err := e.Hold(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, e.Release()) }()
		return work(e)
	})
}
