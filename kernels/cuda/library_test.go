//go:build cgo

package cuda

import "testing"

// library is the driver that tests open: what MOERING_CUDA_LIBRARY names, or the stand-in.
func library(t testing.TB) string {
	t.Helper()
	if l := EnvLibrary(); l != "" {
		return l
	}
	t.Skip("no stand-in")
	return ""
}
