package forward

import (
	"errors"
	"fmt"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
)

// Layer is a layer's weights apart from experts. Vectors are float32 whatever the file has.
type Layer struct {
	AttnNorm, FFNNorm, QueryNorm, KeyNorm      kernels.Span
	QueryBias, KeyBias, ValueBias, AttnOutBias kernels.Span
	Query, Key, Value, AttnOut, Router         kernels.Weight
	SharedGate, SharedUp, SharedDown           kernels.Weight
	SharedRouter                               kernels.Weight
}

// Resident is the weights that always stay: embedding and head, routers and vectors. The matrices of
// Layers are set by bind, from the group that streams.
type Resident struct {
	Embedding, Output kernels.Weight
	OutputNorm        kernels.Span
	Layers            []Layer

	memory  *kernels.Buffer
	staging *kernels.Buffer // nil where the device computes in host memory
	stream  kernels.Stream
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
			if p, ok := m.Dense[l][role]; ok && !weights.Streams(p) {
				f(l, p)
			}
		}
	}
}

func isVector(p arch.Part) bool { return p.Rows == 1 && p.Role != arch.SharedRouter }

// partAlign is the alignment of each weight in memory of a device.
const partAlign = 256

// partBytes is what a part takes in memory: a hull, or float32 values.
func partBytes(p arch.Part) int64 {
	if isVector(p) {
		return (int64(p.Cols)*4 + partAlign - 1) &^ (partAlign - 1)
	}
	_, length, _ := reader.Hull(p.Extent.Offset, p.Extent.Size, reader.Align)
	return length
}

