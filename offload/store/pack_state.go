package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/xxh3"
)

// packStateBytesMax bounds the state that is read back: some 34 bytes a piece.
const packStateBytesMax = 64 << 20

// packState is the journal beside an unfinished file: a line that says of what content, then one a
// piece that is on disk, in order, with its checksum. A line carries a check of its own, so that a
// torn one, and all behind it, are not believed. The journal is locked while it is open.
type packState struct {
	file     *os.File
	identity string
	sums     []uint64 // of the pieces that are written
	flushed  int      // of them, how many are in the journal
	end      int64    // bytes of the journal that hold
}

// openPackState opens or makes the journal. sums are those of the same content, none if it is of
// another.
func openPackState(name, identity string) (*packState, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, ioError(name, "opening", err)
	}
	s := &packState{file: file, identity: identity}
	if err := lockFile(file); err != nil {
		err = usageError(name, "", "another process is packing to this target (%v)", err)
		return nil, errors.Join(err, file.Close())
	}
	text, err := io.ReadAll(io.LimitReader(file, packStateBytesMax))
	if err != nil {
		return nil, errors.Join(ioError(name, "reading", err), file.Close())
	}
	s.parse(text)
	return s, nil
}

func (s *packState) first() string { return "moering pack 1 " + s.identity + "\n" }

// line is the entry of a piece.
func (s *packState) line(piece int, sum uint64) string {
	check := xxh3.HashString(fmt.Sprintf("%s %d %016x", s.identity, piece, sum))
	return fmt.Sprintf("%016x %016x\n", sum, check)
}

// parse takes what holds of a journal.
func (s *packState) parse(text []byte) {
	rest, ok := bytes.CutPrefix(text, []byte(s.first()))
	if !ok {
		return
	}
	s.end = int64(len(s.first()))
	for {
		line, more, ok := bytes.Cut(rest, []byte("\n"))
		var sum uint64
		if n, err := fmt.Sscanf(string(line), "%x", &sum); !ok || n != 1 || err != nil {
			return
		}
		if want := s.line(len(s.sums), sum); string(line)+"\n" != want {
			return
		}
		s.sums = append(s.sums, sum)
		s.flushed++
		s.end += int64(len(line)) + 1
		rest = more
	}
}

// keep forgets all but the first n pieces, and cuts off what does not hold.
func (s *packState) keep(n int) error {
	if n < len(s.sums) || s.end == 0 {
		s.sums, s.flushed = s.sums[:n], n
		s.end = 0
		text := []byte(s.first())
		for piece, sum := range s.sums {
			text = append(text, s.line(piece, sum)...)
		}
		if err := s.file.Truncate(0); err != nil {
			return ioError(s.file.Name(), "emptying", err)
		}
		return s.append(text)
	}
	if err := s.file.Truncate(s.end); err != nil {
		return ioError(s.file.Name(), "setting the size", err)
	}
	return nil
}

// flush writes the pieces that are not in the journal yet. Their data is on disk.
func (s *packState) flush() error {
	var text []byte
	for piece := s.flushed; piece < len(s.sums); piece++ {
		text = append(text, s.line(piece, s.sums[piece])...)
	}
	if err := s.append(text); err != nil {
		return err
	}
	s.flushed = len(s.sums)
	return nil
}

func (s *packState) append(text []byte) error {
	_, err := s.file.WriteAt(text, s.end)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return ioError(s.file.Name(), "writing", err)
	}
	s.end += int64(len(text))
	return nil
}
