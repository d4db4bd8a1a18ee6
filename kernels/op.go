package kernels

import (
	"slices"

	"math"

	"github.com/moering/moering/kernels/quant"
)

// Layout says how the elements of a weight matrix lie in memory.
type Layout uint8

const (
	// Published is the layout of the model file: rows one after the other, blocks along a row.
	Published Layout = iota
	// Tiled interleaves 16 rows, so that a kernel reads one sequential stream and each SIMD lane
	// owns a row. Only kernels/cpu produces and reads it.
	Tiled
)

// Weight is a matrix of weights in device memory, of Rows outputs and Cols inputs.
type Weight struct {
	Data   Span
	Type   quant.Type
	Rows   int
	Cols   int
	Layout Layout
}

// IsZero reports whether w is the zero weight, which stands for "none" in optional fields.
func (w Weight) IsZero() bool { return w.Data.IsZero() }

// Op is one operation on device memory. The set is closed; each op has one meaning on every device,
// given by the formula in its comment and computed in float64 by kernels/ref.
//
// Unless an op says otherwise, activations are float32, row-major, densely packed: a span
// "(rows, dim)" holds rows*dim values. Row indices, token ids, positions and expert ids are int32.
// An op's result for a row is bit-identical whatever other rows are computed with it.
// Ops are passed by pointer. A stream has read the struct, its Terms and its Experts when Run returns,
// and the caller may fill them anew; only Rows and Slots of Experts belong to the op until it has run.
type Op interface{ op() }

// Embed looks up token rows: Out[t] = Table[IDs[t]].
type Embed struct {
	Table Weight // (vocabulary, dim), always in the Published layout
	IDs   Span   // (rows) int32
	Out   Span   // (rows, dim)
	Rows  int
}

// RMSNorm computes Out[t] = X[t] / sqrt(mean(X[t]^2) + Eps) * Gain. Out may be X. For a norm per
// head, Rows counts rows*heads and Dim is the head's width.
type RMSNorm struct {
	X, Out Span // (rows, dim)
	Gain   Span // (dim)
	Rows   int
	Dim    int
	Eps    float32
}

// Term is one product of a MatMul.
type Term struct {
	W    Weight // (outputs, inputs)
	Bias Span   // (outputs) float32; optional
	Out  Span   // (rows, outputs)
	// Accumulate adds the product to what Out holds: Out = Out + (X W^T + Bias), the product rounded
	// to float32 before it is added.
	Accumulate bool
}

// MatMul computes Out[t] = X[t] W^T + Bias for each term; the terms share X, so that it is prepared
// once and one barrier serves them all. Outputs of terms must not overlap, nor overlap X.
type MatMul struct {
	X     Span // (rows, inputs)
	Rows  int
	Terms []Term
	// Exact multiplies with float32 activations; otherwise a device may quantise the activations of
	// block-quantised weights to int8 with a scale per 32 (kernels/cpu says how, and with what error).
	Exact bool
}

// RoPE rotates each head of X in place by the angles of its row.
type RoPE struct {
	X        Span // (rows, heads, headDim)
	Cos, Sin Span // (rows, rotated/2), already scaled by the attention factor
	Rows     int
	Heads    int
	HeadDim  int
	Rotated  int // leading elements of a head that rotate; even, <= HeadDim
	// Interleaved pairs elements (2i, 2i+1), as GGUF files of the llama architecture are permuted
	// for; otherwise (i, i+Rotated/2), as in Hugging Face checkpoints.
	Interleaved bool
}

// KV describes a paged key-value cache. A page holds PageTokens consecutive positions of one
// sequence, for every layer. Inside a page, layer l has its keys as (kvHeads, PageTokens, headDim)
// elements of Type, followed by its values in the same shape; it begins l*LayerBytes() in.
type KV struct {
	Pool       Span // all pages, one after the other
	Tables     Span // (sequences, pagesMax) int32: the page of each PageTokens positions
	PagesMax   int  // row length of Tables
	PageTokens int
	PageBytes  int64 // layers * LayerBytes()
	Layer      int
	KVHeads    int
	HeadDim    int
	// Type is F32 (the zero value) or F16, which every device stores, or Q8_0, which a device may
	// decline; HeadDim is then a multiple of 32. All arithmetic is in float32 on what is stored.
	Type quant.Type
}

// CacheBytes returns the bytes of n elements of a row of a key-value cache in a type that KV may
// have; false for other types, a part of a block, or an overflow.
func CacheBytes(t quant.Type, n int64) (int64, bool) {
	if t != quant.F32 && t != quant.F16 && t != quant.Q8_0 {
		return 0, false
	}
	return t.RowBytes(n)
}

// LayerBytes returns the bytes of one layer in a page, half of them keys; 0 where Type and HeadDim
// do not go together or the number overflows.
func (k *KV) LayerBytes() int64 {
	n, ok := CacheBytes(k.Type, int64(k.HeadDim))
	if !ok {
		return 0
	}
	for _, m := range [...]int{2, k.KVHeads, k.PageTokens} {
		if m < 1 || n > math.MaxInt64/int64(m) {
			return 0
		}
		n *= int64(m)
	}
	return n
}

