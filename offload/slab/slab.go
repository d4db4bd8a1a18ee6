// Package slab divides one host arena into reference-counted slabs of a few fixed sizes.
//
// Reads land in slabs, copies to devices leave from them, and the host cache is made of them. The
// number of slabs is fixed at New: it, and no policy above, is the bound on memory. The package
// knows nothing of devices or files; the arena is the caller's, page-locked as a rule.
package slab

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/moering/moering/internal/invariants"
)

// Align is the alignment in bytes of every slab's address, offset and size: a page, and a multiple
// of what direct reads ask for on the disks known (512 or 4096).
const Align = 4096

// slabsMax bounds the slabs of one pool, so that an index fits in 32 bits.
const slabsMax = math.MaxInt32

// ErrUsage: New was called with classes or an arena that make no pool.
var ErrUsage = errors.New("wrong use of slab")

// ErrLeak: Close found slabs that were not released.
var ErrLeak = errors.New("slabs leaked")

// Class is a number of slabs of one size.
type Class struct {
	Bytes int64 // of one slab; rounded up to a multiple of Align
	Count int
}

// Stats counts the slabs of one class, or of all.
type Stats struct {
	Bytes int64 // of one slab; for a pool as a whole, of all slabs together
	Count int   // Free + InUse
	Free  int
	InUse int
	Peak  int // most that were in use at once
}

// Pool is the set of slabs. All methods are safe for concurrent use; Get and Release allocate
// nothing.
type Pool struct {
	arena   []byte
	mu      sync.Mutex // guards the classes' free lists and counts, inUse, peak and closed
	classes []class
	inUse   int
	peak    int
	closed  bool
}

// class is the slabs of one size; free is a stack, so that the slab used last, whose pages and TLB
// entries are warm, is used next.
type class struct {
	bytes int64
	slabs []Slab
	free  []int32
	peak  int
}

// Slab is a piece of the arena. It is born with one reference by Get; the last Release gives it
// back. Methods are safe for concurrent use by holders of references.
type Slab struct {
	pool   *Pool
	data   []byte
	offset int64
	class  int32
	index  int32
	refs   atomic.Int32
}

// ArenaBytes is the size of the arena that New needs for the classes. It is negative if a class is
// not valid or the sum overflows.
func ArenaBytes(classes []Class) int64 {
	var total int64
	for _, c := range classes {
		bytes := roundUp(c.Bytes)
		if bytes <= 0 || c.Count < 0 || c.Count > slabsMax {
			return -1
		}
		if c.Count > 0 && bytes > (math.MaxInt64-total)/int64(c.Count) {
			return -1
		}
		total += bytes * int64(c.Count)
	}
	return total
}

// New divides the arena, whose first byte must be aligned to Align, into the classes in their
// order; bytes behind the last slab stay unused. The arena stays the caller's, who frees it after
// Close. Errors wrap ErrUsage.
func New(arena []byte, classes []Class) (*Pool, error) {
	need := ArenaBytes(classes)
	if need < 0 {
		return nil, fmt.Errorf("%w: invalid classes %v", ErrUsage, classes)
	}
	if need > int64(len(arena)) {
		return nil, fmt.Errorf("%w: the slabs need %d bytes, the arena has %d",
			ErrUsage, need, len(arena))
	}
	if uintptr(unsafe.Pointer(unsafe.SliceData(arena)))%Align != 0 {
		return nil, fmt.Errorf("%w: the arena is not aligned to %d bytes", ErrUsage, Align)
	}
	p := &Pool{arena: arena, classes: make([]class, len(classes))}
	offset := int64(0)
	for i, c := range classes {
		offset = p.carve(i, c, offset)
	}
	return p, nil
}

// carve makes class i from the arena at offset, and returns where the next class begins.
func (p *Pool) carve(i int, c Class, offset int64) int64 {
	k := class{bytes: roundUp(c.Bytes), slabs: make([]Slab, c.Count), free: make([]int32, c.Count)}
	for j := range k.slabs {
		s := &k.slabs[j]
		s.pool, s.offset, s.class, s.index = p, offset, int32(i), int32(j)
		s.data = p.arena[offset : offset+k.bytes : offset+k.bytes]
		invariants.Poison(s.data)
		k.free[j] = int32(c.Count - 1 - j) // the stack pops the lowest slab first
		offset += k.bytes
	}
	p.classes[i] = k
	return offset
}

