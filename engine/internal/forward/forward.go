// Package forward is the one forward pass of every model family, driven by arch.Spec: it records ops
// on a stream, and asks weights for each layer's experts once the router has chosen.
package forward

import (
	"context"
	"math"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
)

// logitRows is how many rows of logits are computed at once: it bounds their buffer.
const logitRows = 16

// Batch is the rows of a pass. Rows of one sequence are adjacent, their positions ascending.
type Batch struct {
	Tokens, Seqs, Pos []int32
	Logits            []int32 // rows whose logits are wanted, ascending
	Hidden            []int32 // rows whose hidden state after the final norm is wanted, ascending
}

// Forward holds the activations for up to Chunk rows. It is used by one goroutine at a time.
type Forward struct {
	Model    *arch.Model
	Resident *Resident
	Manager  *weights.Manager
	KV       kernels.KV
	Exact    bool
	Prefetch bool
	Chunk    int
	// OnRoute, if set, sees a layer's choice: ids and weights (rows, topK), best first, valid during
	// the call.
	OnRoute func(layer int, ids []int32, weights []float32)

	stream   kernels.Stream
	inv      []float32
	scale    float32
	buffers  []*kernels.Buffer
	all      []int32 // 0, 1, 2, …
	x, n     kernels.Span
	q, k, v  kernels.Span
	attn     kernels.Span
	router   kernels.Span
	ids      kernels.Span
	probs    kernels.Span
	nextIDs  kernels.Span
	y        kernels.Span
	shared   kernels.Span
	gate     kernels.Span
	cos, sin kernels.Span
	tokens   kernels.Span
	seqs     kernels.Span
	pos      kernels.Span
	index    kernels.Span
	rows     kernels.Span // gathered rows of the residual stream
	logits   kernels.Span
	routes   routes
}

type sized struct {
	span  *kernels.Span
	bytes int64
}

// sizes lists the activations of a pass over chunk rows.
func (f *Forward) sizes(m *arch.Model, chunk int) []sized {
	c, k := int64(chunk)*4, int64(max(m.TopK, 1))
	q, kv := int64(m.Heads*m.HeadDim), int64(m.KVHeads*m.HeadDim)
	return []sized{{&f.x, c * int64(m.Dim)}, {&f.n, c * int64(m.Dim)}, {&f.q, c * q},
		{&f.k, c * kv}, {&f.v, c * kv}, {&f.attn, c * q},
		{&f.router, c * int64(max(m.Experts, 1))}, {&f.ids, c * k}, {&f.probs, c * k},
		{&f.nextIDs, c * k}, {&f.y, c * int64(m.Dim) * k}, {&f.shared, c * int64(m.Dim)},
		{&f.gate, c}, {&f.cos, c * int64(m.Rope.Dim/2)}, {&f.sin, c * int64(m.Rope.Dim/2)},
		{&f.tokens, c}, {&f.seqs, c}, {&f.pos, c}, {&f.index, c},
		{&f.rows, logitRows * 4 * int64(m.Dim)}, {&f.logits, logitRows * 4 * int64(m.Vocab)}}
}

// WorkBytes is the memory of a pass over chunk rows: the activations, and as much again for a
// device's scratch (hidden rows of experts, quantised activations).
func WorkBytes(m *arch.Model, chunk int) int64 {
	var n int64
	for _, s := range (&Forward{}).sizes(m, chunk) {
		n += s.bytes
	}
	width := int64(max(m.ExpertWidth*m.TopK, m.DenseWidth, m.SharedWidth))
	return n + int64(chunk)*(width*6+int64(m.Dim)*4)
}

// Open allocates the activations.
func (f *Forward) Open(d kernels.Device) error {
	var err error
	if f.stream, err = d.NewStream("compute"); err != nil {
		return err
	}
	for _, s := range f.sizes(f.Model, f.Chunk) {
		b, err := d.Pin(s.bytes)
		if err != nil {
			return err
		}
		f.buffers = append(f.buffers, b)
		*s.span = b.All()
	}
	f.inv, f.scale = f.Model.Rope.Frequencies()
	f.all = make([]int32, f.Chunk)
	for i := range f.all {
		f.all[i] = int32(i)
	}
	f.routes.init(f.Chunk, f.Model)
	return nil
}

