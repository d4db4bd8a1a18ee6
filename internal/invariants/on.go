//go:build invariants

package invariants

import "sync/atomic"

// On reports an invariant build.
const On = true

// Poison fills b with PoisonByte.
func Poison(b []byte) {
	if len(b) == 0 {
		return
	}
	b[0] = PoisonByte
	for n := 1; n < len(b); n *= 2 { // copy doubles what is filled: memory speed
		copy(b[n:], b[:n])
	}
}

// CloseChecker panics on a second Close, and on use after Close. The zero value is open. It is safe
// for concurrent use.
type CloseChecker struct{ closed atomic.Bool }

// Close marks the end of life.
func (c *CloseChecker) Close() {
	if c.closed.Swap(true) {
		panic("invariants: closed twice")
	}
}

// AssertNotClosed panics after Close.
func (c *CloseChecker) AssertNotClosed() {
	if c.closed.Load() {
		panic("invariants: used after close")
	}
}
