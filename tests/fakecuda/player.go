//go:build cgo

package fakecuda

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

typedef int (*play_launch)(const char *, const uint32_t *, const uint32_t *, uint32_t,
	const void *);
typedef const char *(*play_error)(void);
typedef uint32_t (*play_bytes)(const char *);

static int call_launch(void *f, const char *kernel, const uint32_t *sizes, uint32_t shared,
	const void *args, void *reason, const char **message)
{
	int code = ((play_launch)f)(kernel, sizes, sizes + 3, shared, args);
	*message = code ? ((play_error)reason)() : "";
	return code;
}

static uint32_t call_bytes(void *f, const char *kernel) { return ((play_bytes)f)(kernel); }
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// Player executes kernels on the host, without a driver. It is safe for concurrent use.
type Player struct{ launch, reason, bytes unsafe.Pointer }

// OpenPlayer loads a library that Build or BuildPlayer made. It is never unloaded.
func OpenPlayer(path string) (*Player, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	handle := C.dlopen(name, C.RTLD_NOW|C.RTLD_LOCAL)
	if handle == nil {
		return nil, fmt.Errorf("loading %s: %s", path, C.GoString(C.dlerror()))
	}
	p := &Player{}
	for _, s := range []struct {
		name string
		to   *unsafe.Pointer
	}{{"mr_play_launch", &p.launch}, {"mr_play_error", &p.reason},
		{"mr_play_args_bytes", &p.bytes}} {
		symbol := C.CString(s.name)
		*s.to = C.dlsym(handle, symbol)
		C.free(unsafe.Pointer(symbol))
		if *s.to == nil {
			return nil, fmt.Errorf("loading %s: no %s", path, s.name)
		}
	}
	return p, nil
}

// ArgumentBytes returns the size of a kernel's arguments; 0 for a name that no kernel has.
func (p *Player) ArgumentBytes(kernel string) int {
	name := C.CString(kernel)
	defer C.free(unsafe.Pointer(name))
	return int(C.call_bytes(p.bytes, name))
}

// Launch executes a kernel and returns when it is done. Addresses in args are those of host memory,
// which must not be reached by a pointer that Go would move or free meanwhile.
func (p *Player) Launch(kernel string, grid, block [3]uint32, shared uint32, args []byte) error {
	name := C.CString(kernel)
	defer C.free(unsafe.Pointer(name))
	sizes := [6]C.uint32_t{}
	for i := range 3 {
		sizes[i], sizes[3+i] = C.uint32_t(grid[i]), C.uint32_t(block[i])
	}
	copied := C.CBytes(args)
	defer C.free(copied)
	var message *C.char
	// The reason is kept by thread, so both calls are one call of cgo.
	code := C.call_launch(p.launch, name, &sizes[0], C.uint32_t(shared), copied, p.reason, &message)
	if code != 0 {
		return fmt.Errorf("player: %s (%d)", C.GoString(message), int(code))
	}
	return nil
}
