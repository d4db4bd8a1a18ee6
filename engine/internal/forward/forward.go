// Package forward is the one forward pass of every model family, driven by arch.Spec: it records ops
// on a stream, and asks weights for each layer's groups, for experts once the router has chosen.
package forward

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/trace"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/sched"
)

// logitRows is how many rows of logits are computed at once: it bounds their buffer.
const logitRows = 16

// Batch is the rows of a pass. Rows of one sequence are adjacent, their positions ascending.
type Batch struct {
	Tokens, Seqs, Pos []int32
	Logits            []int32 // rows whose logits are wanted, ascending
	Hidden            []int32 // rows whose hidden state after the final norm is wanted, ascending
	// Sweep marks one of many passes that use most weights once: see weights.Tier.AsRead.
	Sweep bool
}

// asReadRows is from how many rows of a group on it is cheaper to rearrange a tile whenever it is used:
// in cache that takes the time of two or three rows, as the group lands that of eight.
const asReadRows = 8

// Forward holds the activations for up to Chunk rows. It is used by one goroutine at a time.
type Forward struct {
	Model    *arch.Model
	Resident *Resident
	Experts  *weights.Tier // groups as in arch.Model.Groups
	Dense    *weights.Tier // a group a layer
	Beside   *Beside       // nil: the device computes all experts
	KV       kernels.KV
	Exact    bool
	Chunk    int
	// Predictor keeps the books of reading ahead; nil: nothing is read ahead on a guess.
	Predictor *sched.Predictor
	Adapt     bool               // tell the predictor how busy the disk is
	Trace     *trace.Recorder    // nil: none
	Routes    *sched.TraceWriter // nil: none
	// OnRoute, if set, sees a layer's choice: ids and weights (rows, topK), best first, valid during
	// the call.
	OnRoute func(layer int, ids []int32, weights []float32)

	buffers
	unified bool
	owned   []*kernels.Buffer
	stream  kernels.Stream
	own     side // the device's
	inv     []float32
	scale   float32
	all     []int32 // 0, 1, 2, …
	regime  sched.Regime
	layer   Layer // the present layer's weights
	next    []int // groups to be read ahead
	chances []float64
	routes  routes
	ops     ops
	// booksMu guards the predictor.
	booksMu sync.Mutex
	waited  time.Duration
	// routeErr is the first failure of writing Routes.
	routeErr error
	record   record
}

// ops are the ops as they are passed to the stream: reused, so that a pass allocates none.
type ops struct {
	embed   kernels.Embed
	norm    kernels.RMSNorm
	mul     kernels.MatMul
	terms   [4]kernels.Term
	rope    kernels.RoPE
	app     kernels.KVAppend
	attend  kernels.Attention
	route   kernels.Route
	shared  [1]kernels.Expert
	combine kernels.Combine
	gather  kernels.GatherRows
}

// Open allocates the activations.
func (f *Forward) Open(d kernels.Device) error {
	var err error
	if f.stream, err = d.NewStream("compute"); err != nil {
		return err
	}
	if err := f.allocate(d); err != nil {
		return err
	}
	f.inv, f.scale = f.Model.Rope.Frequencies()
	f.all = make([]int32, f.Chunk)
	for i := range f.all {
		f.all[i] = int32(i)
	}
	f.next = make([]int, 0, max(f.Model.Experts, 1))
	f.chances = make([]float64, 0, max(f.Model.Experts, 1))
	f.routes.init(f.Chunk, f.Model)
	f.own = side{stream: f.stream, x: f.n, y: f.y, list: expertList(f.Model)}
	if f.Beside != nil {
		return f.Beside.open(f, d)
	}
	return nil
}

func expertList(m *arch.Model) []kernels.Expert { return make([]kernels.Expert, 0, max(m.Experts, 1)) }

// Close frees stream and activations; it may be called after a failed Open.
func (f *Forward) Close() error {
	var err error
	if f.Beside != nil {
		err = f.Beside.close()
	}
	if f.stream != nil {
		err = join(err, f.stream.Close())
	}
	for _, b := range f.owned {
		err = join(err, b.Free())
	}
	f.owned = nil
	return err
}

// Wake makes a pass that waits for weights look at its context.
func (f *Forward) Wake() {
	f.Experts.Wake()
	f.Dense.Wake()
	if f.Beside != nil {
		f.Beside.Experts.Wake()
	}
}

