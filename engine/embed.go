package engine

import (
	"context"
	"errors"
	"fmt"
)

// Pooling says how the hidden states of a text's tokens become one vector.
type Pooling int

// The kinds of Pooling.
const (
	PoolMean Pooling = iota // the mean over all tokens
	PoolLast                // the state after the last token, which has seen all others
)

// Embed computes a text's tokens and returns their pooled hidden states after the final norm:
// Info.Dim values, not normalised to unit length. It takes one of Options.Sequences while it runs.
// The result does not depend on what else runs. It is safe for concurrent use.
func (e *Engine) Embed(ctx context.Context, ids []int32, pooling Pooling) (_ []float32, err error) {
	if len(ids) == 0 {
		return nil, fmt.Errorf("%w: there is nothing to embed: no tokens", ErrUsage)
	}
	if pooling != PoolMean && pooling != PoolLast {
		return nil, fmt.Errorf("%w: pooling %d is unknown", ErrUsage, pooling)
	}
	s, err := e.NewSession()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.check(ids); err != nil {
		return nil, err
	}
	sum := make([]float64, e.model.Dim)
	s.watch(ctx)
	q := &s.request
	*q = request{ctx: ctx, seq: s.seq, tokens: ids, ready: q.ready, hidden: func(i int, state []float32) {
		if pooling == PoolLast && i < len(ids)-1 {
			return
		}
		for j, v := range state {
			sum[j] += float64(v)
		}
	}}
	if err := e.runner.do(q); err != nil {
		return nil, mapError(err)
	}
	count := float64(1)
	if pooling == PoolMean {
		count = float64(len(ids))
	}
	out := make([]float32, len(sum))
	for j, v := range sum {
		out[j] = float32(v / count)
	}
	return out, nil
}
