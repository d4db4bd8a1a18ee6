package core

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/moering/moering/engine"
)

// Status codes, as in moering.h.
const (
	OK           = 0
	End          = 1
	Again        = 2
	EInval       = -1
	ENoMem       = -2
	EIO          = -3
	EFormat      = -4
	EDevice      = -5
	ECanceled    = -6
	ELimit       = -7
	EUnsupported = -8
	EInternal    = -9
	EBusy        = -10
	EClosed      = -11
	EFork        = -12
)

// Failures that package engine does not know.
var (
	// ErrBusy: another thread is in a call on the handle.
	ErrBusy = errors.New("in use by another thread")
	// ErrHandle: not a handle of this kind, or a closed one.
	ErrHandle = errors.New("not an open handle")
	// ErrSpace: the caller's buffer is too small; the size that is needed was reported.
	ErrSpace = errors.New("the buffer is too small")
	// ErrAgain: the queue is full.
	ErrAgain = errors.New("take a result first")
	// ErrEnd: there is nothing more to come.
	ErrEnd = errors.New("end")
)

// Status returns the code of an error. Where an error is of several kinds, what the caller can do
// something about comes first.
func Status(err error) int32 {
	for _, k := range []struct {
		kind   error
		status int32
	}{{nil, OK}, {ErrEnd, End}, {ErrAgain, Again}, {ErrBusy, EBusy}, {ErrHandle, EClosed},
		{engine.ErrClosed, EClosed}, {context.Canceled, ECanceled}, {engine.ErrUsage, EInval},
		{ErrSpace, ELimit}, {engine.ErrBudget, ENoMem}, {engine.ErrContext, ELimit},
		{engine.ErrUnsupported, EUnsupported}, {engine.ErrFormat, EFormat}, {engine.ErrIO, EIO},
		{engine.ErrDevice, EDevice}} {
		if errors.Is(err, k.kind) {
			return k.status
		}
	}
	return EInternal
}

// Guard runs f and turns a panic into an error: no panic may reach C.
func Guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a defect of this library: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}
