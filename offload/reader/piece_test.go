package reader

import (
	"errors"
	"io"
	"syscall"
	"testing"
)

func TestPiecesAreEvenAndAlignedAndNeverTooLarge(t *testing.T) {
	for _, c := range [][4]int{ // total, chunk, align, piece
		{4096, 1 << 20, 4096, 4096}, {1 << 20, 1 << 20, 4096, 1 << 20},
		{1<<20 + 4096, 1 << 20, 4096, 129 * 4096}, {3 << 20, 1 << 20, 512, 1 << 20},
		{5 * 4096, 8192, 4096, 8192}, {5 * 512, 1024, 512, 1024},
	} {
		if got := pieceBytes(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("pieceBytes(%d, %d, %d) = %d, want %d", c[0], c[1], c[2], got, c[3])
		}
	}
	for total := 4096; total < 200*4096; total += 4096 {
		for chunk := 4096; chunk < 20*4096; chunk += 4096 {
			if n := pieceBytes(total, chunk, 4096); n > chunk || n < 4096 || n%4096 != 0 {
				t.Fatalf("pieceBytes(%d, %d) = %d", total, chunk, n)
			}
		}
	}
}

// step is the answer to one read, and what must follow: the file offset of the next read, or -1.
type step struct {
	n    int
	err  error
	next int64
}

func TestShortAndInterruptedReadsAreContinuedAtWholeBlocks(t *testing.T) {
	const base = 1 << 20
	for name, c := range map[string]struct {
		need   int
		steps  []step
		failed error
	}{
		"at once":          {16384, []step{{16384, nil, -1}}, nil},
		"whole blocks":     {16384, []step{{4096, nil, base + 4096}, {12288, nil, -1}}, nil},
		"part of a block":  {16384, []step{{5000, nil, base + 4096}, {12288, nil, -1}}, nil},
		"tail of the file": {9000, []step{{9000, nil, -1}}, nil},
		"beyond the need":  {9000, []step{{12288, nil, -1}}, nil},
		"interrupted":      {16384, []step{{0, syscall.EINTR, base}, {16384, nil, -1}}, nil},
		"busy":             {16384, []step{{0, syscall.EAGAIN, base}, {16384, nil, -1}}, nil},
		"interrupted later": {16384, []step{{8192, nil, base + 8192},
			{0, syscall.EINTR, base + 8192}, {8192, nil, -1}}, nil},
		"broken disk":    {16384, []step{{4096, nil, base + 4096}, {0, syscall.EIO, -1}}, syscall.EIO},
		"end":            {16384, []step{{4096, nil, base + 4096}, {0, nil, -1}}, io.ErrUnexpectedEOF},
		"too many bytes": {16384, []step{{16385, nil, -1}}, errNoProgress},
		"negative":       {16384, []step{{-1, nil, -1}}, errNoProgress},
	} {
		r := &Request{Offset: base - 4096, Buf: make([]byte, 20480)}
		p := piece{request: r, lo: 4096, hi: 20480, need: c.need, align: 4096}
		for i, s := range c.steps {
			again, cause := p.advance(s.n, s.err)
			if again != (s.next >= 0) {
				t.Fatalf("%s, step %d: again is %v", name, i, again)
			}
			if again {
				if _, offset := p.target(); offset != s.next || cause != nil {
					t.Fatalf("%s, step %d: next at %d, want %d (%v)", name, i, offset, s.next, cause)
				}
			} else if !errors.Is(cause, c.failed) || (cause == nil) != (c.failed == nil) {
				t.Fatalf("%s: %v, want %v", name, cause, c.failed)
			}
		}
	}
}

func TestRetriesAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		n   int
		err error
	}{"interruptions": {0, syscall.EINTR}, "no progress": {100, nil}} {
		p := piece{request: &Request{Buf: make([]byte, 8192)}, hi: 8192, need: 8192, align: 4096}
		count := 0
		for again := true; again && count < 10*retriesMax; count++ {
			again, _ = p.advance(c.n, c.err)
		}
		if count != retriesMax+1 {
			t.Errorf("%s: %d reads", name, count)
		}
	}
}
