//go:build cgo

package cuda

import (
	"testing"

	"github.com/moering/moering/tests/fakecuda"
)

// library is the driver that tests open: what MOERING_CUDA_LIBRARY names, or the stand-in. Where the
// variable names a driver, tests that need the stand-in are skipped.
func library(t testing.TB) string {
	t.Helper()
	if l := EnvLibrary(); l != "" {
		return l
	}
	return fakecuda.Build(t)
}
