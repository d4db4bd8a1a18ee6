package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/engine/internal/sample"
)

// Session is one sequence: its tokens and their keys and values. It is used by one goroutine at a
// time; sessions of one engine that run at once share passes.
type Session struct {
	engine *Engine
	seq    *kv.Sequence
	tokens []int32
	logits []float32 // after the last token; empty when unknown
	closed bool

	request request // the one under way, reused
	each    func(i int, logits []float32) error
	watched context.Context // whose end wakes passes, until unwatch
	unwatch func() bool
}

// newSession makes the session of a sequence.
func (e *Engine) newSession(seq *kv.Sequence) *Session {
	s := &Session{engine: e, seq: seq}
	s.request.ready = make(chan bool, 1)
	s.request.each = s.keep
	return s
}

// NewSession starts an empty sequence. ErrContext is wrapped when Options.Sequences are open.
func (e *Engine) NewSession() (*Session, error) {
	seq, err := e.pool.Sequence()
	if err != nil {
		return nil, fmt.Errorf("%w: %d sessions are open, as many as Options.Sequences allows",
			ErrContext, e.options.Sequences)
	}
	return e.newSession(seq), nil
}

// Close gives the session's memory back. It may be called twice.
func (s *Session) Close() error {
	if !s.closed {
		s.closed = true
		if s.unwatch != nil {
			s.unwatch()
		}
		s.seq.Close()
	}
	return nil
}

// Len is the number of tokens in the session's context.
func (s *Session) Len() int { return len(s.tokens) }

// Logits are the model's output after the last token, one value a token of the vocabulary; nil if
// nothing was fed since the session began or was truncated. The slice is valid until the next call.
func (s *Session) Logits() []float32 {
	if len(s.logits) == 0 {
		return nil
	}
	return s.logits
}

// Tokens returns a copy of the tokens in the context.
func (s *Session) Tokens() []int32 { return slices.Clone(s.tokens) }

// LogProb is the natural log of the probability that the model gives token id after the last one,
// at temperature 1; NaN where Logits is nil or has no such token.
func (s *Session) LogProb(id int32) float32 { return LogProb(s.logits, id) }

// LogProb is the natural log of the probability that logits give token id, at temperature 1; NaN
// where they have no such token.
func LogProb(logits []float32, id int32) float32 {
	if id < 0 || int(id) >= len(logits) {
		return float32(math.NaN())
	}
	return float32(sample.LogProb(logits, id))
}

// Top returns the n tokens that are most likely after the last one, best first; none where Logits
// is nil.
func (s *Session) Top(n int) []TokenProb {
	top := sample.Top(nil, s.logits, n)
	out := make([]TokenProb, len(top))
	for i, p := range top {
		out[i] = TokenProb{ID: p.ID, LogProb: p.LogProb}
	}
	return out
}

// Truncate forgets all tokens from position n on.
func (s *Session) Truncate(n int) error {
	if s.closed {
		return ErrClosed
	}
	if n < 0 || n > len(s.tokens) {
		return fmt.Errorf("%w: truncate to %d of %d tokens", ErrUsage, n, len(s.tokens))
	}
	if n < len(s.tokens) {
		s.seq.Truncate(n)
		s.tokens, s.logits = s.tokens[:n], s.logits[:0]
	}
	return nil
}

// Feed appends tokens to the context. After an error, those that were computed stay.
func (s *Session) Feed(ctx context.Context, ids []int32) error {
	return s.feed(ctx, ids, false, nil)
}

// Score appends tokens and calls each with the logits after every one of them, i counting from 0.
// The logits are valid during the call, which may be made by the goroutine of another session that
// shares the pass; an error from each ends the scoring and is returned.
func (s *Session) Score(ctx context.Context, ids []int32, each func(i int, logits []float32) error,
) error {
	return s.feed(ctx, ids, false, each)
}

// check refuses tokens that the context has no room for or the vocabulary does not have.
func (s *Session) check(ids []int32) error {
	if limit := s.engine.options.Context; len(s.tokens)+len(ids) > limit {
		return fmt.Errorf("%w: %d tokens and %d more, over the limit of %d", ErrContext,
			len(s.tokens), len(ids), limit)
	}
	for _, id := range ids {
		if id < 0 || int(id) >= s.engine.model.Vocab {
			return fmt.Errorf("%w: token id %d is outside the vocabulary of %d", ErrUsage, id,
				s.engine.model.Vocab)
		}
	}
	return nil
}

