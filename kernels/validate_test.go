package kernels

import (
	"errors"
	"strings"
	"testing"

	"github.com/moering/moering/kernels/quant"
)

// part returns n*4 bytes of fresh memory.
func part(t *testing.T, n int) Span {
	t.Helper()
	b, err := HostBuffer(int64(4 * n))
	if err != nil {
		t.Fatal(err)
	}
	return b.All()
}

func f32(t *testing.T, rows, cols int) Weight {
	return Weight{Data: part(t, rows*cols), Type: quant.F32, Rows: rows, Cols: cols}
}

func TestGoodOpsValidate(t *testing.T) {
	for _, op := range goodOps(t) {
		if err := Validate(op); err != nil {
			t.Errorf("%T: %v", op, err)
		}
	}
}

func goodOps(t *testing.T) []Op {
	p := func(n int) Span { return part(t, n) }
	kv := KV{Pool: p(256), Tables: p(4), PagesMax: 2, PageTokens: 4, PageBytes: 2 * 256,
		Layer: 1, KVHeads: 2, HeadDim: 4}
	return []Op{
		&Embed{Table: f32(t, 5, 8), IDs: p(3), Out: p(24), Rows: 3},
		&RMSNorm{X: p(24), Out: p(24), Gain: p(8), Rows: 3, Dim: 8},
		&MatMul{X: p(24), Rows: 3, Terms: []Term{{W: f32(t, 2, 8), Bias: p(2), Out: p(6)},
			{W: f32(t, 4, 8), Out: p(12)}}},
		&RoPE{X: p(24), Cos: p(3), Sin: p(3), Rows: 3, Heads: 2, HeadDim: 4, Rotated: 2},
		&KVAppend{KV: kv, K: p(24), V: p(24), Seqs: p(3), Pos: p(3), Rows: 3},
		&Attention{KV: kv, Q: p(48), Out: p(48), Seqs: p(3), Pos: p(3), Rows: 3, Heads: 4},
		&Route{Logits: p(12), IDs: p(6), Weights: p(6), Rows: 3, Experts: 4, TopK: 2},
		&ExpertFFN{X: p(24), Out: p(32), Dim: 8, Width: 2, Experts: []Expert{{Gate: f32(t, 2, 8),
			Up: f32(t, 2, 8), Down: f32(t, 8, 2), Rows: []int32{2, 2}, Slots: []int32{0, 3}}, {}}},
		&Combine{X: p(24), Y: p(48), IDs: p(6), Weights: p(6), Shared: p(24), SharedGate: p(3),
			Rows: 3, Dim: 8, TopK: 2},
		&GatherRows{X: p(40), Index: p(3), Out: p(24), Rows: 3, Dim: 8},
	}
}

// Each case breaks one thing of a good op, and names what the message must mention.
func TestBrokenOpsAreErrorsThatNameTheField(t *testing.T) {
	ops := goodOps(t)
	embed, norm, mul := *ops[0].(*Embed), *ops[1].(*RMSNorm), *ops[2].(*MatMul)
	rope, app, att := *ops[3].(*RoPE), *ops[4].(*KVAppend), *ops[5].(*Attention)
	route, ffn := *ops[6].(*Route), *ops[7].(*ExpertFFN)
	combine, gather := *ops[8].(*Combine), *ops[9].(*GatherRows)
	short := func(s Span) Span { return s.Slice(0, s.Bytes-4) }
	mulWith := func(change func(*Term)) *MatMul {
		m := mul
		m.Terms = append([]Term(nil), mul.Terms...)
		change(&m.Terms[1])
		return &m
	}
	ffnWith := func(change func(*Expert)) *ExpertFFN {
		f := ffn
		f.Experts = append([]Expert(nil), ffn.Experts...)
		change(&f.Experts[0])
		return &f
	}
	cases := map[string]Op{
		"unknown op":              nil,
		"IDs has 8 bytes":         with(embed, func(o *Embed) { o.IDs = short(o.IDs) }),
		"Table has type I8":       with(embed, func(o *Embed) { o.Table.Type = quant.I8 }),
		"Table has type type(99)": with(embed, func(o *Embed) { o.Table.Type = 99 }),
		"Table has layout":        with(embed, func(o *Embed) { o.Table.Layout = Tiled }),
		"not whole Q4_0 blocks":   with(embed, func(o *Embed) { o.Table.Type = quant.Q4_0 }),
		"Dim is 0":                with(norm, func(o *RMSNorm) { o.Dim = 0 }),
		"Rows is -1":              with(norm, func(o *RMSNorm) { o.Rows = -1 }),
		"Gain is missing":         with(norm, func(o *RMSNorm) { o.Gain = Span{} }),
		"not a multiple of 4": with(norm, func(o *RMSNorm) {
			o.X = Span{Buffer: part(t, 25).Buffer, Offset: 1, Bytes: 96}
		}),
		"spans bytes 4+96 of": with(norm, func(o *RMSNorm) { o.X.Offset = 4 }),
		"and is not X": with(norm, func(o *RMSNorm) {
			b := part(t, 26)
			o.X, o.Out = b.Slice(0, 96), b.Slice(8, 96)
		}),
		"Out overlaps X": mulWith(func(m *Term) { m.Out = mul.X }),
		"Out overlaps the Out of": mulWith(func(m *Term) {
			m.Out = part(t, 12)
			m.W = f32(t, 2, 8)
			m.Out = mul.Terms[0].Out
		}),
		"W is (4, 4), must be (4, 8)": mulWith(func(m *Term) { m.W = f32(t, 4, 4) }),
		"W has 124 bytes":             mulWith(func(m *Term) { m.W.Data = short(m.W.Data) }),
		"Bias has 12 bytes":           mulWith(func(m *Term) { m.Bias = part(t, 3) }),
		"Rotated is 6":                with(rope, func(o *RoPE) { o.Rotated = 6 }),
		"Rotated is 3":                with(rope, func(o *RoPE) { o.Rotated = 3 }),
		"Cos has 8 bytes":             with(rope, func(o *RoPE) { o.Cos = short(o.Cos) }),
		"KV.Type is Q4_0":             with(app, func(o *KVAppend) { o.KV.Type = quant.Q4_0 }),
		"KV.Type is Q8_0 with":        with(att, func(o *Attention) { o.KV.Type = quant.Q8_0 }),
		"layer 2 of 256":              with(app, func(o *KVAppend) { o.KV.Layer = 2 }),
		"V has 92 bytes":              with(app, func(o *KVAppend) { o.V = short(o.V) }),
		"Heads is 3, not a mult":      with(att, func(o *Attention) { o.Heads = 3 }),
		"Out overlaps Q":              with(att, func(o *Attention) { o.Out = o.Q }),
		"Window is -1":                with(att, func(o *Attention) { o.Window = -1 }),
		"TopK is 5 of 4":              with(route, func(o *Route) { o.TopK = 5 }),
		"expert 0 has 2 rows and 1":   ffnWith(func(e *Expert) { e.Slots = e.Slots[:1] }),
		"row 3 of 3":                  ffnWith(func(e *Expert) { e.Rows = []int32{0, 3} }),
		"slot -1 of 4":                ffnWith(func(e *Expert) { e.Slots = []int32{0, -1} }),
		"Down is (8, 3), must":        ffnWith(func(e *Expert) { e.Down = f32(t, 8, 3) }),
		"Act is 9":                    with(ffn, func(o *ExpertFFN) { o.Act = 9 }),
		"IDs is missing":              with(combine, func(o *Combine) { o.IDs = Span{} }),
		"SharedGate without":          with(combine, func(o *Combine) { o.Shared = Span{} }),
		"neither TopK nor": with(combine, func(o *Combine) {
			o.TopK, o.Shared, o.SharedGate = 0, Span{}, Span{}
		}),
		"Out has 92 bytes": with(gather, func(o *GatherRows) { o.Out = short(o.Out) }),
	}
	for message, op := range cases {
		err := Validate(op)
		if err == nil || !strings.Contains(err.Error(), message) || !errors.Is(err, ErrDevice) {
			t.Errorf("want an error with %q, got: %v", message, err)
		}
	}
}

