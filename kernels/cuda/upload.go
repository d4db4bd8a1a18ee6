//go:build cgo

package cuda

import (
	"github.com/moering/moering/kernels"
)

const (
	// uploadBytesLeast is the size of a stream's upload area at first: the lists of a few layers.
	uploadBytesLeast = 1 << 20
	// scratchBytesLeast is the least scratch memory that a stream takes at a time.
	scratchBytesLeast = 1 << 20
	areaAlign         = 64
	// fetchBytesMax is the longest list that a kernel fetches from host memory.
	fetchBytesMax = 64 << 10
)

// uploads is a ring of locked host memory with a twin on the device: lists of the host go through it
// to kernels, in the stream's order. Positions count up for ever; position p lies at p mod size. What
// lies before tail may be overwritten.
type uploads struct {
	host, device *kernels.Buffer
	size         int64
	head, tail   int64
	marked       int64 // head at the last mark
	marks        []uploadMark
}

// uploadMark says that memory up to a position is free once a mark has passed.
type uploadMark struct {
	seq uint64
	at  int64
}

// place returns where n bytes would lie: at the head, or past the ring's end if they do not fit
// before it; false where the ring is too full.
func (u *uploads) place(n int64) (int64, bool) {
	at := u.head
	if rest := u.size - at%max(u.size, 1); rest < n {
		at += rest
	}
	return at, u.size > 0 && at+n-u.tail <= u.size
}

// mark remembers what a mark of the stream guards.
func (u *uploads) mark(seq uint64) {
	if u.head != u.marked {
		u.marks = append(u.marks, uploadMark{seq, u.head})
		u.marked = u.head
	}
}

// retire frees what marks up to done guarded.
func (u *uploads) retire(done uint64) {
	n := 0
	for n < len(u.marks) && u.marks[n].seq <= done {
		u.tail = u.marks[n].at
		n++
	}
	u.marks = u.marks[:copy(u.marks, u.marks[n:])]
}

// zero returns the int32 zeros behind the area on the device: the index of the row that is fetched.
func (u *uploads) zero() kernels.Span { return u.device.All().Slice(u.size, areaAlign) }

func (u *uploads) close() error {
	err := freeBuffer(u.host)
	if e := freeBuffer(u.device); err == nil {
		err = e
	}
	*u = uploads{}
	return err
}

// reserve returns n bytes of the upload area, and their place on the device, until the stream has
// passed what is enqueued next. It waits where the area is full of work under way, and makes a larger
// one where it is too small. n 0 gives nothing.
func (s *stream) reserve(n int64) ([]byte, kernels.Span, error) {
	n = (n + areaAlign - 1) &^ (areaAlign - 1)
	if n == 0 {
		return nil, kernels.Span{}, nil
	}
	if n > s.uploads.size {
		if err := s.growUploads(n); err != nil {
			return nil, kernels.Span{}, err
		}
	}
	at, ok := s.uploads.place(n)
	for ; !ok; at, ok = s.uploads.place(n) {
		if len(s.uploads.marks) == 0 {
			s.record()
		}
		if len(s.uploads.marks) > 0 {
			s.await(s.uploads.marks[0].seq)
		}
		if err := s.open(); err != nil {
			return nil, kernels.Span{}, err
		}
	}
	s.uploads.head = at + n
	from := at % s.uploads.size
	host := s.uploads.host.Host[from : from+n : from+n]
	s.dev.hostWrites(host)
	return host, s.uploads.device.All().Slice(from, n), nil
}

// growUploads replaces the upload area by one that holds n bytes several times.
func (s *stream) growUploads(n int64) error {
	if err := s.settle(); err != nil {
		return err
	}
	const several = 4
	size := roundUp(several*n, uploadBytesLeast)
	err := s.uploads.close()
	if err != nil {
		return err
	}
	host, err := s.dev.Pin(size)
	if err != nil {
		return err
	}
	if !host.Locked {
		_ = host.Free()
		return s.dev.errUnlocked(size)
	}
	device, err := s.dev.Alloc(size + areaAlign)
	if err != nil {
		_ = host.Free()
		return err
	}
	s.uploads = uploads{host: host, device: device, size: size}
	return nil
}

// growScratch sees that the scratch memory has n bytes. The old one goes once its last op has run.
func (s *stream) growScratch(n int64) error {
	if n == 0 || s.scratch != nil && n <= s.scratch.Bytes {
		return nil
	}
	if err := s.settle(); err != nil {
		return err
	}
	old := s.scratch
	s.scratch = nil // gone, whatever the driver says
	if err := freeBuffer(old); err != nil {
		return err
	}
	b, err := s.dev.Alloc(roundUp(n+n/4, scratchBytesLeast))
	if err != nil { // the margin may be what does not fit
		b, err = s.dev.Alloc(n)
	}
	if err != nil {
		return err
	}
	s.scratch = b
	return nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
