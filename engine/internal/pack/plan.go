package pack

import (
	"encoding/binary"
	"fmt"
	"math"
	"sort"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/store"
)

// source is where the bytes of one piece of the packed file come from.
type source struct {
	part arch.Part
	// heads > 0: rows (of a bias, elements) are reordered, as the llama architecture of GGUF has them.
	heads   int
	literal []byte // the bytes themselves, where they are in no file
}

// target is one tensor of the packed file, with a source for each of its pieces.
type target struct {
	name    string
	kind    quant.Type
	shape   []int64
	sources []source
}

// plan is what goes where.
type plan struct {
	m             *arch.Model
	layout        string
	expert, dense quant.Type
	targets       []target
	// notes say, by reason, which tensors did not become what was asked for.
	notes map[string]int
	err   error
}

// makePlan lists the tensors of the packed file in order: the head, then layer by layer the matrices
// that may stream as one, the vectors and routers that stay, and the experts.
func makePlan(m *arch.Model, o Options) (*plan, error) {
	p := &plan{m: m, layout: o.Layout, notes: map[string]int{}}
	var err error
	if p.expert, p.dense, err = o.types(); err != nil {
		return nil, err
	}
	for role := arch.Embedding; role <= arch.OutputNorm; role++ {
		if part, ok := m.Head[role]; ok {
			p.single(part, 0, p.dense)
		}
	}
	p.ropeDivisors()
	for l := range m.Layers {
		p.layer(l, func(part arch.Part) bool { return !stays(part) })
		p.layer(l, stays)
		p.experts(l)
	}
	return p, p.err
}

// stays reports a weight that is small and moves in no group: a vector or a router.
func stays(part arch.Part) bool {
	return part.Rows == 1 || part.Role == arch.Router
}

// layer plans those of a layer's weights apart from experts that pick names, in order of role.
func (p *plan) layer(l int, pick func(arch.Part) bool) {
	for role := arch.AttnNorm; role <= arch.SharedRouter; role++ {
		if part, ok := p.m.Dense[l][role]; ok && pick(part) {
			p.single(part, l, p.dense)
		}
	}
}

func (p *plan) isGGUF() bool { return p.m.Store.Format() == store.FormatGGUF }

// interleaved reports whether the target's architecture pairs neighbours in RoPE and the source's
// does not.
func (p *plan) interleaved() bool {
	return !p.isGGUF() && (p.m.Family == "llama" || p.m.Family == "mixtral")
}

// single plans a weight with a tensor of its own.
func (p *plan) single(part arch.Part, layer int, want quant.Type) {
	name, shape := part.Tensor, []int64{int64(part.Rows), int64(part.Cols)}
	vector := part.Rows == 1 && part.Role != arch.SharedRouter
	if p.isGGUF() {
		t, err := p.m.Store.Tensor(name)
		if err != nil {
			p.fail(err)
			return
		}
		shape = t.Shape
	} else {
		name = p.m.GGUFName(part.Role, layer)
		if vector {
			shape = shape[1:]
		}
	}
	s := source{part: part}
	kind := part.Type
	switch part.Role {
	case arch.Query, arch.QueryBias:
		s.heads = p.headsToReorder(p.m.Heads)
	case arch.Key, arch.KeyBias:
		s.heads = p.headsToReorder(p.m.KVHeads)
	}
	switch {
	case vector && !p.isGGUF():
		kind = quant.F32 // other readers know vectors in this type alone; no value changes
	case !stays(part):
		kind = p.choose(part, want)
	}
	p.targets = append(p.targets, target{name: name, kind: kind, shape: shape, sources: []source{s}})
}

func (p *plan) headsToReorder(heads int) int {
	if p.interleaved() {
		return heads
	}
	return 0
}