func with[T any, P interface {
	*T
	Op
}](op T, change func(P)) Op {
	change(&op)
	return P(&op)
}

func TestHugeShapesDoNotOverflowTheCheck(t *testing.T) {
	s := part(t, 4)
	const big = 1<<31 - 1
	for _, op := range []Op{
		&RMSNorm{X: s, Out: s, Gain: s, Rows: big, Dim: big},
		&RoPE{X: s, Cos: s, Sin: s, Rows: big, Heads: big, HeadDim: big},
		&Attention{KV: KV{Pool: s, Tables: s, PagesMax: big, PageTokens: big, PageBytes: 1 << 62,
			KVHeads: big, HeadDim: big}, Q: s, Out: s, Seqs: s, Pos: s, Rows: 1, Heads: big},
		&MatMul{X: s, Rows: 1, Terms: []Term{{W: Weight{Data: s, Type: quant.F32, Rows: big,
			Cols: big}, Out: s}}},
	} {
		if err := Validate(op); !errors.Is(err, ErrDevice) {
			t.Errorf("%T: %v", op, err)
		}
	}
}

func TestCopyAndLandArgumentsAreChecked(t *testing.T) {
	a, b := part(t, 4), part(t, 8)
	if err := ValidateCopy(a, b.Slice(4, 16)); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]Span{{a, b}, {a, {}}, {{}, a},
		{a, {Buffer: a.Buffer, Offset: 8, Bytes: 16}}} {
		if err := ValidateCopy(bad[0], bad[1]); !errors.Is(err, ErrDevice) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	w := Weight{Data: b.Slice(4, 16), Type: quant.F32, Rows: 2, Cols: 2}
	if err := ValidateLand(w, b); err != nil {
		t.Error(err)
	}
	if err := ValidateLand(w, b.Slice(8, 24)); !errors.Is(err, ErrDevice) {
		t.Errorf("outside its memory: %v", err)
	}
	w.Layout = Tiled
	if err := ValidateLand(w, b); !errors.Is(err, ErrDevice) {
		t.Errorf("landed twice: %v", err)
	}
}

func TestValidateAllocatesNothing(t *testing.T) {
	for _, op := range goodOps(t) {
		if n := testing.AllocsPerRun(20, func() { _ = Validate(op) }); n != 0 {
			t.Errorf("%T: %v allocations", op, n)
		}
	}
}

func TestHostBufferIsAlignedAndZero(t *testing.T) {
	for _, n := range []int64{0, 1, 63, 64, 1000} {
		b, err := HostBuffer(n)
		if err != nil || b.Addr%64 != 0 || int64(len(b.Host)) != n || b.Bytes != n {
			t.Fatalf("%d: %+v, %v", n, b, err)
		}
	}
	for _, n := range []int64{-1, 1 << 60} {
		if _, err := HostBuffer(n); !errors.Is(err, ErrDevice) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