// Run computes a pass. logits receives the logits (vocabulary) of the i-th row of b.Logits, hidden the
// state (dim) of the i-th row of b.Hidden; the slices are valid during the calls. The context is looked
// at before each layer, and while waiting for weights when Wake is called; after an error the cache
// holds nothing new that counts, since the caller did not advance its sequences.
func (f *Forward) Run(ctx context.Context, b Batch, logits, hidden func(i int, row []float32),
) error {
	start := time.Now()
	rows := len(b.Tokens)
	f.regime = sched.Latency
	if f.Model.Experts > 0 {
		f.regime = sched.RegimeOf(rows, f.Model.Experts, f.Model.TopK)
	}
	if f.Routes != nil {
		f.routeErr = join(f.routeErr, f.Routes.Pass(rows, sequences(b)))
		f.record.begin(start, f.Experts.Counters())
	}
	f.Dense.AsRead(b.Sweep && rows >= asReadRows)
	f.Experts.AsRead(b.Sweep && rows*max(f.Model.TopK, 1) >= asReadRows*max(f.Model.Experts, 1))
	f.begin(b)
	for l := range f.Model.Layers {
		if err := f.run(ctx, l, rows); err != nil {
			// Kernels that are under way still read what the caller may free.
			return join(err, f.stream.Sync())
		}
	}
	err := f.hidden(b.Hidden, hidden)
	if err == nil {
		err = f.head(b.Logits, logits)
	}
	now := time.Now()
	f.Trace.Span(trace.Passes, f.regime.String(), rows, -1, 0, start, now)
	f.adapt(now.Sub(start))
	err = join(err, f.stream.Sync())
	if f.Routes != nil && err == nil {
		f.routeErr = join(f.routeErr, f.Routes.Done(f.record.end(time.Now(), f.Experts.Counters())))
	}
	return err
}

// RouteErr is the first failure of writing the routing trace.
func (f *Forward) RouteErr() error { return f.routeErr }

// sequences counts the sequences of a pass, whose rows are adjacent.
func sequences(b Batch) (n int) {
	for i, s := range b.Seqs {
		if i == 0 || s != b.Seqs[i-1] {
			n++
		}
	}
	return n
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
	copy(f.tokens.host.Int32s(), b.Tokens)
	copy(f.seqs.host.Int32s(), b.Seqs)
	copy(f.pos.host.Int32s(), b.Pos)
	cos, sin := f.cos.host.Float32s(), f.sin.host.Float32s()
	for t, p := range b.Pos {
		for i, w := range f.inv {
			// The angle is rounded to float32, as transformers does it.
			s, c := math.Sincos(float64(float32(p) * w))
			cos[t*len(f.inv)+i], sin[t*len(f.inv)+i] = float32(c)*f.scale, float32(s)*f.scale
		}
	}
	n := int64(rows) * 4
	f.up(f.tokens, n)
	f.up(f.seqs, n)
	f.up(f.pos, n)
	f.up(f.cos, n*int64(len(f.inv)))
	f.up(f.sin, n*int64(len(f.inv)))
	f.up(f.tables, f.tables.host.Bytes)
	f.ops.embed = kernels.Embed{Table: f.Resident.Embedding, IDs: f.tokens.device, Out: f.x,
		Rows: rows}
	f.stream.Run(&f.ops.embed)
}

// run computes a layer.
func (f *Forward) run(ctx context.Context, l, rows int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	start := f.Trace.Now()
	group := [1]int{l}
	dense := f.Dense.Acquire(l, group[:])
	f.Dense.Ahead(f.following(l), sched.ClassCertain, int64(l+1), nil)
	leases, err := dense.Next(ctx)
	if err != nil {
		dense.Release()
		return err
	}
	f.Resident.bind(&f.layer, l, f.Dense.Parts(l), leases[0].Weights)
	f.attention(l, rows)
	if f.Model.Layers[l].Sparse {
		err = f.sparse(ctx, l, rows, dense)
	} else {
		err = f.single(ctx, l, rows, dense)
	}
	if err != nil { // kernels that read the dense weights may be under way
		err = join(err, f.stream.Sync())
	}
	dense.Release()
	f.Trace.Span(trace.Compute, "layer", l, -1, 0, start, f.Trace.Now())
	return err
}

// following lists the layers after l, round the cycle, whose dense weights may be read ahead; the tier
// takes as many as it has sections for.
func (f *Forward) following(l int) []int {
	f.next = f.next[:0]
	if f.Dense.Complete() {
		return f.next
	}
	layers := len(f.Model.Layers)
	for i := 1; i <= min(denseAhead, layers-1); i++ {
		f.next = append(f.next, (l+i)%layers)
	}
	return f.next
}

// denseAhead is how many layers ahead dense weights are read: with the present one, as many sections
// as a ring of them has at least.
const denseAhead = 2

// norm records a norm.
func (f *Forward) norm(x, out, gain kernels.Span, rows, dim int) {
	f.ops.norm = kernels.RMSNorm{X: x, Out: out, Gain: gain, Rows: rows, Dim: dim, Eps: f.Model.Eps}
	f.stream.Run(&f.ops.norm)
}

