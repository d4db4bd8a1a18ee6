//go:build !invariants

package invariants

// On reports an invariant build.
const On = false

// Poison does nothing in release builds.
func Poison([]byte) {}

// CloseChecker checks nothing in release builds.
type CloseChecker struct{}

// Close does nothing in release builds.
func (*CloseChecker) Close() {}

// AssertNotClosed does nothing in release builds.
func (*CloseChecker) AssertNotClosed() {}
