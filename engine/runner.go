package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/moering/moering/engine/internal/forward"
	"github.com/moering/moering/engine/internal/kv"
)

// gatherWait is how long a pass waits for other sessions that are about to ask for their next
// token, so that they share it: little beside a pass, long beside sampling.
const gatherWait = time.Millisecond

// request is a session's wish: compute these tokens.
type request struct {
	ctx    context.Context
	seq    *kv.Sequence
	tokens []int32
	done   int // tokens computed
	all    bool
	each   func(i int, logits []float32) error // i counts tokens of the request
	hidden func(i int, state []float32)        // as each, for every token's final hidden state; or nil
	err    error
	ready  chan struct{} // buffered: one value when the request has ended
	decode bool
}

// runner computes passes for all sessions, one after the other, each for everyone who waits.
type runner struct {
	forward  *forward.Forward
	requests chan *request
	quit     context.CancelCauseFunc
	ctx      context.Context
	stopped  chan struct{}
	turn     sync.Mutex     // held by who computes a pass: the loop for sessions, or a batch job
	jobs     sync.WaitGroup // batch jobs

	mu     sync.Mutex
	figure Stats
	active int // calls that are generating

	batch          forward.Batch
	logits, hidden wanted
	taken          []share
	passing        passContext
	// giveLogits and giveHidden, made once: a method value is allocated where it is written.
	onLogits, onHidden func(i int, row []float32)
}

// passContext ends with any request of a pass, or with the runner. It is only asked, since whoever
// ends a request's context wakes the pass (Session.watch), so that a pass allocates nothing.
type passContext struct {
	context.Context
	runner *runner
}

func (c *passContext) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	for _, t := range c.runner.taken {
		if err := t.q.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// wanted says to whom the wanted rows of a pass belong.
type wanted struct {
	owner []*request
	token []int // index of the row's token in its request
}

func (w *wanted) reset() { w.owner, w.token = w.owner[:0], w.token[:0] }

func (w *wanted) add(q *request, token int) {
	w.owner, w.token = append(w.owner, q), append(w.token, token)
}

func newRunner(f *forward.Forward) *runner {
	r := &runner{forward: f, requests: make(chan *request), stopped: make(chan struct{})}
	r.ctx, r.quit = context.WithCancelCause(context.Background())
	r.passing.Context, r.passing.runner = r.ctx, r
	r.onLogits, r.onHidden = r.giveLogits, r.giveHidden
	context.AfterFunc(r.ctx, f.Wake)
	go r.loop()
	return r
}

// close ends what is running and waits for it.
func (r *runner) close() {
	r.mu.Lock() // no job joins after this
	r.quit(ErrClosed)
	r.mu.Unlock()
	<-r.stopped
	r.jobs.Wait()
}

// join keeps close waiting for a batch job, until leave is called.
func (r *runner) join() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return ErrClosed
	}
	r.jobs.Add(1)
	return nil
}

func (r *runner) leave() { r.jobs.Done() }

// compute runs a pass that its caller composed, between those of sessions. The caller advances its
// sequences by itself, after success. decode and prefill say what the rows are, for the figures.
func (r *runner) compute(ctx context.Context, b forward.Batch, decode, prefill int,
	logits, hidden func(i int, row []float32)) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.ctx.Err() != nil {
		return ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	defer context.AfterFunc(ctx, r.forward.Wake)()
	start := clock()
	err := r.forward.Run(ctx, b, logits, hidden)
	if err != nil && r.ctx.Err() != nil {
		err = ErrClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.figure.Passes++
	r.figure.Busy += clock().Sub(start)
	if err == nil {
		r.figure.DecodeTokens += int64(decode)
		r.figure.PrefillTokens += int64(prefill)
	}
	return err
}

func (r *runner) stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.figure
}

func (r *runner) enter(n int) {
	r.mu.Lock()
	r.active += n
	r.mu.Unlock()
}

// do computes a request and returns when it is done.
func (r *runner) do(q *request) error {
	select {
	case r.requests <- q:
	case <-q.ctx.Done():
		return q.ctx.Err()
	case <-r.ctx.Done():
		return ErrClosed
	}
	<-q.ready
	return q.err
}

