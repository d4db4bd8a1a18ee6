package core

import (
	"fmt"
	"sync"
)

// Kind says what a handle is for; a handle of one kind is none of another.
type Kind uint8

// The kinds of handle.
const (
	KindEngine Kind = iota + 1
	KindSession
	KindBatch
)

func (k Kind) String() string {
	return [...]string{"handle", "engine", "session", "batch"}[k&3]
}

// A handle is a number that looks like no address: bit 63 set and the next 15 not, then the
// generation of its slot, the kind, and the slot. A closed handle is known to be closed until its
// slot has been used generationMax times more.
const (
	slotBits      = 20
	kindBits      = 2
	generationMax = 1<<26 - 1
	handleMark    = uint64(1) << 63
	slotsMax      = 1 << slotBits
)

// Table finds the values behind handles. It is safe for concurrent use.
type Table[T any] struct {
	kind Kind

	mu    sync.RWMutex
	slots []slot[T]
	free  []uint32
}

type slot[T any] struct {
	generation uint64
	used       bool
	value      T
}

// NewTable makes an empty table for handles of one kind.
func NewTable[T any](kind Kind) *Table[T] { return &Table[T]{kind: kind} }

// Add returns a handle for v.
func (t *Table[T]) Add(v T) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.free) == 0 {
		if len(t.slots) == slotsMax {
			return 0, fmt.Errorf("%w: %d open handles", ErrBusy, slotsMax)
		}
		t.slots = append(t.slots, slot[T]{})
		t.free = append(t.free, uint32(len(t.slots)-1))
	}
	i := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	s := &t.slots[i]
	s.generation = s.generation%generationMax + 1
	s.used, s.value = true, v
	handle := s.generation<<(slotBits+kindBits) | uint64(t.kind)<<slotBits | uint64(i)
	return handleMark | handle, nil
}

// Get returns the value of a handle, or an error that wraps ErrHandle.
func (t *Table[T]) Get(handle uint64) (T, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s, err := t.find(handle)
	if err != nil {
		var none T
		return none, err
	}
	return s.value, nil
}

// Take is Get that closes the handle; of several concurrent calls one succeeds.
func (t *Table[T]) Take(handle uint64) (v T, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.find(handle)
	if err != nil {
		return v, err
	}
	v, s.value, s.used = s.value, v, false
	t.free = append(t.free, uint32(handle&(slotsMax-1)))
	return v, nil
}

// Len is the number of open handles.
func (t *Table[T]) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.slots) - len(t.free)
}

func (t *Table[T]) find(handle uint64) (*slot[T], error) {
	i := handle & (slotsMax - 1)
	kind := Kind(handle >> slotBits & (1<<kindBits - 1))
	generation := handle &^ handleMark >> (slotBits + kindBits)
	if handle&handleMark == 0 || kind != t.kind || i >= uint64(len(t.slots)) {
		return nil, fmt.Errorf("%w: %#x was never a handle of kind %v", ErrHandle, handle, t.kind)
	}
	s := &t.slots[i]
	if !s.used || s.generation != generation {
		return nil, fmt.Errorf("%w: the %v has been closed", ErrHandle, t.kind)
	}
	return s, nil
}
