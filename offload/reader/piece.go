package reader

import (
	"errors"
	"io"
	"sync/atomic"
	"syscall"
	"time"
)

// retriesMax bounds the reads of one piece that were interrupted (EINTR, EAGAIN) or brought less
// than one block: far more than any signal storm, and still no endless loop.
const retriesMax = 64

// piece is a part of a request that is read on its own: Buf[lo:hi]. It has a place in the queue and
// is used again. What reading changes belongs to the goroutine that reads it.
type piece struct {
	id, align int32 // never change
	lane      int32

	request  *Request // nil in a free place; guarded by the queue's mutex
	stranded bool     // ran out of time; guarded by the queue's mutex
	expired  atomic.Bool
	started  time.Time

	lo, hi  int
	need    int // bytes from lo that must arrive
	got     int // bytes from lo that have arrived, without a gap
	reads   int // issued for this piece so far
	retries int
	shorts  int
}

// begin takes the place for Buf[lo:hi] of a request.
func (p *piece) begin(r *Request, lo, hi, need int, now time.Time) {
	p.request, p.lo, p.hi, p.need, p.started = r, lo, hi, need, now
	p.got, p.reads, p.retries, p.shorts = 0, 0, 0, 0
	p.expired.Store(false)
}

// start is where in the piece the next read begins: direct reads begin at whole blocks, so the
// beginning of a block of which a part has arrived is read again.
func (p *piece) start() int { return p.got &^ (int(p.align) - 1) }

// target is the memory and the file offset of the next read.
func (p *piece) target() (buf []byte, offset int64) {
	from := p.lo + p.start()
	return p.request.Buf[from:p.hi], p.request.Offset + int64(from)
}

// advance takes in the result of the read that target described: n bytes, or err. It decides what
// follows, for every implementation alike: again asks for another read of the new target; otherwise
// the piece is over, well if cause is nil.
func (p *piece) advance(n int, err error) (again bool, cause error) {
	p.reads++
	if err != nil {
		if errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EAGAIN) {
			return p.retry(err)
		}
		return false, err
	}
	start := p.start()
	if n < 0 || n > p.hi-p.lo-start {
		return false, errNoProgress // the system claims more bytes than there is room for
	}
	p.got = max(p.got, start+n)
	switch {
	case p.got >= p.need:
		return false, nil
	case n == 0:
		return false, io.ErrUnexpectedEOF
	case p.start() == start:
		return p.retry(io.ErrUnexpectedEOF) // a cut block: as a rule the end of the file
	}
	p.shorts++
	return true, nil
}

// retry asks for the read again, until there were too many.
func (p *piece) retry(cause error) (bool, error) {
	if p.retries >= retriesMax {
		return false, cause
	}
	p.retries++
	return true, nil
}

// failure describes a piece that ended with cause.
func (p *piece) failure(file string, cause error) error {
	return &Error{File: file, Label: p.request.Label, Cause: cause,
		Offset: p.request.Offset + int64(p.lo+p.got), Bytes: p.need - p.got}
}

// pieceBytes is the size of the pieces, multiples of align and at most chunk, into which total
// bytes are cut: as equal as can be, since a small rest costs as much latency as a whole piece.
func pieceBytes(total, chunk, align int) int {
	n := (total + chunk - 1) / chunk
	return roundUp((total+n-1)/n, align)
}

// roundUp rounds up to a multiple of align, a power of two.
func roundUp(n, align int) int { return (n + align - 1) &^ (align - 1) }
