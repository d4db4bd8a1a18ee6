// Package invariants holds the checks of invariant builds (-tags invariants): every test run has
// them on, release builds compile them away.
package invariants

// PoisonByte fills memory that nobody owns, so that a read after release shows: as a float32 it is
// about -1e8, as text it is no UTF-8.
const PoisonByte = 0xCC
