package forward

import (
	"errors"
	"fmt"
	"sync"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/reader"
)

// Layer is a layer's weights that stay. Vectors are float32 whatever the file has.
type Layer struct {
	AttnNorm, FFNNorm, QueryNorm, KeyNorm      kernels.Span
	QueryBias, KeyBias, ValueBias, AttnOutBias kernels.Span
	Query, Key, Value, AttnOut, Router         kernels.Weight
	SharedGate, SharedUp, SharedDown           kernels.Weight
	SharedRouter                               kernels.Weight
}

// Resident is the weights that stay: everything but experts.
type Resident struct {
	Embedding, Output kernels.Weight
	OutputNorm        kernels.Span
	Layers            []Layer

	memory *kernels.Buffer
}

// vectorBytesMax bounds one norm or bias as read into the Go heap.
const vectorBytesMax = 1 << 24

// each calls f for every weight that stays, in a stable order.
func each(m *arch.Model, f func(layer int, p arch.Part)) {
	for role := arch.Embedding; role <= arch.OutputNorm; role++ {
		if p, ok := m.Head[role]; ok {
			f(-1, p)
		}
	}
	for l := range m.Dense {
		for role := arch.AttnNorm; role <= arch.SharedRouter; role++ {
			if p, ok := m.Dense[l][role]; ok {
				f(l, p)
			}
		}
	}
}

func isVector(p arch.Part) bool { return p.Rows == 1 && p.Role != arch.SharedRouter }

// partBytes is what a part takes in memory: a hull, or float32 values.
func partBytes(p arch.Part) int64 {
	if isVector(p) {
		return (int64(p.Cols)*4 + 63) &^ 63
	}
	_, length, _ := reader.Hull(p.Extent.Offset, p.Extent.Size, reader.Align)
	return length
}

// ResidentBytes is the memory of the weights that stay.
func ResidentBytes(m *arch.Model) int64 {
	n := int64(2 * reader.Align)
	each(m, func(_ int, p arch.Part) { n += partBytes(p) })
	return n
}

// Aligned allocates pinned memory at a multiple of the reader's alignment.
func Aligned(d kernels.Device, bytes int64) (*kernels.Buffer, kernels.Span, error) {
	b, err := d.Pin(bytes + reader.Align)
	if err != nil {
		return nil, kernels.Span{}, err
	}
	skip := -int64(b.Addr) & (reader.Align - 1)
	return b, b.All().Slice(skip, bytes), nil
}

// Load reads the weights that stay. progress may be nil.
func Load(d kernels.Device, m *arch.Model, r reader.Reader, progress func(done, total int64)) (
	_ *Resident, err error) {
	res := &Resident{Layers: make([]Layer, len(m.Layers))}
	memory, span, err := Aligned(d, ResidentBytes(m))
	if err != nil {
		return nil, err
	}
	res.memory = memory
	defer func() {
		if err != nil {
			err = errors.Join(err, memory.Free())
		}
	}()
	var at, total int64
	each(m, func(_ int, p arch.Part) { total += partBytes(p) })
	load := func(pick func(arch.Part) bool) {
		each(m, func(l int, p arch.Part) {
			if err != nil || !pick(p) {
				return
			}
			memory := span.Slice(at, partBytes(p))
			at += partBytes(p)
			err = res.load(d, m, r, l, p, memory)
			if progress != nil {
				progress(at, total)
			}
		})
	}
	load(func(p arch.Part) bool { return !isVector(p) }) // hulls first: they need the alignment
	load(isVector)
	if res.Output.IsZero() {
		res.Output = res.Embedding
	}
	return res, err
}

// Close frees the memory.
func (r *Resident) Close() error { return r.memory.Free() }

func (r *Resident) load(d kernels.Device, m *arch.Model, rd reader.Reader, l int, p arch.Part,
	memory kernels.Span) error {
	if isVector(p) {
		data, err := m.Store.ReadTensor(p.Tensor, vectorBytesMax)
		if err == nil {
			err = quant.Decode(p.Type, memory.Float32s()[:p.Cols], data)
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", p.Name, err)
		}
		r.setVector(l, p.Role, memory.Slice(0, int64(p.Cols)*4))
		return nil
	}
	offset, _, skip := reader.Hull(p.Extent.Offset, p.Extent.Size, reader.Align)
	var done sync.WaitGroup
	var failed error
	done.Add(1)
	req := reader.Request{File: p.Extent.File, Offset: offset, Buf: memory.Host(),
		Need: int(skip + p.Extent.Size), Label: p.Name,
		Done: func(_ *reader.Request, err error) { failed = err; done.Done() }}
	if err := rd.Submit(&req); err != nil {
		return err
	}
	done.Wait()
	if failed != nil {
		return failed
	}
	w := kernels.Weight{Data: memory.Slice(skip, p.Extent.Size), Type: p.Type, Rows: p.Rows,
		Cols: p.Cols}
	var err error
	if p.Role != arch.Embedding { // Embed reads the published layout
		if w, err = d.Land(w, memory); err != nil {
			return fmt.Errorf("tensor %s: %w", p.Name, err)
		}
	}
	r.setMatrix(l, p.Role, w)
	return nil
}

func (r *Resident) setVector(l int, role arch.Role, s kernels.Span) {
	if l < 0 {
		r.OutputNorm = s
		return
	}
	w := &r.Layers[l]
	*map[arch.Role]*kernels.Span{arch.AttnNorm: &w.AttnNorm, arch.FFNNorm: &w.FFNNorm,
		arch.QueryNorm: &w.QueryNorm, arch.KeyNorm: &w.KeyNorm, arch.QueryBias: &w.QueryBias,
		arch.KeyBias: &w.KeyBias, arch.ValueBias: &w.ValueBias,
		arch.AttnOutBias: &w.AttnOutBias}[role] = s
}

func (r *Resident) setMatrix(l int, role arch.Role, m kernels.Weight) {
	if l < 0 {
		*map[arch.Role]*kernels.Weight{arch.Embedding: &r.Embedding, arch.Output: &r.Output}[role] = m
		return
	}
	w := &r.Layers[l]
	*map[arch.Role]*kernels.Weight{arch.Query: &w.Query, arch.Key: &w.Key, arch.Value: &w.Value,
		arch.AttnOut: &w.AttnOut, arch.Router: &w.Router, arch.SharedGate: &w.SharedGate,
		arch.SharedUp: &w.SharedUp, arch.SharedDown: &w.SharedDown,
		arch.SharedRouter: &w.SharedRouter}[role] = m
}
