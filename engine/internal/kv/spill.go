package kv

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/moering/moering/kernels"
)

// ErrSpill is returned when pages that were moved out cannot be had again, or cannot be moved out for
// another reason than want of room: their positions must be computed again.
var ErrSpill = errors.New("keys and values cannot be moved")

// spillAlign is what direct I/O wants of offsets, lengths and addresses.
const spillAlign = 4096

// SpillOptions say how much may lie outside the pool, and where.
type SpillOptions struct {
	Memory int64  // bytes of page-locked host memory
	Disk   int64  // bytes of a file without a name, which ends with the process however that ends
	Dir    string // where the file is made; "": where temporary files are
	Direct bool   // bypass the page cache, where the file system allows it
}

// Spill keeps pages of sequences outside the pool, in host memory first and then in a file, so that
// a sequence can give its memory to others and go on later, to the bit. Its methods may be called by
// several goroutines, one at a time.
type Spill struct {
	pool   *Pool
	slot   int64           // bytes of a page, rounded up
	memory *kernels.Buffer // the first slots
	stage  *kernels.Buffer // a page on its way to or from the file; it has room to be aligned
	host   kernels.Span    // the aligned part of stage
	copy   kernels.Stream

	mu     sync.Mutex
	pools  [2]slotPool // of memory, which is used first, and of the file
	file   spillFile
	open   func() (spillFile, error) // makes the file, which happens when it is first needed
	failed error                     // of the file: no more goes there
	moved  int64
}

// slotPool hands out the slots of one kind of memory.
type slotPool struct {
	first, fresh, end int32 // of all; from fresh on none was ever used
	free              []int32
}

func (p *slotPool) used() int { return int(p.fresh-p.first) - len(p.free) }

func (p *slotPool) room() int { return int(p.end-p.fresh) + len(p.free) }

func (p *slotPool) take() (slot int32) {
	if last := len(p.free) - 1; last >= 0 {
		slot, p.free = p.free[last], p.free[:last]
		return slot
	}
	p.fresh++
	return p.fresh - 1
}

// spillFile is the part of os.File that pages go to; tests let it fail.
type spillFile interface {
	WriteAt(b []byte, offset int64) (int, error)
	ReadAt(b []byte, offset int64) (int, error)
	Close() error
}

// Spilled are the pages of one sequence that lie outside the pool.
type Spilled struct {
	Len   int // positions
	slots []int32
	sums  []uint64 // of the pages, so that a page that came back different is noticed
}

// NewSpill takes the memory; the file is made when it is first needed.
func NewSpill(d kernels.Device, p *Pool, o SpillOptions) (s *Spill, err error) {
	slot := (p.KV.PageBytes + spillAlign - 1) / spillAlign * spillAlign
	memory, disk := slots(o.Memory, slot), slots(o.Disk, slot)
	s = &Spill{pool: p, slot: slot, pools: [2]slotPool{{end: memory},
		{first: memory, fresh: memory, end: memory + disk}}}
	s.open = func() (spillFile, error) { return unnamedFile(o.Dir, o.Direct) }
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.copy, err = d.NewStream("spill"); err != nil {
		return s, err
	}
	if memory > 0 {
		if s.memory, err = d.Pin(int64(memory) * slot); err != nil {
			return s, err
		}
	}
	if s.stage, err = d.Pin(slot + spillAlign); err != nil {
		return s, err
	}
	skip := -int64(s.stage.Addr) & (spillAlign - 1)
	s.host = s.stage.All().Slice(skip, slot)
	return s, nil
}

// spillSlotsMax keeps the numbers of slots in their type.
const spillSlotsMax = 1 << 30

func slots(bytes, slot int64) int32 { return int32(min(bytes/slot, spillSlotsMax)) }

// Close frees memory and file; what lies there is gone.
func (s *Spill) Close() error {
	var errs []error
	if s.file != nil {
		errs = append(errs, s.file.Close())
	}
	if s.copy != nil {
		errs = append(errs, s.copy.Close())
	}
	for _, b := range []*kernels.Buffer{s.memory, s.stage} {
		if b != nil {
			errs = append(errs, b.Free())
		}
	}
	s.file, s.copy, s.memory, s.stage = nil, nil, nil, nil
	return errors.Join(errs...)
}

// Room is how many pages can be moved out.
func (s *Spill) Room() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.room()
}

func (s *Spill) room() int {
	n := s.pools[0].room()
	if s.failed == nil {
		n += s.pools[1].room()
	}
	return n
}

// Used is how many pages lie outside.
func (s *Spill) Used() (pages int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.pools {
		pages += s.pools[i].used()
	}
	return pages
}

// Moved is the bytes that were moved out and in so far.
func (s *Spill) Moved() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moved
}

