package engine

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/moering/moering/engine/internal/sample"
)

// PerplexityResult is how well a model predicts a text.
type PerplexityResult struct {
	Perplexity float64 `json:"perplexity"`
	Error      float64 `json:"standard_error"` // of Perplexity
	Nats       float64 `json:"nats_per_token"` // the mean negative log-likelihood
	Scored     int     `json:"tokens_scored"`
	Windows    int     `json:"windows"`
	Window     int     `json:"window_tokens"`
}

// windowMin is the shortest window of which a second half can be scored.
const windowMin = 4

// Perplexity runs a text, as ids, through the model in windows and scores the tokens of the second
// half of each, as llama.cpp's perplexity tool does: tokens window/2+1 to the end, each predicted
// from all before it in its window; what remains after the last whole window is left out; where the
// model adds a token at the beginning of texts, it takes the place of the first of each window.
// window 0 is the context that the engine was opened with. Progress, if not nil, is called after
// each window. The text must fill at least one window.
func Perplexity(ctx context.Context, e *Engine, ids []int32, window int,
	progress func(done, total int)) (r PerplexityResult, err error) {
	if window == 0 {
		window = e.Options().Context
	}
	if limit := e.Options().Context; window < windowMin || window > limit {
		return r, fmt.Errorf("perplexity: %w: a window of %d tokens is outside %d to %d (the context)",
			ErrUsage, window, windowMin, limit)
	}
	if len(ids) < window {
		return r, fmt.Errorf("perplexity: %w: the text has %d tokens, fewer than one window of %d; "+
			"take a shorter window or a longer text", ErrUsage, len(ids), window)
	}
	prefix, err := e.Encode("", true)
	if err != nil {
		return r, err
	}
	s, err := e.NewSession()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	m := meter{session: s, tokens: make([]int32, window)}
	windows := len(ids) / window
	for i := range windows {
		copy(m.tokens, ids[i*window:])
		if len(prefix) > 0 {
			m.tokens[0] = prefix[0]
		}
		if err := m.score(ctx); err != nil {
			return r, fmt.Errorf("perplexity: window %d of %d: %w", i+1, windows, err)
		}
		if progress != nil {
			progress(i+1, windows)
		}
	}
	r = m.result()
	r.Windows, r.Window = windows, window
	return r, nil
}

// meter adds up what the tokens of a text cost.
type meter struct {
	session     *Session
	tokens      []int32 // of one window
	scored      int
	sum, square float64 // of nats, and of nats squared
}

// score runs one window.
func (m *meter) score(ctx context.Context) error {
	if err := m.session.Truncate(0); err != nil {
		return err
	}
	first := len(m.tokens) / 2
	if err := m.session.Feed(ctx, m.tokens[:first]); err != nil {
		return err
	}
	last := len(m.tokens) - 1
	return m.session.Score(ctx, m.tokens[first:last], func(i int, logits []float32) error {
		return m.add(-sample.LogProb(logits, m.tokens[first+i+1]))
	})
}

func (m *meter) add(nats float64) error {
	if math.IsNaN(nats) || math.IsInf(nats, 0) {
		return fmt.Errorf("%w: token %d costs %v nats", ErrFormat, m.scored, nats)
	}
	m.scored++
	m.sum += nats
	m.square += nats * nats
	return nil
}

// result computes mean and standard error, the latter carried to the perplexity by its derivative.
func (m *meter) result() PerplexityResult {
	n := float64(m.scored)
	r := PerplexityResult{Nats: m.sum / n, Scored: m.scored}
	r.Perplexity = math.Exp(r.Nats)
	if variance := m.square/n - r.Nats*r.Nats; m.scored > 1 && variance > 0 {
		r.Error = r.Perplexity * math.Sqrt(variance/(n-1))
	}
	return r
}
