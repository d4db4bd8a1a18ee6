package reader

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of failure. Every error of this package wraps ErrIO, ErrClosed, ErrUsage or
// ErrUnsupported; ErrTimeout and ErrStranded come on top.
var (
	// ErrIO: the system could not give the bytes; *Error says where.
	ErrIO = errors.New("read failed")
	// ErrClosed: the reader was closed before the request was read.
	ErrClosed = errors.New("reader is closed")
	// ErrUsage: a request or an option that makes no sense.
	ErrUsage = errors.New("wrong use of reader")
	// ErrUnsupported: this system does not offer the kind of reader that was asked for.
	ErrUnsupported = errors.New("reader not available")
	// ErrTimeout: a read was not answered within Options.Timeout. It comes with ErrIO.
	ErrTimeout = errors.New("no answer from the device")
	// ErrStranded: the request has ended, and the system may still write to its memory, which must
	// be neither used nor freed before Request.Released; from Close, that some memory is in this
	// state.
	ErrStranded = errors.New("the system still holds the memory")
)

// errNoProgress is the cause when reads keep returning less than one block.
var errNoProgress = errors.New("reads make no progress")

// Error is a failed read: which file, which bytes, what for, and why. It wraps ErrIO and its cause;
// a file that ends early has the cause io.ErrUnexpectedEOF, a device that hangs ErrTimeout.
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

// strandedError is the failure of a request whose memory the system still holds.
type strandedError struct{ cause error }

func (e *strandedError) Error() string { return e.cause.Error() + "; " + ErrStranded.Error() }

func (e *strandedError) Unwrap() []error { return []error{e.cause, ErrStranded} }

// timeoutError is the cause of a read that ran out of time.
func timeoutError(limit time.Duration) error {
	return fmt.Errorf("%w within %v", ErrTimeout, limit)
}

// usageError reports a call that makes no sense.
func usageError(format string, args ...any) error {
	return fmt.Errorf("reader: %w: %s", ErrUsage, fmt.Sprintf(format, args...))
}
