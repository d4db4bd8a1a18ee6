//go:build cgo

package fakecuda

/*
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

typedef int (*fakecuda_control)(const char *, char *, size_t);

static int call_control(void *f, const char *request, char *reply, size_t bytes)
{
	return ((fakecuda_control)f)(request, reply, bytes);
}
*/
import "C"

import (
	"testing"
	"unsafe"
)

// Control asks the stand-in driver that Build made, which is one for the process, something in text
// (driver/control.cc). The test fails where the library is no stand-in, or does not understand.
func Control(t testing.TB, library, request string) string {
	t.Helper()
	path, text, symbol := C.CString(library), C.CString(request), C.CString("fakecuda_control")
	defer C.free(unsafe.Pointer(path))
	defer C.free(unsafe.Pointer(text))
	defer C.free(unsafe.Pointer(symbol))
	handle := C.dlopen(path, C.RTLD_NOW|C.RTLD_LOCAL)
	if handle == nil {
		t.Fatalf("loading %s: %s", library, C.GoString(C.dlerror()))
	}
	f := C.dlsym(handle, symbol)
	if f == nil {
		t.Fatalf("%s is not the stand-in driver", library)
	}
	const replyBytes = 64 << 10
	reply := (*C.char)(C.calloc(1, replyBytes))
	defer C.free(unsafe.Pointer(reply))
	if C.call_control(f, text, reply, replyBytes) != 0 {
		t.Fatalf("the stand-in does not know %q", request)
	}
	return C.GoString(reply)
}