// experts plans a layer's groups.
func (p *plan) experts(l int) {
	groups := p.m.Groups[p.m.ExpertAt(l, 0):][:p.m.ExpertsIn(l)]
	if !p.m.Layers[l].Sparse {
		for _, part := range groups[0].Parts() {
			p.single(*part, l, p.expert)
		}
		return
	}
	if p.layout == Stacked {
		for i := range groups[0].Parts() {
			p.stack(l, groups, i)
		}
		return
	}
	for e := range groups {
		for _, part := range groups[e].Parts() {
			p.targets = append(p.targets, target{name: arch.GGUFExpertName(part.Role, l, e),
				kind: p.choose(*part, p.expert), shape: []int64{int64(part.Rows), int64(part.Cols)},
				sources: []source{{part: *part}}})
		}
	}
}

// stack plans one of the three tensors of a layer's experts.
func (p *plan) stack(l int, groups []arch.Expert, i int) {
	first := groups[0].Parts()[i]
	t := target{name: p.m.GGUFName(first.Role, l), kind: p.choose(*first, p.expert),
		shape: []int64{int64(len(groups)), int64(first.Rows), int64(first.Cols)}}
	for e := range groups {
		part := *groups[e].Parts()[i]
		if part.Type != first.Type {
			p.fail(fmt.Errorf("%w: tensors %s and %s have types %v and %v, and a stack has one",
				ErrModel, first.Name, part.Name, first.Type, part.Type))
		}
		t.sources = append(t.sources, source{part: part})
	}
	p.targets = append(p.targets, t)
}

// choose returns the type that a matrix becomes. Rows that are no whole blocks of the type that is
// wanted become Q8_0 where they can, or stay; a note says so.
func (p *plan) choose(part arch.Part, want quant.Type) quant.Type {
	cols := part.Cols
	switch {
	case want == keep || part.Type == want:
		return part.Type
	case !part.Type.IsFloat():
		p.fail(fmt.Errorf("%w: tensor %s is %v: weights that are quantised already are not quantised "+
			"again; pack the original", ErrModel, part.Name, part.Type))
		return part.Type
	case cols%want.BlockSize() == 0:
		return want
	}
	became := part.Type
	if cols%quant.Q8_0.BlockSize() == 0 {
		became = quant.Q8_0
	}
	p.notes[fmt.Sprintf("rows of %d are no whole blocks of %v (%d), so they are %v", cols, want,
		want.BlockSize(), became)]++
	return became
}

func (p *plan) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// noteLines renders the notes.
func (p *plan) noteLines() (lines []string) {
	for reason, n := range p.notes {
		lines = append(lines, fmt.Sprintf("%d weights: %s", n, reason))
	}
	sort.Strings(lines)
	return lines
}

const ropeFreqsName = "rope_freqs.weight"

// ropeDivisors plans the tensor by which GGUF carries the llama3 rule of RoPE: that of the source,
// or one that is made from the configuration.
func (p *plan) ropeDivisors() {
	r := p.m.Rope
	divisors := r.Divisors
	if divisors == nil && r.Kind == "llama3" {
		plain := r
		plain.Kind = "default"
		to, _ := r.Frequencies()
		from, _ := plain.Frequencies()
		for i := range to {
			divisors = append(divisors, from[i]/to[i])
		}
	}
	if divisors == nil {
		return
	}
	var b []byte
	for _, d := range divisors {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(d))
	}
	n := len(divisors)
	p.targets = append(p.targets, target{name: ropeFreqsName, kind: quant.F32, shape: []int64{int64(n)},
		sources: []source{{literal: b, part: arch.Part{Name: ropeFreqsName, Type: quant.F32, Rows: 1,
			Cols: n}}}})
}

// declare tells the packer what comes.
func (p *plan) declare(w *store.Packer) error {
	for _, t := range p.targets {
		if err := w.Declare(t.name, t.kind, t.shape); err != nil {
			return err
		}
	}
	return nil
}

// sources lists the sources in the order of the packer's pieces, with the type each becomes.
func (p *plan) sources() (list []source, kinds []quant.Type) {
	for _, t := range p.targets {
		for _, s := range t.sources {
			list, kinds = append(list, s), append(kinds, t.kind)
		}
	}
	return list, kinds
}