// Get takes a free slab of the class, by its index in New, with one reference. It never blocks: nil
// says that none is free, that there is no such class, or that the pool is closed.
func (p *Pool) Get(classIndex int) *Slab {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || classIndex < 0 || classIndex >= len(p.classes) {
		return nil
	}
	c := &p.classes[classIndex]
	if len(c.free) == 0 {
		return nil
	}
	s := &c.slabs[c.free[len(c.free)-1]]
	c.free = c.free[:len(c.free)-1]
	if !s.refs.CompareAndSwap(0, 1) {
		panic("slab: a free slab has references")
	}
	c.peak = max(c.peak, len(c.slabs)-len(c.free))
	p.inUse++
	p.peak = max(p.peak, p.inUse)
	return s
}

// ClassFor returns the index of the smallest class whose slabs hold the bytes, or -1.
func (p *Pool) ClassFor(bytes int64) int {
	best := -1
	for i := range p.classes {
		c := &p.classes[i]
		if c.bytes >= bytes && (best < 0 || c.bytes < p.classes[best].bytes) {
			best = i
		}
	}
	return best
}

// Stats counts all slabs.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{InUse: p.inUse, Peak: p.peak}
	for i := range p.classes {
		c := &p.classes[i]
		s.Bytes += c.bytes * int64(len(c.slabs))
		s.Count += len(c.slabs)
	}
	s.Free = s.Count - s.InUse
	return s
}

// ClassStats counts the slabs of one class; zero for a class that is not there.
func (p *Pool) ClassStats(classIndex int) Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	if classIndex < 0 || classIndex >= len(p.classes) {
		return Stats{}
	}
	c := &p.classes[classIndex]
	return Stats{Bytes: c.bytes, Count: len(c.slabs), Free: len(c.free),
		InUse: len(c.slabs) - len(c.free), Peak: c.peak}
}

// Close ends the pool: Get gives nil from now on. Slabs that are still held are reported by an
// error that wraps ErrLeak and says how many of which class; they stay valid until released, so the
// caller must not free the arena then. It may be called again, and reports what is held by then.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.inUse == 0 {
		return nil
	}
	var b strings.Builder
	for i := range p.classes {
		c := &p.classes[i]
		if held := len(c.slabs) - len(c.free); held > 0 {
			fmt.Fprintf(&b, "; %d of %d slabs of %d bytes", held, len(c.slabs), c.bytes)
		}
	}
	return fmt.Errorf("slab: close: %w: %d still held%s", ErrLeak, p.inUse, b.String())
}

// Bytes is the slab's memory, valid while a reference is held.
func (s *Slab) Bytes() []byte { return s.data }

// Offset is where the slab begins in the arena, in bytes.
func (s *Slab) Offset() int64 { return s.offset }

// Class is the index of the slab's class in New.
func (s *Slab) Class() int { return int(s.class) }

// Index is the slab's number within its class, from 0.
func (s *Slab) Index() int { return int(s.index) }

// Retain adds a reference; the caller must hold one. It panics on a free slab.
func (s *Slab) Retain() {
	if s.refs.Add(1) <= 1 {
		panic("slab: retain of a free slab")
	}
}

// TryRetain adds a reference unless the slab is free, for holders of a pointer without a reference
// (a cache that publishes slabs). The slab may have been released and taken again for other bytes
// in between: the caller checks, after success, that it still holds what was wanted.
func (s *Slab) TryRetain() bool {
	for {
		n := s.refs.Load()
		if n <= 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Refs is the number of references at some moment, for tests and traces.
func (s *Slab) Refs() int { return int(s.refs.Load()) }

// Release drops a reference. The last one gives the slab back to its pool, poisoned in invariant
// builds. It panics if the slab is free already.
func (s *Slab) Release() {
	n := s.refs.Add(-1)
	if n > 0 {
		return
	}
	if n < 0 {
		panic("slab: release of a free slab")
	}
	invariants.Poison(s.data) // nobody can hold it: TryRetain fails, and it is not in the free list
	p := s.pool
	p.mu.Lock()
	c := &p.classes[s.class]
	c.free = append(c.free, s.index) // within capacity: every slab has one place
	p.inUse--
	p.mu.Unlock()
}

// roundUp rounds to a multiple of Align; not positive for what cannot be rounded.
func roundUp(n int64) int64 {
	if n <= 0 || n > math.MaxInt64-Align {
		return -1
	}
	return (n + Align - 1) &^ (Align - 1)
}
