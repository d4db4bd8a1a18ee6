//go:build cgo

package cuda

import (
	"sync"
	"testing"

	"github.com/moering/moering/tests/fakecuda"
)

// built is the stand-in, which is compiled, or found compiled, once.
var built struct {
	once sync.Once
	path string
}

// library is the driver that tests open: what MOERING_CUDA_LIBRARY names, or the stand-in. Where the
// variable names a driver, tests that need the stand-in are skipped.
func library(t testing.TB) string {
	t.Helper()
	if l := EnvLibrary(); l != "" {
		return l
	}
	built.once.Do(func() { built.path = fakecuda.Build(t) })
	if built.path == "" {
		t.Skip("the stand-in could not be built: see the first test that needed it")
	}
	return built.path
}
