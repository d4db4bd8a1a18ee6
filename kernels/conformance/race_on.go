//go:build race

package conformance

// roundsShare divides the rounds of a run: under the race detector arithmetic is ten times slower,
// and the run is there for the order of accesses, not for more shapes.
const roundsShare = 4