// Close frees stream and activations; it may be called after a failed Open.
func (f *Forward) Close() error {
	var err error
	if f.stream != nil {
		err = f.stream.Close()
	}
	for _, b := range f.buffers {
		if e := b.Free(); err == nil {
			err = e
		}
	}
	f.buffers = nil
	return err
}

// Run computes a pass. logits receives the logits (vocabulary) of the i-th row of b.Logits, hidden the
// state (dim) of the i-th row of b.Hidden; the slices are valid during the calls. The context is looked at before each layer and while waiting for weights; after an error
// the cache holds nothing new that counts, since the caller did not advance its sequences.
func (f *Forward) Run(ctx context.Context, b Batch, logits, hidden func(i int, row []float32),
) error {
	f.begin(b)
	rows := len(b.Tokens)
	for l := range f.Model.Layers {
		if err := ctx.Err(); err != nil {
			return join(err, f.stream.Sync())
		}
		f.attention(l, rows)
		var err error
		if f.Model.Layers[l].Sparse {
			err = f.sparse(ctx, l, rows)
		} else {
			err = f.dense(ctx, l, rows)
		}
		if err != nil {
			return err
		}
	}
	if err := f.hidden(b.Hidden, hidden); err != nil {
		return err
	}
	return f.head(b, logits)
}

