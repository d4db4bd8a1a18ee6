package engine

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/moering/moering/engine/internal/sample"
)

// Generation hands out tokens one by one, for callers that cannot range over Generate. It belongs
// to its session and is used by one goroutine at a time; while it lasts, nothing else moves the
// session.
type Generation struct {
	session  *Session
	sampling Sampling
	sampler  *sample.Sampler
	text     *detokenizer
	presence presence
	owed     []int32 // what the next token needs in the context: the prompt, then the last one
	last     [1]int32
	count    int
	ended    bool
}

// Start prepares to generate after the context and the prompt ids, which must not change before the
// first Next has returned. Nothing is computed yet.
func (s *Session) Start(ids []int32, o Sampling) (*Generation, error) {
	if s.closed {
		return nil, ErrClosed
	}
	sampler, err := o.sampler()
	if err != nil {
		return nil, err
	}
	return &Generation{session: s, sampling: o, sampler: sampler, owed: ids,
		text: newDetokenizer(s.engine, o.Stop), presence: presence{runner: s.engine.runner}}, nil
}

// Next returns the next token, and io.EOF after the one with Token.Finish set. The token joins the
// context when the one after it is asked for, or by Flush. After the context's error, calling Next
// again goes on where it stopped: the tokens are those of an undisturbed generation.
func (g *Generation) Next(ctx context.Context) (Token, error) {
	if g.ended {
		return Token{}, io.EOF
	}
	g.presence.arrive()
	defer g.presence.linger()
	if err := g.Flush(ctx); err != nil {
		return Token{}, err
	}
	s := g.session
	if len(s.logits) == 0 {
		return Token{}, fmt.Errorf("%w: there is nothing to continue: the prompt is empty",
			ErrUsage)
	}
	id, err := g.sampler.Sample(s.logits, s.tokens)
	if err != nil {
		return Token{}, err
	}
	g.count++
	token := Token{ID: id}
	if n := g.sampling.LogProbs; n > 0 {
		token.LogProb, token.Alternatives = s.LogProb(id), s.Top(n)
	}
	g.finish(&token)
	g.last[0] = id
	g.owed = g.last[:]
	return token, nil
}

// finish sets the token's text, and its Finish if it is the last one.
func (g *Generation) finish(token *Token) {
	s, stopped := g.session, false
	switch {
	case s.engine.ends[token.ID] && !g.sampling.IgnoreEOS:
		token.Finish = "stop"
	case g.count == g.sampling.MaxTokens || len(s.tokens)+1 >= s.engine.options.Context:
		token.Finish = "length"
	}
	if token.Finish != "stop" {
		token.Text, stopped = g.text.push(token.ID)
	}
	if stopped {
		token.Finish = "stop"
	} else if token.Finish != "" {
		token.Text += g.text.flush()
	}
	g.ended = token.Finish != ""
}

// Flush computes what Next has handed out or been given and the context does not hold yet: the
// prompt, or the last token. After it the session can be forked, saved or fed.
func (g *Generation) Flush(ctx context.Context) error {
	before := len(g.session.tokens)
	err := g.session.feed(ctx, g.owed, g.count > 0, nil)
	g.owed = g.owed[len(g.session.tokens)-before:]
	return err
}

// Close ends the generation; the session stays. It may be called twice, and need not be called
// after io.EOF.
func (g *Generation) Close() {
	g.ended = true
	g.presence.leave()
}

// lingerWait is how long after a token its generation still counts as one that will soon ask for
// the next, so that passes wait for it: long beside a caller's work on a token, short for one that
// thinks.
const lingerWait = 2 * gatherWait

// presence tells the runner how many generations are about to ask.
type presence struct {
	runner *runner

	mu    sync.Mutex
	in    bool
	idle  bool // between arrive and linger it is false
	timer *time.Timer
}

func (p *presence) arrive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = false
	if !p.in {
		p.in = true
		p.runner.enter(1)
	}
}

func (p *presence) linger() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = true
	if p.timer == nil {
		p.timer = time.AfterFunc(lingerWait, p.expire)
	} else {
		p.timer.Reset(lingerWait)
	}
}

func (p *presence) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle {
		p.out()
	}
}

func (p *presence) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.out()
}

func (p *presence) out() {
	if p.in {
		p.in = false
		p.runner.enter(-1)
	}
}
