package reader

import (
	"errors"
	"fmt"
)

// The kinds of failure. Every error of this package wraps exactly one of them.
var (
	// ErrIO: the system could not give the bytes; *Error says where.
	ErrIO = errors.New("read failed")
	// ErrClosed: the reader was closed before the request was read.
	ErrClosed = errors.New("reader is closed")
	// ErrUsage: a request or an option that makes no sense.
	ErrUsage = errors.New("wrong use of reader")
	// ErrUnsupported: this system does not offer the kind of reader that was asked for.
	ErrUnsupported = errors.New("reader not available")
)

// errNoProgress is the cause when reads keep returning less than one block.
var errNoProgress = errors.New("reads make no progress")

// Error is a failed read: which file, which bytes, what for, and why. It wraps ErrIO and its cause;
// a file that ends early has the cause io.ErrUnexpectedEOF.
type Error struct {
	File   string
	Label  string // of the request
	Offset int64  // in the file, of the first byte that did not arrive
	Bytes  int    // that were still wanted there
	Cause  error
}

// Error renders the failure on one line.
func (e *Error) Error() string {
	label := ""
	if e.Label != "" {
		label = fmt.Sprintf(" for %q", e.Label)
	}
	return fmt.Sprintf("reader: %s: read of %d bytes%s at byte %d: %v",
		e.File, e.Bytes, label, e.Offset, e.Cause)
}

// Unwrap gives the kind and the cause to errors.Is and errors.As.
func (e *Error) Unwrap() []error { return []error{ErrIO, e.Cause} }

// usageError reports a call that makes no sense.
func usageError(format string, args ...any) error {
	return fmt.Errorf("reader: %w: %s", ErrUsage, fmt.Sprintf(format, args...))
}
