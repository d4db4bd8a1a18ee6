package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moering/moering/engine"
)

// pollEvery is how often a blocked call asks its caller whether to go on: often enough for Ctrl-C
// to feel prompt, seldom enough to cost nothing.
const pollEvery = 20 * time.Millisecond

// Poll is asked from time to time, on the thread of the call, how a call that takes long shall go
// on; it is told how far it is, 0 of 0 where that is unknown. True cancels the call.
type Poll func(done, total uint64) (cancel bool)

// Engine is an engine that lives until its handle is closed, its sessions are closed, and no call
// uses it. It is safe for concurrent use.
type Engine struct {
	*engine.Engine
	poll  Poll
	files []*os.File // traces

	mu      sync.Mutex
	refs    int
	calls   map[int]context.CancelFunc // running calls on the engine itself
	callSeq int

	sessions atomic.Int32
}

// Traces are the paths of files that an engine writes while it is open; "" for none.
type Traces struct{ Timeline, Routing string }

// Open opens a model; ctx ends the opening, and poll, which may be nil, can cancel it and all later
// calls.
func Open(ctx context.Context, path string, o engine.Options, t Traces, poll Poll,
) (_ *Engine, err error) {
	var done, total atomic.Uint64
	o.Progress = func(d, t int64) { done.Store(uint64(d)); total.Store(uint64(t)) }
	e := &Engine{poll: poll, refs: 1, calls: map[int]context.CancelFunc{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.closeFiles())
		}
	}()
	if o.Trace, err = e.create(t.Timeline); err != nil {
		return nil, err
	}
	if o.RoutingTrace, err = e.create(t.Routing); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	progress := func() (uint64, uint64) { return done.Load(), total.Load() }
	err = watch(ctx, cancel, poll, progress, func(ctx context.Context) (err error) {
		e.Engine, err = engine.OpenContext(ctx, path, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// create makes a file that is closed with the engine; nil for no path.
func (e *Engine) create(path string) (io.Writer, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("%w: a trace: %w", engine.ErrIO, err)
	}
	e.files = append(e.files, f)
	return f, nil
}

func (e *Engine) closeFiles() (err error) {
	for _, f := range e.files {
		err = errors.Join(err, f.Close())
	}
	e.files = nil
	return err
}

// Hold keeps the engine alive until Release. It fails once the last hold is gone.
func (e *Engine) Hold() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refs == 0 {
		return engine.ErrClosed
	}
	e.refs++
	return nil
}

// Release gives up a hold; the last one frees the engine. What fails then has nobody to be told
// but the log: the handle is gone.
func (e *Engine) Release() error {
	e.mu.Lock()
	e.refs--
	last := e.refs == 0
	e.mu.Unlock()
	if !last {
		return nil
	}
	err := ioError(errors.Join(e.Close(), e.closeFiles()))
	if log := e.Options().Logger; err != nil && log != nil {
		log.Error("closing", "error", err)
	}
	return err
}

// Sessions is the number of open sessions, those of batches and embeddings not counted.
func (e *Engine) Sessions() int { return int(e.sessions.Load()) }

// Do runs a call on the engine that Cancel can end.
func (e *Engine) Do(work func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e.mu.Lock()
	e.callSeq++
	id := e.callSeq
	e.calls[id] = cancel
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.calls, id)
		e.mu.Unlock()
	}()
	return watch(ctx, cancel, e.poll, nil, work)
}

// Cancel ends the calls that run on the engine itself.
func (e *Engine) Cancel() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, cancel := range e.calls {
		cancel()
	}
}

// watch runs work, and meanwhile poll on the calling goroutine, which a call from C has bound to
// its thread. It returns when work has returned.
func watch(ctx context.Context, cancel func(), poll Poll, progress func() (done, total uint64),
	work func(ctx context.Context) error) error {
	if poll == nil {
		return Guard(func() error { return work(ctx) })
	}
	ended := make(chan error, 1)
	go func() { ended <- Guard(func() error { return work(ctx) }) }()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-tick.C:
			var done, total uint64
			if progress != nil {
				done, total = progress()
			}
			if poll(done, total) {
				cancel()
			}
		}
	}
}
