package reader

import (
	"fmt"
	"sync/atomic"
	"time"
)

// SimOptions are the faults of a simulated store. A probability of 0 turns a fault off, 1 makes it
// certain. What befalls a read depends on the seed, the number of its request, its place and how
// often it was tried, and not on the order in which goroutines run.
type SimOptions struct {
	Seed uint64
	// A read takes from LatencyMin up to LatencyMax, evenly distributed; with a depth above 1,
	// reads finish in an order of their own. Some, by SlowP, take Slow on top.
	LatencyMin, LatencyMax time.Duration
	SlowP                  float64
	Slow                   time.Duration
	// BytesPerSecond is how fast each device moves bytes, of one read after the other; 0: at once.
	BytesPerSecond float64
	ShortP         float64 // fewer bytes than asked for, at least one
	InterruptP     float64 // EINTR or EAGAIN
	ErrorP         float64 // EIO
	TruncateP      float64 // the file ends before the read
	CorruptP       float64 // one bit of what was read is flipped
	// HangP is the chance that a read is not answered for HangFor; 0 means not before Close.
	HangP   float64
	HangFor time.Duration
	// Faults are those of chosen places, in any number; of those that a read touches, the first
	// whose Times are not used up befalls it, besides what chance brings.
	Faults []SimFault
	// Devices says on which device each file is; nil means that all are on one, or, for OpenSim, on
	// the devices on which they are.
	Devices []uint64
	// RealTime lets the times pass by the clock on the wall. Without it the store has a clock of
	// its own that jumps to the next event as soon as nothing can be started: delays of seconds
	// and Options.Timeout cost no time.
	RealTime bool
}

// SimFault befalls reads that touch bytes [Offset, Offset+Length) of a file; a Length of 0 means
// one byte.
type SimFault struct {
	File           int
	Offset, Length int64
	Kind           SimFaultKind
	Bit            uint8         // SimFlip: which bit of the byte at Offset
	Delay          time.Duration // SimDelay: on top; SimHang: as HangFor
	Times          int           // how many reads it befalls; 0 means all
}

// SimFaultKind is what a fault does.
type SimFaultKind uint8

// The kinds of faults.
const (
	SimEIO   SimFaultKind = iota // the read fails
	SimFlip                      // one bit is wrong
	SimShort                     // only bytes before Offset are read, or one byte
	SimDelay                     // the read takes longer
	SimHang                      // the read is not answered
)

// Faults counts what a simulated store did.
type Faults struct {
	Slow, Short, Interrupted, Errors, Truncated, Corrupted, Hung int64
}

// faultCounts is Faults while it is being counted.
type faultCounts struct {
	slow, short, interrupted, errs, truncated, corrupted, hung atomic.Int64
}

// check refuses options that make no sense.
func (o *SimOptions) check(files int) error {
	for _, p := range [...]float64{o.SlowP, o.ShortP, o.InterruptP, o.ErrorP, o.TruncateP,
		o.CorruptP, o.HangP} {
		if !(p >= 0 && p <= 1) {
			return usageError("simulated store: a probability of %v", p)
		}
	}
	if o.LatencyMin < 0 || o.LatencyMax < 0 || o.Slow < 0 || o.HangFor < 0 ||
		!(o.BytesPerSecond >= 0) {
		return usageError("simulated store: negative time or speed")
	}
	if o.Devices != nil && len(o.Devices) != files {
		return usageError("simulated store: devices of %d files, there are %d", len(o.Devices),
			files)
	}
	for _, f := range o.Faults {
		if f.File < 0 || f.File >= files || f.Offset < 0 || f.Length < 0 || f.Bit > 7 ||
			f.Kind > SimHang || f.Delay < 0 || f.Times < 0 {
			return usageError("simulated store: fault %+v", f)
		}
	}
	return nil
}

// touches says whether a read of n bytes at the offset meets the fault.
func (f *SimFault) touches(file int, offset int64, n int) bool {
	return file == f.File && offset < f.Offset+max(f.Length, 1) && offset+int64(n) > f.Offset
}

// String says what the options are, for Info.
func (o SimOptions) String() string {
	type plain SimOptions // without this method
	return fmt.Sprintf("%+v", plain(o))
}

// draw is a random sequence that belongs to one read: splitmix64 (Steele, Lea, Flood: "Fast
// splittable pseudorandom number generators", 2014).
type draw uint64

func newDraw(values ...uint64) draw {
	var d draw
	for _, v := range values {
		d = draw(uint64(d) ^ v)
		d = draw(d.next())
	}
	return d
}

func (d *draw) next() uint64 {
	*d += 0x9E3779B97F4A7C15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// below returns a number under n.
func (d *draw) below(n uint64) uint64 { return d.next() % n }

// chance is true with probability p.
func (d *draw) chance(p float64) bool { return float64(d.next()>>11)/(1<<53) < p }