// keep takes the logits of the last token of a request, and hands all that are wanted on.
func (s *Session) keep(i int, logits []float32) error {
	if i == len(s.request.tokens)-1 {
		s.logits = append(s.logits[:0], logits...)
	}
	if s.each == nil {
		return nil
	}
	return s.each(i, logits)
}

// watch sees to it that a pass is woken when the context ends; once a context, not once a token.
func (s *Session) watch(ctx context.Context) {
	if ctx == s.watched {
		return
	}
	if s.unwatch != nil {
		s.unwatch()
	}
	s.watched, s.unwatch = ctx, nil
	if ctx.Done() != nil {
		s.unwatch = context.AfterFunc(ctx, s.engine.runner.forward.Wake)
	}
}

func (s *Session) feed(ctx context.Context, ids []int32, decode bool,
	each func(int, []float32) error) error {
	if s.closed {
		return ErrClosed
	}
	if err := s.check(ids); err != nil || len(ids) == 0 {
		return err
	}
	s.watch(ctx)
	q := &s.request
	*q = request{ctx: ctx, seq: s.seq, tokens: ids, decode: decode, all: each != nil, ready: q.ready,
		each: q.each}
	s.each = each
	s.logits = s.logits[:0]
	err := s.engine.runner.do(q)
	s.tokens = append(s.tokens, ids[:q.done]...)
	return mapError(err)
}

// Generate appends the prompt to the context and generates tokens, which join the context as they
// come. An error ends the sequence; the context's error ends it at the next layer.
func (s *Session) Generate(ctx context.Context, prompt string, o Sampling) iter.Seq2[Token, error] {
	ids, err := s.engine.Encode(prompt, len(s.tokens) == 0)
	if err != nil {
		return func(yield func(Token, error) bool) { yield(Token{}, err) }
	}
	return s.GenerateTokens(ctx, ids, o)
}

// GenerateTokens is Generate for a prompt of token ids.
func (s *Session) GenerateTokens(ctx context.Context, ids []int32, o Sampling,
) iter.Seq2[Token, error] {
	return func(yield func(Token, error) bool) {
		g, err := s.Start(ids, o)
		if err != nil {
			yield(Token{}, err)
			return
		}
		defer g.Close()
		for {
			token, err := g.Next(ctx)
			if errors.Is(err, io.EOF) || !yield(token, err) || err != nil {
				return
			}
		}
	}
}

// Validate reports an option that makes no sense, wrapping ErrUsage, before a model is opened.
func (o Sampling) Validate() error {
	_, err := o.sampler()
	return err
}

func (o Sampling) sampler() (*sample.Sampler, error) {
	if o.MaxTokens < 0 || o.LogProbs < 0 {
		return nil, fmt.Errorf("%w: MaxTokens %d, LogProbs %d", ErrUsage, o.MaxTokens, o.LogProbs)
	}
	s, err := sample.New(sample.Params{Temperature: o.Temperature, TopK: o.TopK, TopP: o.TopP,
		MinP: o.MinP, RepetitionPenalty: o.RepetitionPenalty, RepetitionWindow: o.RepetitionWindow,
		Seed: o.Seed})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return s, nil
}

// detokenizer turns ids into text and holds back what may be the beginning of a stop string.
type detokenizer struct {
	push1 func(int32) string
	end   func() string
	stop  []string
	held  string
}

func newDetokenizer(e *Engine, stop []string) *detokenizer {
	d := &detokenizer{push1: func(int32) string { return "" }, end: func() string { return "" }}
	for _, s := range stop {
		if s != "" {
			d.stop = append(d.stop, s)
		}
	}
	if e.tok != nil {
		stream := e.tok.NewStream(false)
		d.push1, d.end = stream.Push, stream.Flush
	}
	return d
}

// push returns the text that is certain, and whether a stop string was completed; the text then
// ends before it.
func (d *detokenizer) push(id int32) (text string, stopped bool) {
	d.held += d.push1(id)
	first := len(d.held)
	for _, s := range d.stop {
		if i := strings.Index(d.held, s); i >= 0 && i < first {
			first, stopped = i, true
		}
	}
	if stopped {
		return d.held[:first], true
	}
	keep := 0
	for _, s := range d.stop {
		for n := min(len(s)-1, len(d.held)); n > keep; n-- {
			if strings.HasSuffix(d.held, s[:n]) {
				keep = n
				break
			}
		}
	}
	text = d.held[:len(d.held)-keep]
	d.held = d.held[len(text):]
	return text, false
}

func (d *detokenizer) flush() string {
	text := d.held + d.end()
	d.held = ""
	return text
}
