package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/moering/moering/engine"
)

// queuePerSession bounds the prompts that are under way, for each session of a batch: one that
// computes, one that waits for it, and results that wait to be fetched.
const queuePerSession = 4

// Result is what became of one prompt. It depends on the prompt and the sampling alone.
type Result struct {
	ID           uint64
	Err          error
	Text         string
	Tokens       []int32
	Finish       string
	PromptTokens int
}

type prompt struct {
	id   uint64
	text string
	ids  []int32 // in place of text, if not nil
}

// Batch generates for many prompts at once, on sessions of its own. It is used by one thread at a
// time; Cancel, Wake and Close may come from any.
type Batch struct {
	engine  *Engine
	prompts chan prompt
	results chan Result
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu     sync.Mutex
	idle   *sync.Cond // busy became false
	busy   bool
	closed bool
	wake   context.CancelFunc // of a waiting Next; nil: there is none
	going  int                // submitted and not fetched
}

// NewBatch opens as many sessions as it may: parallel, or all that are free if that is 0.
func (e *Engine) NewBatch(o engine.Sampling, parallel int) (*Batch, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if parallel < 0 || parallel > e.Options().Sequences {
		return nil, fmt.Errorf("%w: %d sequences at once, of %d that the engine has",
			engine.ErrUsage, parallel, e.Options().Sequences)
	}
	if err := e.Hold(); err != nil {
		return nil, err
	}
	sessions, err := e.openSessions(parallel)
	if err != nil {
		return nil, errors.Join(err, e.Release())
	}
	n := len(sessions) * queuePerSession
	b := &Batch{engine: e, prompts: make(chan prompt, n), results: make(chan Result, n)}
	b.idle = sync.NewCond(&b.mu)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	for _, s := range sessions {
		b.workers.Go(func() { b.work(s, o) })
	}
	return b, nil
}

func (e *Engine) openSessions(parallel int) (out []*engine.Session, err error) {
	for len(out) < parallel || parallel == 0 {
		s, err := e.Engine.NewSession()
		if err != nil && parallel == 0 && len(out) > 0 {
			break
		}
		if err != nil {
			for _, s := range out {
				err = errors.Join(err, s.Close())
			}
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (b *Batch) work(s *engine.Session, o engine.Sampling) {
	defer s.Close()
	for p := range b.prompts {
		r := Result{ID: p.id}
		r.Err = Guard(func() error { return b.one(s, o, p, &r) })
		b.results <- r // has room for all that are under way
	}
}

func (b *Batch) one(s *engine.Session, o engine.Sampling, p prompt, r *Result) (err error) {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if err := s.Truncate(0); err != nil {
		return err
	}
	ids := p.ids
	if ids == nil {
		if ids, err = b.engine.Encode(p.text, true); err != nil {
			return err
		}
	}
	r.PromptTokens = len(ids)
	var text strings.Builder
	for token, err := range s.GenerateTokens(b.ctx, ids, o) {
		if err != nil {
			r.Text = text.String()
			return err
		}
		text.WriteString(token.Text)
		r.Tokens = append(r.Tokens, token.ID)
		r.Finish = token.Finish
	}
	r.Text = text.String()
	return nil
}

// enter refuses a second thread.
func (b *Batch) enter() (leave func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("the batch: %w", engine.ErrClosed)
	}
	if b.busy {
		return nil, fmt.Errorf("the batch is %w", ErrBusy)
	}
	b.busy = true
	return func() {
		b.mu.Lock()
		b.busy = false
		b.idle.Broadcast()
		b.mu.Unlock()
	}, nil
}

// Submit queues a prompt: ids if they are not nil, or text. ErrAgain says that a result must be
// fetched first. Nothing blocks.
func (b *Batch) Submit(id uint64, text string, ids []int32) error {
	leave, err := b.enter()
	if err != nil {
		return err
	}
	defer leave()
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	if b.going == cap(b.results) {
		return ErrAgain
	}
	b.going++
	b.prompts <- prompt{id, text, ids} // has room for all that are under way
	return nil
}

// Next waits for a result, in the order in which they come, and returns ErrEnd when no prompt is
// under way. A cancelled wait loses no result.
func (b *Batch) Next(each func(Result) error) error {
	leave, err := b.enter()
	if err != nil {
		return err
	}
	defer leave()
	if b.going == 0 {
		return ErrEnd
	}
	var r Result
	err = b.engine.Do(func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		b.setWake(cancel)
		defer b.setWake(nil)
		select {
		case r = <-b.results:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if b.isClosed() {
		return fmt.Errorf("the batch: %w", engine.ErrClosed)
	}
	if err != nil {
		return err
	}
	b.going--
	return each(r)
}

func (b *Batch) setWake(cancel context.CancelFunc) {
	b.mu.Lock()
	b.wake = cancel
	b.mu.Unlock()
}

func (b *Batch) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// Wake ends the Next that is waiting, if there is one; prompts go on.
func (b *Batch) Wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wake != nil {
		b.wake()
	}
}

// Cancel ends all prompts that are under way; their results carry the error.
func (b *Batch) Cancel() { b.cancel() }

// Close cancels, waits for a running call, and frees the sessions. It may be called twice.
func (b *Batch) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.cancel() // brings results, so that a waiting Next returns
	for b.busy {
		b.idle.Wait()
	}
	b.mu.Unlock()
	close(b.prompts)
	b.workers.Wait()
	return b.engine.Release()
}