// KVAppend stores the keys and values of rows at their positions. In F16 each value is rounded to
// nearest even. In Q8_0 blocks are those of quant.Encode; one with a value that is not finite, or too
// large, has a scale of NaN (0x7E00) and codes of zero.
type KVAppend struct {
	KV   KV
	K, V Span // (rows, kvHeads, headDim)
	Seqs Span // (rows) int32: row of KV.Tables
	Pos  Span // (rows) int32
	Rows int
}

// Attention computes, for each row t and head h with s = Scale,
//
//	Out[t,h] = sum_p softmax_p(s * Q[t,h].K[p]) V[p],  Pos[t]-Window < p <= Pos[t], p >= 0
//
// over the positions of the row's sequence; query head h reads key-value head h*kvHeads/heads.
type Attention struct {
	KV     KV
	Q, Out Span // (rows, heads, headDim)
	Seqs   Span // (rows) int32; rows of one sequence are adjacent, positions ascending
	Pos    Span // (rows) int32
	Rows   int
	Heads  int
	Scale  float32
	Window int // 0: all positions up to the row's own
}

// Route chooses experts: p = softmax(Logits[t]) over all experts, the TopK largest (the lower index
// first among equals), IDs in descending order of p. Weights are p, divided by their sum where
// Normalize is set.
type Route struct {
	Logits    Span // (rows, experts)
	IDs       Span // (rows, topK) int32
	Weights   Span // (rows, topK)
	Rows      int
	Experts   int
	TopK      int
	Normalize bool
}

// Activation is the non-linearity of a gated feed-forward block.
type Activation uint8

// SiLU is x*sigmoid(x).
const SiLU Activation = 0

// Expert is one expert's matrices and the rows that chose it.
type Expert struct {
	Gate, Up Weight // (width, dim)
	Down     Weight // (dim, width)
	// Rows are the rows of X to compute; Slots the rows of Out that receive them. The slices are read
	// when the op runs, and belong to the op until then.
	Rows, Slots []int32
}

// ExpertFFN computes Out[slot] = Down(act(Gate x) * Up x) for each expert's rows. Slots are distinct
// over all experts of the op. A dense feed-forward block is the case of one expert with all rows.
type ExpertFFN struct {
	X       Span // (rows, dim)
	Out     Span // (slots, dim)
	Dim     int
	Width   int
	Experts []Expert
	Act     Activation
	Exact   bool // as in MatMul
}

// Combine adds the experts of each row to the residual stream:
//
//	X[t] = X[t] + (sum_j Weights[t,j] Y[t*TopK+j] + sigmoid(SharedGate[t]) Shared[t])
//
// The sum begins at zero and takes j in ascending order of IDs[t,j], then the shared expert, each
// step rounded to float32 (product, then sum); the result is independent of the order in which
// experts were computed.
type Combine struct {
	X          Span // (rows, dim)
	Y          Span // (rows*topK, dim)
	IDs        Span // (rows, topK) int32; the zero span with TopK == 1 means a weight of one
	Weights    Span // (rows, topK); the zero span with TopK == 1 means a weight of one
	Shared     Span // (rows, dim); optional
	SharedGate Span // (rows, 1); optional: a shared expert without it is added as it is
	Rows       int
	Dim        int
	TopK       int // 0: the shared expert alone
}

// GatherRows copies rows: Out[i] = X[Index[i]].
type GatherRows struct {
	X     Span // (anything, dim)
	Index Span // (rows) int32
	Out   Span // (rows, dim)
	Rows  int
	Dim   int
}

func (*Embed) op()      {}
func (*RMSNorm) op()    {}
func (*MatMul) op()     {}
func (*RoPE) op()       {}
func (*KVAppend) op()   {}
func (*Attention) op()  {}
func (*Route) op()      {}
func (*ExpertFFN) op()  {}
func (*Combine) op()    {}
func (*GatherRows) op() {}

// Clone returns a copy of an op for a stream that reads it later, Terms and Experts included.
func Clone(op Op) Op {
	switch o := op.(type) {
	case *Embed:
		return copied(o)
	case *RMSNorm:
		return copied(o)
	case *MatMul:
		c := copied(o)
		c.Terms = slices.Clone(o.Terms)
		return c
	case *RoPE:
		return copied(o)
	case *KVAppend:
		return copied(o)
	case *Attention:
		return copied(o)
	case *Route:
		return copied(o)
	case *ExpertFFN:
		c := copied(o)
		c.Experts = slices.Clone(o.Experts)
		return c
	case *Combine:
		return copied(o)
	case *GatherRows:
		return copied(o)
	}
	return op
}

func copied[T any](o *T) *T {
	c := *o
	return &c
}
