package engine

import (
	"context"
	"errors"
	"slices"
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
	ready  chan bool // buffered: false when the request has ended, true when its caller is to lead
	decode bool
}

func (q *request) ended() bool { return q.err != nil || q.done == len(q.tokens) }

// runner computes passes for all sessions, one after the other, each for everyone who waits. It has no
// goroutine of its own: of those who wait one leads, which is to compute for all until its own
// request is done, and to name the next. So a session that is alone computes on the thread of its
// caller, and no thread is woken for a token.
type runner struct {
	forward *forward.Forward
	quit    context.CancelCauseFunc
	ctx     context.Context
	calls   sync.WaitGroup // requests and batch jobs
	turn    chan struct{}  // full while a pass is computed, for sessions or a batch job; in order of asking

	mu        sync.Mutex
	figure    Stats
	active    int // calls that are generating
	waiting   []*request
	led       bool // one of those that wait leads, or is told to
	gathering bool // the leader waits for came
	came      chan struct{}

	// What follows is the leader's; but taken, by which who gives up knows whether a pass has its
	// request, changes under mu alone.
	late           *time.Timer
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
	r := &runner{forward: f, turn: make(chan struct{}, 1), came: make(chan struct{}, 1),
		late: time.NewTimer(gatherWait)}
	r.late.Stop()
	r.ctx, r.quit = context.WithCancelCause(context.Background())
	r.passing.Context, r.passing.runner = r.ctx, r
	r.onLogits, r.onHidden = r.giveLogits, r.giveHidden
	context.AfterFunc(r.ctx, f.Wake)
	return r
}

// close ends what is running and waits for it.
func (r *runner) close() {
	r.mu.Lock() // no call joins after this
	r.quit(ErrClosed)
	r.mu.Unlock()
	r.calls.Wait()
}

// join keeps close waiting for a batch job, until leave is called.
func (r *runner) join() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return ErrClosed
	}
	r.calls.Add(1)
	return nil
}

func (r *runner) leave() { r.calls.Done() }

// compute runs a pass that its caller composed, between those of sessions. The caller advances its
// sequences by itself, after success. decode and prefill say what the rows are, for the figures.
func (r *runner) compute(ctx context.Context, b forward.Batch, decode, prefill int,
	logits, hidden func(i int, row []float32)) error {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
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
	r.tell()
	r.mu.Unlock()
}

// tell wakes the leader if nobody is missing any more. mu is held.
func (r *runner) tell() {
	if r.gathering && len(r.waiting) >= r.active {
		r.gathering = false
		r.came <- struct{}{} // has room: gather takes what is there
	}
}

// do computes a request and returns when it is done.
func (r *runner) do(q *request) error {
	r.mu.Lock()
	if r.ctx.Err() != nil {
		r.mu.Unlock()
		return ErrClosed
	}
	r.calls.Add(1)
	defer r.calls.Done()
	r.waiting = append(r.waiting, q)
	lead := !r.led
	r.led = true
	r.tell()
	r.mu.Unlock()
	if !lead {
		select {
		case lead = <-q.ready:
		case <-q.ctx.Done():
			lead = r.withdraw(q)
		}
	}
	if lead {
		r.lead(q)
	}
	return q.err
}

// withdraw takes a request back whose context has ended, at once unless a pass has it, which then ends
// at the next layer. True says that its caller is to lead.
func (r *runner) withdraw(q *request) (lead bool) {
	r.mu.Lock()
	waits := slices.Contains(r.waiting, q)
	computed := slices.ContainsFunc(r.taken, func(t share) bool { return t.q == q })
	if waits && !computed && len(q.ready) == 0 {
		q.err = q.ctx.Err()
		r.remove(q)
		r.mu.Unlock()
		return false
	}
	r.mu.Unlock()
	return <-q.ready
}

// remove takes a request out of those that wait. mu is held.
func (r *runner) remove(q *request) {
	if i := slices.Index(r.waiting, q); i >= 0 {
		r.waiting = slices.Delete(r.waiting, i, i+1)
	}
}

// lead computes passes for all who wait until q is done; then it names the next leader, so that nobody
// computes for others longer than for itself.
func (r *runner) lead(q *request) {
	defer r.handOver(q) // also when the code that is called panics
	for !q.ended() {
		if q.err = r.gather(q.ctx); q.err == nil {
			r.pass(q)
		}
	}
}

// handOver gives up leading. Where the engine is closed, the next leader finds that out, and so on.
func (r *runner) handOver(q *request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	r.remove(q)
	if r.led = len(r.waiting) > 0; r.led {
		r.waiting[0].ready <- true
	}
}

// gather waits until every call that is generating asks for its next token, but not for long.
func (r *runner) gather(ctx context.Context) (err error) {
	r.mu.Lock()
	r.gathering = len(r.waiting) < r.active
	wait := r.gathering
	r.mu.Unlock()
	if !wait {
		return nil
	}
	r.late.Reset(gatherWait)
	select {
	case <-r.came:
	case <-r.late.C:
	case <-ctx.Done():
		err = ctx.Err()
	case <-r.ctx.Done():
		err = ErrClosed
	}
	r.late.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gathering = false
	if len(r.came) > 0 {
		<-r.came
	}
	return err
}

// takeTurn waits until no batch job computes.
func (r *runner) takeTurn(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return ErrClosed
	}
}

// pass computes up to a chunk of rows: first a token of each sequence that generates, then prompts.
// When a request of the pass is cancelled, the pass ends at the next layer, and the others' rows are
// computed again in the next one: their sequences have not advanced. Lead is the request of the one
// who computes; if it is cancelled before, nothing is.
func (r *runner) pass(lead *request) {
	if lead.err = r.takeTurn(lead.ctx); lead.err != nil {
		return
	}
	defer func() { <-r.turn }()
	start := clock()
	r.mu.Lock()
	r.fill()
	r.mu.Unlock()
	if len(r.taken) > 0 && lead.err == nil {
		r.settle(r.forward.Run(&r.passing, r.batch, r.onLogits, r.onHidden), start)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	kept := r.waiting[:0]
	for _, q := range r.waiting {
		if q == lead || !q.ended() {
			kept = append(kept, q)
		} else {
			q.ready <- false
		}
	}
	clear(r.waiting[len(kept):])
	r.waiting = kept
}

// clear forgets what the pass took. mu is held.
func (r *runner) clear() {
	clear(r.taken)
	r.taken = r.taken[:0]
}

// settle counts a pass that began at start, and says to its requests what has become of them.
func (r *runner) settle(err error, start time.Time) {
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

// fill builds the batch, and says what it took. mu is held.
func (r *runner) fill() {
	b := &r.batch
	b.Tokens, b.Seqs, b.Pos = b.Tokens[:0], b.Seqs[:0], b.Pos[:0]
	b.Logits, b.Hidden = b.Logits[:0], b.Hidden[:0]
	r.logits.reset()
	r.hidden.reset()
	for _, decode := range [2]bool{true, false} {
		for _, q := range r.waiting {
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
