//go:build !cgo

package fakecuda

import "testing"

// Control needs cgo: without it there is no driver to ask.
func Control(t testing.TB, library, request string) string {
	t.Helper()
	t.Fatalf("asking %s %q: built without cgo", library, request)
	return ""
}
