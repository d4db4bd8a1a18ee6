package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
)

// sourceBufferBytes is the read-ahead of a header reader.
const sourceBufferBytes = 16 << 10

// source reads the little-endian primitives of a GGUF header in order. It knows its position and
// the size of the file, and refuses any length that the rest of the file cannot hold before memory
// is taken for it. The first failure sticks: later reads return zero values.
type source struct {
	r      *bufio.Reader
	file   string
	tensor string // named in errors while a tensor's entry is read
	pos    int64
	size   int64 // of the file
	err    error
}

// newSource reads size bytes of r; file is used in errors only.
func newSource(r io.ReaderAt, size int64, file string) *source {
	section := io.NewSectionReader(r, 0, size)
	return &source{r: bufio.NewReaderSize(section, sourceBufferBytes), file: file, size: size}
}

// remaining is what the header may still take: of the file, and of the header limit.
func (s *source) remaining() int64 {
	return min(s.size, ggufHeaderBytesMax) - s.pos
}

// fail records the first failure, as malformed bytes at an offset.
func (s *source) fail(offset int64, advice, format string, args ...any) {
	if s.err == nil {
		s.err = formatError(s.file, s.tensor, offset, advice, format, args...)
	}
}

// need checks that n more bytes are there, before anything is read or allocated for them.
func (s *source) need(n uint64, what string) bool {
	if s.err != nil {
		return false
	}
	if left := uint64(max(s.remaining(), 0)); n > left {
		if s.size > ggufHeaderBytesMax && n <= uint64(s.size-s.pos) {
			s.fail(s.pos, adviceInvalid, "%s: the header is longer than the limit of %d bytes",
				what, int64(ggufHeaderBytesMax))
		} else {
			s.fail(s.pos, adviceDamaged, "%s needs %d bytes, but only %d remain", what, n, left)
		}
		return false
	}
	return true
}

// peek returns the next n bytes (n <= sourceBufferBytes), valid until the next read, and steps over
// them. It returns nil after a failure.
func (s *source) peek(n int, what string) []byte {
	if !s.need(uint64(n), what) {
		return nil
	}
	b, err := s.r.Peek(n)
	if err != nil {
		s.readFailed(what, err)
		return nil
	}
	s.skipBuffered(n)
	s.pos += int64(n)
	return b
}

// skipBuffered discards bytes that Peek has shown to be buffered, which cannot fail.
func (s *source) skipBuffered(n int) { _, _ = s.r.Discard(n) }

// readFailed tells a file that became shorter from a failing device.
func (s *source) readFailed(what string, cause error) {
	if errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF) {
		s.fail(s.pos, adviceDamaged, "%s: the file ended while it was read", what)
		return
	}
	if s.err == nil {
		s.err = &Error{File: s.file, Tensor: s.tensor, Offset: s.pos, Reason: "reading " + what,
			Kind: ErrIO, Cause: cause}
	}
}

func (s *source) u8(what string) uint8 {
	if b := s.peek(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (s *source) u16(what string) uint16 {
	if b := s.peek(2, what); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (s *source) u32(what string) uint32 {
	if b := s.peek(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (s *source) u64(what string) uint64 {
	if b := s.peek(8, what); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (s *source) f32(what string) float32 { return math.Float32frombits(s.u32(what)) }
func (s *source) f64(what string) float64 { return math.Float64frombits(s.u64(what)) }

// flag reads a bool, which must be 0 or 1.
func (s *source) flag(what string) bool {
	at := s.pos
	b := s.u8(what)
	if b > 1 {
		s.fail(at, adviceDamaged, "%s: bool of value %d", what, b)
	}
	return b == 1
}

// str reads a string of at most limit bytes: a 64-bit length, then the bytes.
func (s *source) str(limit uint64, what string) string {
	at := s.pos
	n := s.u64(what)
	if s.err != nil {
		return ""
	}
	if n > limit {
		s.fail(at, adviceDamaged, "%s: string of %d bytes, over the limit of %d", what, n, limit)
		return ""
	}
	if n <= sourceBufferBytes {
		return string(s.peek(int(n), what))
	}
	if !s.need(n, what) {
		return ""
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(s.r, b); err != nil {
		s.readFailed(what, err)
		return ""
	}
	s.pos += int64(n)
	return string(b)
}

// count reads a 64-bit number of things that take at least bytesMin bytes each in what follows.
func (s *source) count(bytesMin, limit uint64, what string) int {
	at := s.pos
	n := s.u64(what)
	if s.err != nil {
		return 0
	}
	if left := uint64(max(s.remaining(), 0)); n > left/bytesMin {
		s.fail(at, adviceDamaged, "%s is %d, of at least %d bytes each, but only %d bytes remain",
			what, n, bytesMin, left)
		return 0
	}
	if n > limit {
		s.fail(at, adviceInvalid, "%s is %d, over the limit of %d", what, n, limit)
		return 0
	}
	return int(n)
}
