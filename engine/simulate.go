package engine

import (
	"errors"
	"fmt"
	"io"

	"github.com/moering/moering/sched"
)

// RoutingTrace is a recorded routing trace in memory; see ReadRoutingTrace.
type RoutingTrace = sched.Trace

// RecordedRun is what the run that recorded a trace measured itself; see RoutingTrace.Recorded.
type RecordedRun = sched.Recorded

// SimulatedPrefetch says whether a replay reads guesses ahead.
type SimulatedPrefetch = sched.Prefetch

// Settings of SimulatedPrefetch.
const (
	SimulatedOff  = sched.PrefetchOff
	SimulatedAuto = sched.PrefetchAuto
	SimulatedOn   = sched.PrefetchOn
)

// SimulateOptions say what a trace is replayed against.
type SimulateOptions = sched.SimulateOptions

// SimulateResult is what a replay gives.
type SimulateResult = sched.SimulateResult

// ReadRoutingTrace reads a trace to its end. One that was cut off, since its writer was, gives the
// passes that are whole, together with an error that wraps ErrFormat and io.ErrUnexpectedEOF.
func ReadRoutingTrace(r io.Reader) (*RoutingTrace, error) {
	t, err := sched.ReadTrace(r)
	if errors.Is(err, sched.ErrTrace) {
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return t, err
}

// Simulate replays a trace against a cache of a size, a policy, a predictor and a disk, and says what
// they would give. It opens no model and reads no weights.
func Simulate(t *RoutingTrace, o SimulateOptions) (SimulateResult, error) {
	r, err := sched.Simulate(t, o)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return r, err
}

// SimulatedPolicies are the names that SimulateOptions.Policy takes: the default first, Belady's
// optimum, which no engine can have, last.
func SimulatedPolicies() []string { return append(sched.PolicyNames(), sched.Optimum) }
