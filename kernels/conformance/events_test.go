//go:build !race

// A device that ignores events is a data race by nature, which the race detector would report
// against this test instead of against the device.

package conformance

import (
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/ref"
)

// deaf ignores events.
type deaf struct{ kernels.Stream }

func (deaf) Wait(kernels.Event) {}

func TestIgnoredEventsAreFound(t *testing.T) {
	dev := &mutant{Device: ref.Open(ref.Options{Discrete: true, Seed: 3}),
		stream: func(s kernels.Stream) kernels.Stream { return deaf{s} }}
	expect(t, "ignored events", "events order", dev)
}
