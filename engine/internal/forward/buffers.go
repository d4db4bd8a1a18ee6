package forward

import (
	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels"
)

// mirror is memory that host and device both work on. Where the device computes in host memory the two
// are the same, and nothing is copied.
type mirror struct{ host, device kernels.Span }

// buffers are the activations of up to a chunk of rows.
type buffers struct {
	x, n       kernels.Span // the residual stream, and its normed rows
	q, k, v    kernels.Span // with attn, these are in the memory of y: a layer needs either
	attn       kernels.Span
	router     kernels.Span // logits of the layer's router
	nextRouter kernels.Span // of the next layer's
	nextProbs  kernels.Span
	y          kernels.Span // outputs of experts
	shared     kernels.Span
	gate       kernels.Span

	tokens, seqs, pos mirror
	cos, sin          mirror
	index             mirror
	tables            mirror // of the KV cache's pages
	ids, nextIDs      mirror
	probs             mirror
	rows              mirror // gathered rows of the residual stream
	logits            mirror
}

type sized struct {
	span  *kernels.Span
	bytes int64
}

type mirrored struct {
	mirror *mirror
	bytes  int64
}

// sizes lists the buffers of a pass over chunk rows.
func (f *buffers) sizes(m *arch.Model, chunk int) ([]sized, []mirrored) {
	c, k := int64(chunk)*4, int64(max(m.TopK, 1))
	q, kv := int64(m.Heads*m.HeadDim), int64(m.KVHeads*m.HeadDim)
	experts := int64(max(m.Experts, 1))
	shared := int64(0)
	if m.SharedWidth > 0 {
		shared = int64(m.Dim)
	}
	return []sized{{&f.x, c * int64(m.Dim)}, {&f.n, c * int64(m.Dim)}, {&f.router, c * experts},
			{&f.nextRouter, c * experts}, {&f.nextProbs, c * k},
			{&f.y, c * max(int64(m.Dim)*k, 2*(q+kv))}, {&f.shared, c * shared}, {&f.gate, c}},
		[]mirrored{{&f.tokens, c}, {&f.seqs, c}, {&f.pos, c}, {&f.cos, c * int64(m.Rope.Dim/2)},
			{&f.sin, c * int64(m.Rope.Dim/2)}, {&f.index, logitRows * 4}, {&f.ids, c * k},
			{&f.probs, c * k}, {&f.nextIDs, c * k}, {&f.rows, logitRows * 4 * int64(m.Dim)},
			{&f.logits, logitRows * 4 * int64(m.Vocab)}}
}

// WorkBytes is the memory of a pass over chunk rows: the activations with a device's scratch (hidden
// rows of experts, quantised activations), and of these what the host must have of its own where the
// device does not compute in host memory.
func WorkBytes(m *arch.Model, chunk int) (all, host int64) {
	only, both := (&buffers{}).sizes(m, chunk)
	for _, s := range both {
		host += s.bytes
	}
	all = host
	for _, s := range only {
		all += s.bytes
	}
	width := int64(max(m.ExpertWidth*m.TopK, m.DenseWidth, m.SharedWidth))
	return all + int64(chunk)*(width*6+int64(m.Dim)*4), host
}

// DeviceScratchBytes is what the ops of a pass take more on a device with memory of its own, whose
// kernels hand values through it: activations in up to three 16-bit pieces, hidden rows of experts with
// them, and partial results of attention; with a quarter for growth.
func DeviceScratchBytes(m *arch.Model, chunk, context int) int64 {
	const pieces, hidden = 3 * 2, 2*4 + 3*2 // bytes a value
	rows := int64(chunk)
	width := int64(max(m.ExpertWidth*m.TopK, m.DenseWidth, m.SharedWidth))
	products := rows * (int64(max(m.Dim, m.Heads*m.HeadDim))*pieces + width*hidden)
	attention := min(partsMax, rows*int64(m.Heads)*int64(context/partTokens+1)*int64(m.HeadDim+2)*4)
	return max(products, attention)*5/4 + scratchRound
}

// BesideBytes is the host memory that experts beside a device take, in passes over chunk rows: the rows
// and outputs there, and the processor's scratch.
func BesideBytes(m *arch.Model, chunk int) int64 {
	width, rows, outputs := max(m.ExpertWidth*m.TopK, m.DenseWidth), m.Dim, m.Dim*max(m.TopK, 1)
	return int64(chunk) * 4 * int64(rows+outputs+m.Dim+width)
}

const (
	scratchRound = 2 << 20
	partsMax     = 32 << 20 // of attention's partial results
	partTokens   = 64       // positions of a part, at least
)

// allocate makes the buffers.
func (f *Forward) allocate(d kernels.Device) error {
	f.unified = d.Info().Unified
	only, both := f.sizes(f.Model, f.Chunk)
	for _, s := range only {
		if s.bytes == 0 {
			continue
		}
		if err := f.memory(d, s.span, s.bytes); err != nil {
			return err
		}
	}
	f.overlay(f.Model, f.Chunk)
	for _, s := range both {
		if err := f.mirrored(d, s.mirror, s.bytes); err != nil {
			return err
		}
	}
	f.tables = mirror{f.KV.Tables, f.KV.Tables}
	if !f.unified {
		if err := f.memory(d, &f.tables.device, f.KV.Tables.Bytes); err != nil {
			return err
		}
		f.KV.Tables = f.tables.device
	}
	return nil
}

// overlay lays what attention works on over the outputs of experts, which come after it.
func (f *buffers) overlay(m *arch.Model, chunk int) {
	q, kv := int64(chunk*m.Heads*m.HeadDim)*4, int64(chunk*m.KVHeads*m.HeadDim)*4
	at := int64(0)
	for _, s := range []sized{{&f.q, q}, {&f.attn, q}, {&f.k, kv}, {&f.v, kv}} {
		*s.span = f.y.Slice(at, s.bytes)
		at += s.bytes
	}
}

// memory allocates what only the device needs.
func (f *Forward) memory(d kernels.Device, span *kernels.Span, bytes int64) error {
	allocate := d.Alloc
	if f.unified {
		allocate = d.Pin
	}
	b, err := allocate(bytes)
	if err != nil {
		return err
	}
	f.owned = append(f.owned, b)
	*span = b.All()
	return nil
}

// pinned allocates host memory.
func (f *Forward) pinned(d kernels.Device, span *kernels.Span, bytes int64) error {
	b, err := d.Pin(bytes)
	if err != nil {
		return err
	}
	f.owned = append(f.owned, b)
	*span = b.All()
	return nil
}

func (f *Forward) mirrored(d kernels.Device, m *mirror, bytes int64) error {
	if err := f.pinned(d, &m.host, bytes); err != nil {
		return err
	}
	m.device = m.host
	if f.unified {
		return nil
	}
	return f.memory(d, &m.device, bytes)
}

// up copies the first bytes of a mirror to the device, down to the host; after a Sync they are there.
func (f *Forward) up(m mirror, bytes int64) {
	if !f.unified {
		f.stream.Copy(m.device.Slice(0, bytes), m.host.Slice(0, bytes))
	}
}

func (f *Forward) down(m mirror, bytes int64) {
	if !f.unified {
		f.stream.Copy(m.host.Slice(0, bytes), m.device.Slice(0, bytes))
	}
}