// Out copies the pages of a sequence out of the pool; the caller then closes it. No pass that writes
// to it may be running. ErrFull: there is no room; ErrSpill: the file failed, of which the first
// failure is told and after which only host memory is used. On an error nothing has changed.
func (s *Spill) Out(q *Sequence) (*Spilled, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := Pages(q.Len)
	if n > s.room() {
		return nil, ErrFull
	}
	x := &Spilled{Len: q.Len}
	for _, page := range q.pages[:n] {
		slot := s.take()
		x.slots = append(x.slots, slot)
		sum, err := s.write(slot, page)
		if err != nil {
			s.drop(x)
			return nil, err
		}
		x.sums = append(x.sums, sum)
	}
	return x, nil
}

// In copies pages from the given one on back into a sequence that has room for them (Grow), and sets
// its length; pages before that it has already. The slots stay taken until Drop. On an error, which
// wraps ErrSpill, the sequence's length is unchanged.
func (s *Spill) In(x *Spilled, q *Sequence, from int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := from; i < len(x.slots); i++ {
		if err := s.read(x.slots[i], q.pages[i], x.sums[i]); err != nil {
			return err
		}
	}
	q.Len = x.Len
	return nil
}

// Drop gives up what was moved out; nil is nothing.
func (s *Spill) Drop(x *Spilled) {
	if x == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(x)
}

func (s *Spill) drop(x *Spilled) {
	for _, slot := range x.slots {
		p := &s.pools[0]
		if !s.inMemory(slot) {
			p = &s.pools[1]
		}
		p.free = append(p.free, slot)
	}
	x.slots, x.sums = nil, nil
}

func (s *Spill) inMemory(slot int32) bool { return slot < s.pools[1].first }

// take returns a free slot, of memory if there is one. The caller has made sure that there is one.
func (s *Spill) take() int32 {
	if s.pools[0].room() > 0 {
		return s.pools[0].take()
	}
	return s.pools[1].take()
}

// page is a page's bytes in the pool, place its slot's in host memory.
func (s *Spill) page(page int32) kernels.Span {
	return s.pool.KV.Pool.Slice(int64(page)*s.pool.KV.PageBytes, s.pool.KV.PageBytes)
}

func (s *Spill) place(slot int32) kernels.Span {
	if s.inMemory(slot) {
		return s.memory.All().Slice(int64(slot)*s.slot, s.pool.KV.PageBytes)
	}
	return s.host.Slice(0, s.pool.KV.PageBytes)
}

func (s *Spill) offset(slot int32) int64 { return int64(slot-s.pools[1].first) * s.slot }

// write copies a page to a slot.
func (s *Spill) write(slot, page int32) (sum uint64, err error) {
	at := s.place(slot)
	s.copy.Copy(at, s.page(page))
	if err := s.copy.Sync(); err != nil {
		return 0, err
	}
	sum = xxh3.Hash(at.Host())
	if s.inMemory(slot) {
		s.moved += s.pool.KV.PageBytes
		return sum, nil
	}
	if s.file == nil {
		if s.file, err = s.open(); err != nil {
			s.file = nil
		}
	}
	if err == nil {
		_, err = s.file.WriteAt(s.host.Host(), s.offset(slot))
	}
	if err != nil {
		s.failed = fmt.Errorf("%w: the file for them: %w", ErrSpill, err)
		return 0, s.failed
	}
	s.moved += s.pool.KV.PageBytes
	return sum, nil
}

// read copies a slot to a page, unless it is not what was written there.
func (s *Spill) read(slot, page int32, sum uint64) error {
	at := s.place(slot)
	if !s.inMemory(slot) {
		if _, err := s.file.ReadAt(s.host.Host(), s.offset(slot)); err != nil {
			return fmt.Errorf("%w: the file for them: %w", ErrSpill, err)
		}
	}
	if xxh3.Hash(at.Host()) != sum {
		return fmt.Errorf("%w: a page came back changed", ErrSpill)
	}
	s.moved += s.pool.KV.PageBytes
	s.copy.Copy(s.page(page), at)
	return s.copy.Sync()
}

// Pages is how many pages the sequence holds.
func (s *Sequence) Pages() int { return len(s.pages) }

// namedFile is a temporary file whose name is removed at once, or where the system does not remove
// the names of open files, when it is closed.
func namedFile(dir string) (spillFile, error) {
	f, err := os.CreateTemp(dir, "moering-*.kv")
	if err != nil {
		return nil, err
	}
	if os.Remove(f.Name()) == nil {
		return f, nil
	}
	return removedFile{f}, nil
}

type removedFile struct{ *os.File }

func (f removedFile) Close() error { return errors.Join(f.File.Close(), os.Remove(f.Name())) }
