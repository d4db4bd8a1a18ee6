package store

import (
	"errors"
	"fmt"
	"strings"
)

// The kinds of failure. Every error of this package wraps exactly one of them, so that callers
// branch with errors.Is and read the details from *Error with errors.As.
var (
	// ErrFormat: the bytes are not a well-formed file of their kind.
	ErrFormat = errors.New("malformed model file")
	// ErrUnsupported: well formed as far as can be told, but of a kind that is not read.
	ErrUnsupported = errors.New("unsupported model file")
	// ErrIO: the system could not give, or take, the bytes; wrapped together with its reason.
	ErrIO = errors.New("model file I/O failed")
	// ErrNotFound: a tensor, metadata key or side file that was asked for is not there.
	ErrNotFound = errors.New("not in the model")
	// ErrUsage: a call that makes no sense, such as a slice out of range or tensor data that is
	// longer than was declared to the Writer.
	ErrUsage = errors.New("wrong use of the store")
)

// What a reader of an error can do about it, by cause.
const (
	adviceDamaged = "the file is damaged or cut short; download or copy it again"
	adviceInvalid = "the file was written wrongly; convert the model again or take another copy"
	adviceShards  = "keep all files of one conversion together under their original names"
)

// noOffset marks an Error that is not about one place in a file.
const noOffset = -1

// Error says what is wrong, where, and what to do about it.
type Error struct {
	File   string // path; empty if no file is concerned
	Tensor string // tensor name; empty if no tensor is concerned
	Offset int64  // byte offset in File; negative if no one place is concerned
	Reason string // what is wrong, in words
	Advice string // what the user can do; may be empty
	Kind   error  // one of the sentinels of this package
	Cause  error  // the system's or a library's error; may be nil
}

// Error renders file, tensor, offset, reason and advice on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("store: ")
	if e.File != "" {
		b.WriteString(e.File)
		b.WriteString(": ")
	}
	if e.Tensor != "" {
		fmt.Fprintf(&b, "tensor %s: ", quoted(e.Tensor))
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, "at byte %d: ", e.Offset)
	}
	b.WriteString(e.Reason)
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	if e.Advice != "" {
		b.WriteString("; ")
		b.WriteString(e.Advice)
	}
	return b.String()
}

// Unwrap gives the kind and the cause to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// quotedBytesMax bounds how much of a hostile name is echoed in a message.
const quotedBytesMax = 96

// quoted renders a name from a file so that it is safe to print and short.
func quoted(s string) string {
	if len(s) > quotedBytesMax {
		return fmt.Sprintf("%q... (%d bytes)", s[:quotedBytesMax], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// ioError wraps a system error on a file as a whole.
func ioError(file, doing string, cause error) *Error {
	return &Error{File: file, Offset: noOffset, Reason: doing, Kind: ErrIO, Cause: cause}
}

// usageError reports a call that makes no sense.
func usageError(file, tensor, format string, args ...any) *Error {
	return &Error{File: file, Tensor: tensor, Offset: noOffset,
		Reason: fmt.Sprintf(format, args...), Kind: ErrUsage}
}

// formatError reports malformed bytes at one place (or noOffset).
func formatError(file, tensor string, offset int64, advice, format string, args ...any) *Error {
	return &Error{File: file, Tensor: tensor, Offset: offset, Advice: advice,
		Reason: fmt.Sprintf(format, args...), Kind: ErrFormat}
}
