//go:build !linux

package reader

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// file is an open file to be read at offsets.
type file struct {
	name   string
	file   *os.File
	align  int
	direct bool
	reason string
	device uint64 // not known
	size   int64  // not known, as sparse: only direct reads are probed
	sparse bool
}

// openFile opens a file for buffered reads: direct ones are implemented for Linux alone.
func openFile(name string, buffered, _ bool) (file, error) {
	f := file{name: name, align: Align, reason: "direct reads are implemented for Linux alone"}
	if buffered {
		f.reason = "buffered reads were asked for"
	}
	var err error
	if f.file, err = os.Open(name); err != nil {
		return f, &Error{File: name, Cause: fmt.Errorf("open: %w", err)}
	}
	return f, nil
}

// readAt reads as pread does.
func (f *file) readAt(buf []byte, offset int64) (int, error) {
	n, err := f.file.ReadAt(buf, offset)
	if errors.Is(err, io.EOF) || n > 0 {
		err = nil
	}
	return n, err
}

// readCached cannot tell what is in the page cache.
func (f *file) readCached([]byte, int64) (int, error) { return 0, errNotCached }

func (f *file) closeCache() error { return nil }

// system is not known.
func (f *file) system() string { return "unknown" }

// mapMemory returns zeroed memory.
func mapMemory(bytes int) ([]byte, error) { return make([]byte, bytes), nil }

// unmapMemory leaves it to the collector.
func unmapMemory([]byte) {}

// close closes the file.
func (f *file) close() error { return f.file.Close() }