func join(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// begin writes the pass's inputs and embeds its tokens.
func (f *Forward) begin(b Batch) {
	rows := len(b.Tokens)
	copy(f.tokens.Int32s(), b.Tokens)
	copy(f.seqs.Int32s(), b.Seqs)
	copy(f.pos.Int32s(), b.Pos)
	cos, sin := f.cos.Float32s(), f.sin.Float32s()
	for t, p := range b.Pos {
		for i, w := range f.inv {
			// The angle is rounded to float32, as transformers does it.
			s, c := math.Sincos(float64(float32(p) * w))
			cos[t*len(f.inv)+i], sin[t*len(f.inv)+i] = float32(c)*f.scale, float32(s)*f.scale
		}
	}
	f.stream.Run(&kernels.Embed{Table: f.Resident.Embedding, IDs: f.tokens, Out: f.x, Rows: rows})
}

// attention records a layer's attention block, and the norm before its feed-forward block.
func (f *Forward) attention(l, rows int) {
	m, w, s := f.Model, &f.Resident.Layers[l], f.stream
	kv := f.KV
	kv.Layer = l
	s.Run(&kernels.RMSNorm{X: f.x, Out: f.n, Gain: w.AttnNorm, Rows: rows, Dim: m.Dim, Eps: m.Eps})
	s.Run(&kernels.MatMul{X: f.n, Rows: rows, Exact: f.Exact, Terms: []kernels.Term{
		{W: w.Query, Bias: w.QueryBias, Out: f.q}, {W: w.Key, Bias: w.KeyBias, Out: f.k},
		{W: w.Value, Bias: w.ValueBias, Out: f.v}}})
	switch m.QKNorm {
	case arch.HeadNorm:
		s.Run(&kernels.RMSNorm{X: f.q, Out: f.q, Gain: w.QueryNorm, Rows: rows * m.Heads,
			Dim: m.HeadDim, Eps: m.Eps})
		s.Run(&kernels.RMSNorm{X: f.k, Out: f.k, Gain: w.KeyNorm, Rows: rows * m.KVHeads,
			Dim: m.HeadDim, Eps: m.Eps})
	case arch.FullNorm:
		s.Run(&kernels.RMSNorm{X: f.q, Out: f.q, Gain: w.QueryNorm, Rows: rows,
			Dim: m.Heads * m.HeadDim, Eps: m.Eps})
		s.Run(&kernels.RMSNorm{X: f.k, Out: f.k, Gain: w.KeyNorm, Rows: rows,
			Dim: m.KVHeads * m.HeadDim, Eps: m.Eps})
	}
	rope := &kernels.RoPE{X: f.q, Cos: f.cos, Sin: f.sin, Rows: rows, Heads: m.Heads,
		HeadDim: m.HeadDim, Rotated: m.Rope.Dim, Interleaved: m.Rope.Interleaved}
	s.Run(rope)
	rope.X, rope.Heads = f.k, m.KVHeads
	s.Run(rope)
	s.Run(&kernels.KVAppend{KV: kv, K: f.k, V: f.v, Seqs: f.seqs, Pos: f.pos, Rows: rows})
	s.Run(&kernels.Attention{KV: kv, Q: f.q, Out: f.attn, Seqs: f.seqs, Pos: f.pos, Rows: rows,
		Heads: m.Heads, Scale: float32(1 / math.Sqrt(float64(m.HeadDim))),
		Window: m.Layers[l].Window})
	s.Run(&kernels.MatMul{X: f.attn, Rows: rows, Exact: f.Exact, Terms: []kernels.Term{
		{W: w.AttnOut, Bias: w.AttnOutBias, Out: f.x, Accumulate: true}}})
	s.Run(&kernels.RMSNorm{X: f.x, Out: f.n, Gain: w.FFNNorm, Rows: rows, Dim: m.Dim, Eps: m.Eps})
}

// dense computes a layer whose feed-forward block is one group.
func (f *Forward) dense(ctx context.Context, l, rows int) error {
	a := f.Manager.Acquire([]int{f.Model.ExpertAt(l, 0)})
	if f.Prefetch && l+1 < len(f.Model.Layers) {
		f.Manager.Predict([]int{f.Model.ExpertAt(l+1, 0)})
	}
	err := f.experts(ctx, a, f.Model.DenseWidth, func(int) (rs, slots []int32) {
		return f.all[:rows], f.all[:rows]
	})
	if err == nil {
		f.stream.Run(&kernels.Combine{X: f.x, Y: f.y, Rows: rows, Dim: f.Model.Dim, TopK: 1})
	}
	return err
}

// sparse computes a layer of experts. The router's choice coming back to the host is its only round
// trip.
func (f *Forward) sparse(ctx context.Context, l, rows int) error {
	m, w, s := f.Model, &f.Resident.Layers[l], f.stream
	f.route(w.Router, f.ids, f.probs, rows, w.SharedRouter)
	if m.SharedWidth > 0 {
		s.Run(&kernels.ExpertFFN{X: f.n, Out: f.shared, Dim: m.Dim, Width: m.SharedWidth,
			Exact: f.Exact, Experts: []kernels.Expert{{Gate: w.SharedGate, Up: w.SharedUp,
				Down: w.SharedDown, Rows: f.all[:rows], Slots: f.all[:rows]}}})
	}
	if err := s.Sync(); err != nil {
		return err
	}
	if f.OnRoute != nil {
		f.OnRoute(l, f.ids.Int32s()[:rows*m.TopK], f.probs.Float32s()[:rows*m.TopK])
	}
	f.routes.build(f.ids.Int32s()[:rows*m.TopK], m, l)
	a := f.Manager.Acquire(f.routes.groups)
	if f.Prefetch {
		f.predict(l, rows)
	}
	if err := f.experts(ctx, a, m.ExpertWidth, f.routes.of); err != nil {
		return err
	}
	c := &kernels.Combine{X: f.x, Y: f.y, IDs: f.ids, Weights: f.probs, Rows: rows, Dim: m.Dim,
		TopK: m.TopK}
	if m.SharedWidth > 0 {
		c.Shared, c.SharedGate = f.shared, f.gate
	}
	s.Run(c)
	return nil
}

func (f *Forward) route(router kernels.Weight, ids, probs kernels.Span, rows int,
	shared kernels.Weight) {
	m := f.Model
	terms := []kernels.Term{{W: router, Out: f.router}}
	if !shared.IsZero() {
		terms = append(terms, kernels.Term{W: shared, Out: f.gate})
	}
	f.stream.Run(&kernels.MatMul{X: f.n, Rows: rows, Terms: terms, Exact: true})
	f.stream.Run(&kernels.Route{Logits: f.router, IDs: ids, Weights: probs, Rows: rows,
		Experts: m.Experts, TopK: m.TopK, Normalize: m.Normalize})
}

// predict runs the next layer's router on the present hidden state, while reads of this layer are
// under way, and names its choice to the manager. It writes nothing that the layer itself reads.
func (f *Forward) predict(l, rows int) {
	m := f.Model
	if l+1 >= len(m.Layers) || !m.Layers[l+1].Sparse || rows*m.TopK > m.Experts {
		return // with many rows nearly every expert is hit, and there is nothing to predict
	}
	f.route(f.Resident.Layers[l+1].Router, f.nextIDs, f.y, rows, kernels.Weight{})
	if f.stream.Sync() != nil {
		return // the failure sticks to the stream, and the pass ends with it
	}
	f.routes.predicted = f.routes.predicted[:0]
	for _, id := range f.nextIDs.Int32s()[:rows*m.TopK] {
		f.routes.predicted = append(f.routes.predicted, m.ExpertAt(l+1, int(id)))
	}
	f.Manager.Predict(f.routes.predicted)
}

// experts computes groups in the order in which they become ready.
func (f *Forward) experts(ctx context.Context, a *weights.Acquisition, width int,
	of func(group int) (rows, slots []int32)) error {
	defer a.Release()
	list := f.routes.list
	for {
		leases, err := a.Next(ctx)
		if err != nil {
			return join(err, f.stream.Sync())
		}
		if len(leases) == 0 {
			break
		}
		list = list[:0]
		for _, l := range leases {
			rows, slots := of(l.Group)
			list = append(list, kernels.Expert{Gate: l.Gate, Up: l.Up, Down: l.Down, Rows: rows,
				Slots: slots})
		}
		f.stream.Run(&kernels.ExpertFFN{X: f.n, Out: f.y, Dim: f.Model.Dim, Width: width,
			Exact: f.Exact, Experts: list})
		a.Computed(f.stream.Record())
	}
	return f.stream.Sync()
}

// final gathers rows of the residual stream and norms them.
func (f *Forward) final(index []int32) {
	m, rows := f.Model, len(index)
	copy(f.index.Int32s(), index)
	f.stream.Run(&kernels.GatherRows{X: f.x, Index: f.index, Out: f.rows, Rows: rows, Dim: m.Dim})
	f.stream.Run(&kernels.RMSNorm{X: f.rows, Out: f.rows, Gain: f.Resident.OutputNorm, Rows: rows,
		Dim: m.Dim, Eps: m.Eps})
}

// hidden hands out the wanted hidden states, a few rows at a time.
func (f *Forward) hidden(wanted []int32, each func(i int, state []float32)) error {
	dim := f.Model.Dim
	for at := 0; at < len(wanted); at += logitRows {
		rows := min(logitRows, len(wanted)-at)
		f.final(wanted[at : at+rows])
		if err := f.stream.Sync(); err != nil {
			return err
		}
		for i := range rows {
			each(at+i, f.rows.Float32s()[i*dim:(i+1)*dim])
		}
	}
	return nil
}

// head computes the wanted logits, a few rows at a time.
func (f *Forward) head(b Batch, each func(i int, logits []float32)) error {
	m := f.Model
	for at := 0; at < len(b.Logits); at += logitRows {
		rows := min(logitRows, len(b.Logits)-at)
		f.final(b.Logits[at : at+rows])
		f.stream.Run(&kernels.MatMul{X: f.rows, Rows: rows, Exact: f.Exact,
			Terms: []kernels.Term{{W: f.Resident.Output, Out: f.logits}}})
		if err := f.stream.Sync(); err != nil {
			return err
		}
		for i := range rows {
			each(at+i, f.logits.Float32s()[i*m.Vocab:(i+1)*m.Vocab])
		}
	}
	return f.stream.Sync()
}