// ResidentBytes is the memory of the weights that stay, and of the staging in host memory that loading
// them takes where the device has memory of its own.
func ResidentBytes(m *arch.Model) (all, staging int64) {
	all = 2 * reader.Align
	each(m, func(_ int, p arch.Part) {
		all += partBytes(p)
		staging = max(staging, partBytes(p))
	})
	return all, staging + reader.Align
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
func Load(d kernels.Device, m *arch.Model, r reader.Reader, i *store.Integrity,
	progress func(done, total int64)) (_ *Resident, err error) {
	res := &Resident{Layers: make([]Layer, len(m.Layers))}
	defer func() {
		if errors.Is(err, reader.ErrStranded) {
			return // the disk may still write to the memory: it is lost
		}
		err = errors.Join(err, res.unstage())
		if err != nil {
			err = errors.Join(err, res.Close())
		}
	}()
	all, staging := ResidentBytes(m)
	var span, stage kernels.Span
	if d.Info().Unified {
		res.memory, span, err = Aligned(d, all)
	} else if res.memory, err = d.Alloc(all); err == nil {
		span = res.memory.All()
		if res.stream, err = d.NewStream("load"); err == nil {
			res.staging, stage, err = Aligned(d, staging)
		}
	}
	if err != nil {
		return nil, err
	}
	l := loader{d, m, r, i, res, stage}
	var at, total int64
	each(m, func(_ int, p arch.Part) { total += partBytes(p) })
	load := func(pick func(arch.Part) bool) {
		each(m, func(layer int, p arch.Part) {
			if err != nil || !pick(p) {
				return
			}
			err = l.load(layer, p, span.Slice(at, partBytes(p)))
			at += partBytes(p)
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

// unstage frees what only loading needed.
func (r *Resident) unstage() (err error) {
	if r.stream != nil {
		err = r.stream.Close()
	}
	if r.staging != nil {
		err = errors.Join(err, r.staging.Free())
	}
	r.stream, r.staging = nil, nil
	return err
}

// Close frees the memory.
func (r *Resident) Close() error {
	if r.memory == nil {
		return nil
	}
	return r.memory.Free()
}

// bind makes layer the present one: what stays of it, and the matrices of its group.
func (r *Resident) bind(layer *Layer, l int, parts []arch.Part, w []kernels.Weight) {
	*layer = r.Layers[l]
	for i := range parts {
		*layer.matrix(parts[i].Role) = w[i]
	}
}

// loader loads weights that stay.
type loader struct {
	device kernels.Device
	model  *arch.Model
	reader reader.Reader
	checks *store.Integrity
	res    *Resident
	stage  kernels.Span // zero where the device computes in host memory
}

// load reads a weight to memory, by way of the stage where there is one.
func (l *loader) load(layer int, p arch.Part, memory kernels.Span) error {
	host := memory
	if !l.stage.IsZero() {
		host = l.stage.Slice(0, memory.Bytes)
	}
	if isVector(p) {
		data, err := l.model.Store.ReadTensor(p.Tensor, vectorBytesMax)
		if err == nil {
			err = l.checks.Verify(p.Extent, data)
		}
		if err == nil {
			err = quant.Decode(p.Type, host.Float32s()[:p.Cols], data)
		}
		if err == nil {
			err = l.move(memory, host, 0, int64(p.Cols)*4)
		}
		if err != nil {
			return fmt.Errorf("tensor %s: %w", p.Name, err)
		}
		l.res.setVector(layer, p.Role, memory.Slice(0, int64(p.Cols)*4))
		return nil
	}
	offset, _, skip := reader.Hull(p.Extent.Offset, p.Extent.Size, reader.Align)
	if err := l.read(p, offset, host, int(skip+p.Extent.Size)); err != nil {
		return err
	}
	if err := l.checks.Verify(p.Extent, host.Host()[skip:skip+p.Extent.Size]); err != nil {
		return err
	}
	w := kernels.Weight{Data: memory.Slice(skip, p.Extent.Size), Type: p.Type, Rows: p.Rows,
		Cols: p.Cols}
	if !l.stage.IsZero() {
		w.Data = memory.Slice(0, p.Extent.Size) // aligned
		if err := l.move(memory, host, skip, p.Extent.Size); err != nil {
			return fmt.Errorf("tensor %s: %w", p.Name, err)
		}
	} else if p.Role != arch.Embedding { // Embed reads the published layout
		var err error
		if w, err = l.device.Land(w, memory); err != nil {
			return fmt.Errorf("tensor %s: %w", p.Name, err)
		}
	}
	l.res.setMatrix(layer, p.Role, w)
	return nil
}

// move copies bytes of the stage to the device.
func (l *loader) move(memory, host kernels.Span, skip, bytes int64) error {
	if l.stage.IsZero() {
		return nil
	}
	l.res.stream.Copy(memory.Slice(0, bytes), host.Slice(skip, bytes))
	return l.res.stream.Sync()
}

// read reads the first need bytes of the file at offset, and waits for them.
func (l *loader) read(p arch.Part, offset int64, to kernels.Span, need int) error {
	done := make(chan error, 1)
	req := &reader.Request{File: p.Extent.File, Offset: offset, Buf: to.Host(), Need: need,
		Label: p.Name, Done: func(_ *reader.Request, err error) { done <- err }}
	if err := l.reader.Submit(req); err != nil {
		return err
	}
	return <-done
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
	switch {
	case role == arch.Embedding:
		r.Embedding = m
	case role == arch.Output:
		r.Output = m
	default:
		*r.Layers[l].matrix(role) = m
	}
}

// matrix is where a role's matrix is kept.
func (w *Layer) matrix(role arch.Role) *kernels.Weight {
	switch role {
	case arch.Query:
		return &w.Query
	case arch.Key:
		return &w.Key
	case arch.Value:
		return &w.Value
	case arch.AttnOut:
		return &w.AttnOut
	case arch.Router:
		return &w.Router
	case arch.SharedGate:
		return &w.SharedGate
	case arch.SharedUp:
		return &w.SharedUp
	case arch.SharedDown:
		return &w.SharedDown
	case arch.SharedRouter:
		return &w.SharedRouter
	}
	panic("forward: a matrix without a role")
}
