package engine

import "errors"

// The kinds of failure of this package; every error wraps at least one, or the context's error.
var (
	// ErrUsage: an option or argument that makes no sense.
	ErrUsage = errors.New("wrong use")
	// ErrFormat: a model file is damaged or malformed. The message names file, tensor and offset.
	ErrFormat = errors.New("malformed model")
	// ErrUnsupported: a family, field, format or device that is not implemented.
	ErrUnsupported = errors.New("not supported")
	// ErrIO: the system could not give the bytes of the model.
	ErrIO = errors.New("I/O failed")
	// ErrBudget: the memory budget is too small. The message says the least that works.
	ErrBudget = errors.New("budget too small")
	// ErrContext: the sequence would be longer than the context, or the KV cache is full.
	ErrContext = errors.New("context is full")
	// ErrDevice: the compute device failed.
	ErrDevice = errors.New("device failed")
	// ErrClosed: the engine or session was closed.
	ErrClosed = errors.New("closed")
)
