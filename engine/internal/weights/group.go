package weights

import (
	"fmt"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/reader"
)

// Group is weights that move together: an expert's matrices, or the matrices of a layer apart from
// experts. Vectors and routers are no part of a group: they are small, and stay.
type Group struct {
	Layer int
	Index int // of the expert; -1: the layer's dense weights
	Parts []arch.Part
}

// String names the group in errors and traces.
func (g *Group) String() string {
	if g.Index < 0 {
		return fmt.Sprintf("layer %d", g.Layer)
	}
	return fmt.Sprintf("layer %d, expert %d", g.Layer, g.Index)
}

// Bytes is the size of the group's weights on disk.
func (g *Group) Bytes() (n int64) {
	for i := range g.Parts {
		n += g.Parts[i].Extent.Size
	}
	return n
}

// In appends the group's weights to w as they lie in a section of a device with memory of its own.
func (g *Group) In(section kernels.Span, w []kernels.Weight) []kernels.Weight {
	var at int64
	for i := range g.Parts {
		p := &g.Parts[i]
		w = append(w, kernels.Weight{Data: section.Slice(at, p.Extent.Size), Type: p.Type, Rows: p.Rows,
			Cols: p.Cols})
		at += aligned(p.Extent.Size)
	}
	return w
}

// Experts lists a model's expert groups in the order of arch.Model.Groups; the parts of each are gate,
// up and down.
func Experts(m *arch.Model) []Group {
	groups := make([]Group, len(m.Groups))
	for i := range m.Groups {
		e := &m.Groups[i]
		groups[i] = Group{Layer: e.Layer, Index: e.Index, Parts: []arch.Part{e.Gate, e.Up, e.Down}}
	}
	return groups
}

// Streams reports whether a layer's weight moves in the layer's dense group. Vectors and routers stay:
// together they are about a thousandth of a model, and the router of the next layer is needed early.
func Streams(p arch.Part) bool {
	return p.Rows > 1 && p.Role != arch.Router && p.Role != arch.SharedRouter &&
		p.Role != arch.Embedding && p.Role != arch.Output
}

// Layers lists the dense group of each layer; the parts ascend by role.
func Layers(m *arch.Model) []Group {
	groups := make([]Group, len(m.Layers))
	for l := range groups {
		groups[l] = Group{Layer: l, Index: -1}
		for role := arch.AttnNorm; role <= arch.SharedRouter; role++ {
			if p, ok := m.Dense[l][role]; ok && Streams(p) {
				groups[l].Parts = append(groups[l].Parts, p)
			}
		}
	}
	return groups
}

// deviceAlign is the alignment of each matrix in a section of a device with memory of its own: what
// the widest loads and asynchronous copies there like.
const deviceAlign = 256

// hull is the aligned range of a file that holds a part.
func hull(p *arch.Part) (offset, length, skip int64) {
	return reader.Hull(p.Extent.Offset, p.Extent.Size, reader.Align)
}

// Pieces counts the reads that a group takes, where hulls that touch are read at once, each of at most
// so many bytes.
func Pieces(g *Group, most int64) (n int) {
	file, end, bytes := -1, int64(0), int64(0)
	flush := func() { n += int((bytes + most - 1) / most) }
	for j := range g.Parts {
		offset, length, _ := hull(&g.Parts[j])
		if e := g.Parts[j].Extent; e.File != file || offset > end || offset < end-reader.Align {
			flush()
			file, bytes = e.File, 0
		}
		bytes += length
		end = offset + length
	}
	flush()
	return n
}

// SectionBytes is the size of a section in host memory that holds any of the groups: each part as its
// hull.
func SectionBytes(groups []Group) (most int64) {
	for i := range groups {
		var n int64
		for j := range groups[i].Parts {
			_, length, _ := hull(&groups[i].Parts[j])
			n += length
		}
		most = max(most, n)
	}
	return most
}

// DeviceSectionBytes is the same in the memory of a device: each part at a multiple of deviceAlign.
func DeviceSectionBytes(groups []Group) (most int64) {
	for i := range groups {
		var n int64
		for j := range groups[i].Parts {
			n += aligned(groups[i].Parts[j].Extent.Size)
		}
		most = max(most, n)
	}
	return most
}

func aligned(n int64) int64 { return (n + deviceAlign - 1) &^ (deviceAlign - 1) }

func partsMax(groups []Group) (most int) {
	for i := range groups {
		most = max(most, len(groups[i].Parts))
	}
	return most
}