// matmul records products of x; f.ops.terms has n of them.
func (f *Forward) matmul(x kernels.Span, rows, n int, exact bool) {
	f.ops.mul = kernels.MatMul{X: x, Rows: rows, Exact: exact, Terms: f.ops.terms[:n]}
	f.stream.Run(&f.ops.mul)
}

// attention records a layer's attention block, and the norm before its feed-forward block.
func (f *Forward) attention(l, rows int) {
	m, w, o := f.Model, &f.layer, &f.ops
	kv := f.KV
	kv.Layer = l
	f.norm(f.x, f.n, w.AttnNorm, rows, m.Dim)
	o.terms[0] = kernels.Term{W: w.Query, Bias: w.QueryBias, Out: f.q}
	o.terms[1] = kernels.Term{W: w.Key, Bias: w.KeyBias, Out: f.k}
	o.terms[2] = kernels.Term{W: w.Value, Bias: w.ValueBias, Out: f.v}
	f.matmul(f.n, rows, 3, f.Exact)
	switch m.QKNorm {
	case arch.HeadNorm:
		f.norm(f.q, f.q, w.QueryNorm, rows*m.Heads, m.HeadDim)
		f.norm(f.k, f.k, w.KeyNorm, rows*m.KVHeads, m.HeadDim)
	case arch.FullNorm:
		f.norm(f.q, f.q, w.QueryNorm, rows, m.Heads*m.HeadDim)
		f.norm(f.k, f.k, w.KeyNorm, rows, m.KVHeads*m.HeadDim)
	}
	o.rope = kernels.RoPE{X: f.q, Cos: f.cos.device, Sin: f.sin.device, Rows: rows, Heads: m.Heads,
		HeadDim: m.HeadDim, Rotated: m.Rope.Dim, Interleaved: m.Rope.Interleaved}
	f.stream.Run(&o.rope)
	o.rope.X, o.rope.Heads = f.k, m.KVHeads
	f.stream.Run(&o.rope)
	o.app = kernels.KVAppend{KV: kv, K: f.k, V: f.v, Seqs: f.seqs.device, Pos: f.pos.device,
		Rows: rows}
	f.stream.Run(&o.app)
	o.attend = kernels.Attention{KV: kv, Q: f.q, Out: f.attn, Seqs: f.seqs.device,
		Pos: f.pos.device, Rows: rows, Heads: m.Heads,
		Scale: float32(1 / math.Sqrt(float64(m.HeadDim))), Window: m.Layers[l].Window}
	f.stream.Run(&o.attend)
	o.terms[0] = kernels.Term{W: w.AttnOut, Bias: w.AttnOutBias, Out: f.x, Accumulate: true}
	f.matmul(f.attn, rows, 1, f.Exact)
	f.norm(f.x, f.n, w.FFNNorm, rows, m.Dim)
}

// final gathers rows of the residual stream and norms them.
func (f *Forward) final(index []int32) {
	m, rows := f.Model, len(index)
	copy(f.index.host.Int32s(), index)
	f.up(f.index, int64(rows)*4)
	f.ops.gather = kernels.GatherRows{X: f.x, Index: f.index.device, Out: f.rows.device, Rows: rows,
		Dim: m.Dim}
	f.stream.Run(&f.ops.gather)
	f.norm(f.rows.device, f.rows.device, f.Resident.OutputNorm, rows, m.Dim)
}

// hidden hands out the wanted hidden states, a few rows at a time.
func (f *Forward) hidden(wanted []int32, each func(i int, state []float32)) error {
	dim := f.Model.Dim
	for at := 0; at < len(wanted); at += logitRows {
		rows := min(logitRows, len(wanted)-at)
		f.final(wanted[at : at+rows])
		f.down(f.rows, int64(rows*dim)*4)
		if err := f.stream.Sync(); err != nil {
			return err
		}
		for i := range rows {
			each(at+i, f.rows.host.Float32s()[i*dim:(i+1)*dim])
		}
	}
	return nil
}

// head computes the wanted logits, a few rows at a time.
func (f *Forward) head(wanted []int32, each func(i int, logits []float32)) error {
	vocab := f.Model.Vocab
	for at := 0; at < len(wanted); at += logitRows {
		rows := min(logitRows, len(wanted)-at)
		f.final(wanted[at : at+rows])
		f.ops.terms[0] = kernels.Term{W: f.Resident.Output, Out: f.logits.device}
		f.matmul(f.rows.device, rows, 1, f.Exact)
		f.down(f.logits, int64(rows*vocab)*4)
		if err := f.stream.Sync(); err != nil {
			return err
		}
		for i := range rows {
			each(at+i, f.logits.host.Float32s()[i*vocab:(i+1)*vocab])
		}
	}
	return nil
}
