//go:build !race

package conformance

// roundsShare divides the rounds of a run.
const roundsShare = 1