func (r *runner) loop() {
	defer close(r.stopped)
	var waiting []*request
	for {
		waiting = r.gather(waiting)
		if r.ctx.Err() != nil {
			for _, q := range waiting {
				q.err = ErrClosed
				q.ready <- struct{}{}
			}
			return
		}
		r.pass(waiting)
		kept := waiting[:0]
		for _, q := range waiting {
			if q.err == nil && q.done < len(q.tokens) {
				kept = append(kept, q)
			} else {
				q.ready <- struct{}{}
			}
		}
		waiting = kept
	}
}

// gather adds the requests that have come, and waits for one if there is none.
func (r *runner) gather(waiting []*request) []*request {
	if len(waiting) == 0 {
		select {
		case q := <-r.requests:
			waiting = append(waiting, q)
		case <-r.ctx.Done():
			return waiting
		}
	}
	r.mu.Lock()
	active := r.active
	r.mu.Unlock()
	if len(waiting) >= active {
		return waiting
	}
	late := time.NewTimer(gatherWait)
	defer late.Stop()
	for len(waiting) < active {
		select {
		case q := <-r.requests:
			waiting = append(waiting, q)
		case <-late.C:
			return waiting
		case <-r.ctx.Done():
			return waiting
		}
	}
	return waiting
}

// pass computes up to a chunk of rows: first a token of each sequence that generates, then prompts.
// When a request of the pass is cancelled, the pass ends at the next layer, and the others' rows are
// computed again in the next one: their sequences have not advanced.
func (r *runner) pass(waiting []*request) {
	r.turn.Lock()
	defer r.turn.Unlock()
	start := clock()
	r.fill(waiting)
	if len(r.taken) == 0 {
		return
	}
	err := r.forward.Run(&r.passing, r.batch, r.onLogits, r.onHidden)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.figure.Passes++
	r.figure.Busy += clock().Sub(start)
	for _, t := range r.taken {
		if err != nil {
			r.fail(t.q, err)
			continue
		}
		t.q.seq.Len += t.n
		t.q.done += t.n
		if t.q.decode {
			r.figure.DecodeTokens += int64(t.n)
		} else {
			r.figure.PrefillTokens += int64(t.n)
		}
	}
}

// fail gives a request of a failed pass its error; none, so that it is tried again, when the pass was
// only ended for another's sake.
func (r *runner) fail(q *request, err error) {
	switch {
	case q.err != nil:
	case r.ctx.Err() != nil:
		q.err = ErrClosed
	case q.ctx.Err() != nil:
		q.err = q.ctx.Err()
	case !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		q.err = err
	}
}

func (r *runner) giveLogits(i int, row []float32) {
	if q := r.logits.owner[i]; q.err == nil {
		q.err = q.each(r.logits.token[i], row)
	}
}

func (r *runner) giveHidden(i int, row []float32) {
	r.hidden.owner[i].hidden(r.hidden.token[i], row)
}

type share struct {
	q *request
	n int
}

// fill builds the batch, and says what it took.
func (r *runner) fill(waiting []*request) {
	r.taken = r.taken[:0]
	b := &r.batch
	b.Tokens, b.Seqs, b.Pos = b.Tokens[:0], b.Seqs[:0], b.Pos[:0]
	b.Logits, b.Hidden = b.Logits[:0], b.Hidden[:0]
	r.logits.reset()
	r.hidden.reset()
	for _, decode := range [2]bool{true, false} {
		for _, q := range waiting {
			n := min(len(q.tokens)-q.done, r.forward.Chunk-len(b.Tokens))
			if q.decode != decode || n <= 0 {
				continue
			}
			if q.err = q.ctx.Err(); q.err == nil {
				q.err = q.seq.Grow(q.seq.Len + n)
			}
			if q.err != nil {
				continue
			}
			for i := range n {
				if q.each != nil && (q.all || q.done+i == len(q.tokens)-1) {
					b.Logits = append(b.Logits, int32(len(b.Tokens)))
					r.logits.add(q, q.done+i)
				}
				if q.hidden != nil {
					b.Hidden = append(b.Hidden, int32(len(b.Tokens)))
					r.hidden.add(q, q.done+i)
				}
				b.Tokens = append(b.Tokens, q.tokens[q.done+i])
				b.Seqs = append(b.Seqs, q.seq.Row)
				b.Pos = append(b.Pos, int32(q.seq.Len+i))
			}
			r.taken = append(r.taken, share{q, n})
		}
	}
}
