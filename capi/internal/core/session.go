package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/moering/moering/engine"
)

// Session is a session that is used by one thread at a time, and says so where it is not. Cancel
// and Close may come from any thread at any time.
type Session struct {
	engine *Engine

	mu     sync.Mutex
	idle   *sync.Cond // busy became false
	busy   bool
	closed bool
	// Of the running call, and of those after it until one is cancelled: a context that ends with each
	// call would start a goroutine each time, since the engine asks to be told.
	ctx    context.Context
	cancel context.CancelCauseFunc

	// What follows belongs to the running call.
	session  *engine.Session
	sampling engine.Sampling
	current  *engine.Generation // nil: the next token begins one
	last     engine.Token       // that current gave
	given    bool               // it gave one
}

// NewSession opens a session, which holds the engine.
func (e *Engine) NewSession(o engine.Sampling) (*Session, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := e.Hold(); err != nil {
		return nil, err
	}
	inner, err := e.Engine.NewSession()
	if err != nil {
		return nil, errors.Join(err, e.Release())
	}
	return newSession(e, inner, o), nil
}

func newSession(e *Engine, inner *engine.Session, o engine.Sampling) *Session {
	s := &Session{engine: e, session: inner, sampling: o}
	s.idle = sync.NewCond(&s.mu)
	e.sessions.Add(1)
	return s
}

// Do runs a call on the session. A second one at the same time fails with ErrBusy.
func (s *Session) Do(work func(ctx context.Context) error) error {
	return s.do(s.engine.poll, work)
}

// DoHere is Do on the calling goroutine, without polling.
func (s *Session) DoHere(work func(ctx context.Context) error) error { return s.do(nil, work) }

func (s *Session) do(poll Poll, work func(ctx context.Context) error) error {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return fmt.Errorf("the session: %w", engine.ErrClosed)
	case s.busy:
		s.mu.Unlock()
		return fmt.Errorf("the session is %w", ErrBusy)
	}
	if s.ctx == nil || s.ctx.Err() != nil {
		s.ctx, s.cancel = context.WithCancelCause(context.Background())
	}
	s.busy = true
	ctx, cancel := s.ctx, s.cancel
	s.mu.Unlock()
	err := watch(ctx, func() { cancel(nil) }, poll, nil, work)
	s.mu.Lock()
	s.busy = false
	s.idle.Broadcast()
	s.mu.Unlock()
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), engine.ErrClosed) {
		return fmt.Errorf("the session: %w", engine.ErrClosed)
	}
	return err
}

// Cancel ends the running call, if there is one, at the next layer.
func (s *Session) Cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		s.cancel(context.Canceled)
	}
}

// Close ends the running call, waits for it, and frees the session. It may be called twice.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	if s.busy {
		s.cancel(engine.ErrClosed)
	}
	for s.busy {
		s.idle.Wait()
	}
	s.mu.Unlock()
	s.end()
	s.engine.sessions.Add(-1)
	err := s.session.Close()
	if s.cancel != nil {
		s.cancel(nil)
	}
	return errors.Join(err, s.engine.Release())
}

// The methods below are called inside Do.

// end gives up the generation.
func (s *Session) end() {
	if s.current != nil {
		s.current.Close()
	}
	s.current = nil
}

// Settle brings everything that was handed out into the context: the last token, unless it ended
// the text. The generation goes on afterwards.
func (s *Session) Settle(ctx context.Context) error {
	if s.current == nil || s.last.Finish == "stop" {
		return nil
	}
	return s.current.Flush(ctx)
}

// Configure sets the sampling of the next generation, which begins now.
func (s *Session) Configure(ctx context.Context, o engine.Sampling) error {
	if err := o.Validate(); err != nil {
		return err
	}
	if err := s.Settle(ctx); err != nil {
		return err
	}
	s.end()
	s.sampling = o
	return nil
}

// FeedText appends a text.
func (s *Session) FeedText(ctx context.Context, text string) error {
	ids, err := s.engine.Encode(text, s.session.Len() == 0 && s.current == nil)
	if err != nil {
		return err
	}
	return s.Feed(ctx, ids)
}

// Feed appends tokens, after what was generated; the next token begins a new generation.
func (s *Session) Feed(ctx context.Context, ids []int32) error {
	if err := s.Settle(ctx); err != nil {
		return err
	}
	s.end()
	return s.session.Feed(ctx, ids)
}

// Score appends tokens and writes the log-probability of each, given those before it; NaN for the
// first of a session.
func (s *Session) Score(ctx context.Context, ids []int32, logprobs []float32) error {
	if err := s.Settle(ctx); err != nil {
		return err
	}
	s.end()
	if len(ids) == 0 {
		return nil
	}
	before := s.session.Logits()
	if before == nil {
		logprobs[0] = float32(math.NaN())
	} else {
		logprobs[0] = engine.LogProb(before, ids[0])
	}
	return s.session.Score(ctx, ids, func(i int, logits []float32) error {
		if i+1 < len(ids) {
			logprobs[i+1] = engine.LogProb(logits, ids[i+1])
		}
		return nil
	})
}

// Next returns the next token, and ErrEnd after the last.
func (s *Session) Next(ctx context.Context) (engine.Token, error) {
	if s.current == nil {
		g, err := s.session.Start(nil, s.sampling)
		if err != nil {
			return engine.Token{}, err
		}
		s.current, s.last, s.given = g, engine.Token{}, false
	}
	token, err := s.current.Next(ctx)
	if errors.Is(err, io.EOF) {
		return engine.Token{}, ErrEnd
	}
	if err == nil {
		s.last, s.given = token, true
	}
	return token, err
}

// Last is the token that Next returned last; false if there is none.
func (s *Session) Last() (engine.Token, bool) { return s.last, s.current != nil && s.given }

// Truncate forgets tokens from n on, and the token that is not in the context yet.
func (s *Session) Truncate(n int) error {
	if n < 0 || n > s.session.Len() {
		return fmt.Errorf("%w: truncate to %d of %d tokens", engine.ErrUsage, n, s.session.Len())
	}
	s.end()
	return s.session.Truncate(n)
}

// Fork returns a session with the same context and sampling.
func (s *Session) Fork(ctx context.Context) (*Session, error) {
	if err := s.Settle(ctx); err != nil {
		return nil, err
	}
	if err := s.engine.Hold(); err != nil {
		return nil, err
	}
	inner, err := s.session.Fork()
	if err != nil {
		return nil, errors.Join(err, s.engine.Release())
	}
	return newSession(s.engine, inner, s.sampling), nil
}

// Save writes the session's state.
func (s *Session) Save(ctx context.Context, w io.Writer) error {
	if err := s.Settle(ctx); err != nil {
		return err
	}
	return s.session.Save(w)
}

// Restore replaces the session's state.
func (s *Session) Restore(r io.Reader) error {
	s.end()
	return s.session.Restore(r)
}

// Inner is the session itself, for looking at it.
func (s *Session) Inner() *engine.Session { return s.session }
