package arch

import (
	"fmt"
	"strings"

	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/store"
)

// Role is what a weight is for.
type Role int

// The roles. Vectors (norms, biases) are small and always stay; matrices move in groups.
const (
	Embedding Role = iota
	Output         // absent when tied to the embedding
	OutputNorm
	AttnNorm
	Query
	Key
	Value
	AttnOut
	QueryBias
	KeyBias
	ValueBias
	AttnOutBias
	QueryNorm
	KeyNorm
	FFNNorm
	Router
	Gate // of one expert, or of a dense layer
	Up
	Down
	SharedGate
	SharedUp
	SharedDown
	SharedRouter // the gate that weighs the shared expert, one row
)

// Part is one weight: its place on disk and its shape. Vectors have one row.
type Part struct {
	Role   Role
	Name   string // tensor, with the slice where it is one of several: "blk.0.ffn_up_exps.weight[3]"
	Tensor string // tensor in the store
	Extent store.Extent
	Type   quant.Type
	Rows   int
	Cols   int
}

// Expert is a group of weights that move together: one expert of one layer, or a dense layer's
// feed-forward block.
type Expert struct {
	Layer, Index   int
	Gate, Up, Down Part
}

// Parts lists the expert's weights in the order in which they lie in a section.
func (e *Expert) Parts() [3]*Part { return [3]*Part{&e.Gate, &e.Up, &e.Down} }

// Bytes is the size of the expert's weights on disk.
func (e *Expert) Bytes() int64 {
	return e.Gate.Extent.Size + e.Up.Extent.Size + e.Down.Extent.Size
}

// Model is a store's model, understood.
type Model struct {
	Spec
	Store *store.Model
	// Head has Embedding, OutputNorm and, unless tied, Output.
	Head map[Role]Part
	// Dense has each layer's weights apart from experts.
	Dense []map[Role]Part
	// Groups lists the experts, layer by layer, ascending index; ExpertAt finds them.
	Groups []Expert
	first  []int // layer → index of its first expert
}

// ExpertAt returns the index in Groups of a layer's expert.
func (m *Model) ExpertAt(layer, index int) int { return m.first[layer] + index }

// ExpertsIn returns how many groups a layer has.
func (m *Model) ExpertsIn(layer int) int {
	if m.Layers[layer].Sparse {
		return m.Experts
	}
	return 1
}

// names maps a layer's roles to tensor names in one format; %d is the layer, and for experts the
// second %d the expert where each has a tensor of its own.
type names struct {
	head, layer map[Role]string
	// experts has Gate, Up and Down. Stacked: one tensor for all experts of a layer.
	experts map[Role]string
	stacked bool
	dense   map[Role]string
}

var ggufNames = names{
	head: map[Role]string{Embedding: "token_embd.weight", OutputNorm: "output_norm.weight",
		Output: "output.weight"},
	layer: map[Role]string{
		AttnNorm: "blk.%d.attn_norm.weight", Query: "blk.%d.attn_q.weight",
		Key: "blk.%d.attn_k.weight", Value: "blk.%d.attn_v.weight",
		AttnOut: "blk.%d.attn_output.weight", QueryBias: "blk.%d.attn_q.bias",
		KeyBias: "blk.%d.attn_k.bias", ValueBias: "blk.%d.attn_v.bias",
		AttnOutBias: "blk.%d.attn_output.bias", QueryNorm: "blk.%d.attn_q_norm.weight",
		KeyNorm: "blk.%d.attn_k_norm.weight", FFNNorm: "blk.%d.ffn_norm.weight",
		Router: "blk.%d.ffn_gate_inp.weight", SharedGate: "blk.%d.ffn_gate_shexp.weight",
		SharedUp: "blk.%d.ffn_up_shexp.weight", SharedDown: "blk.%d.ffn_down_shexp.weight",
		SharedRouter: "blk.%d.ffn_gate_inp_shexp.weight"},
	experts: map[Role]string{Gate: "blk.%d.ffn_gate_exps.weight", Up: "blk.%d.ffn_up_exps.weight",
		Down: "blk.%d.ffn_down_exps.weight"},
	stacked: true,
	dense: map[Role]string{Gate: "blk.%d.ffn_gate.weight", Up: "blk.%d.ffn_up.weight",
		Down: "blk.%d.ffn_down.weight"},
}

// GGUFName is the name of a weight in GGUF files. Layer is of no account for those of the head; the
// experts of a sparse layer are stacked in one tensor.
func (m *Model) GGUFName(role Role, layer int) string {
	if name, ok := ggufNames.head[role]; ok {
		return name
	}
	name, ok := ggufNames.layer[role]
	switch {
	case ok:
	case m.Layers[layer].Sparse:
		name = ggufNames.experts[role]
	default:
		name = ggufNames.dense[role]
	}
	return fmt.Sprintf(name, layer)
}

// GGUFExpertName is the name of a weight of one expert where each has a tensor of its own.
func GGUFExpertName(role Role, layer, index int) string {
	return fmt.Sprintf(ggufOldExperts[role], layer, index)
}

// ggufOldExperts are the names of Mixtral files from before experts were stacked, and of packed
// files of any family.
var ggufOldExperts = map[Role]string{Gate: "blk.%d.ffn_gate.%d.weight",
	Up: "blk.%d.ffn_up.%d.weight", Down: "blk.%d.ffn_down.%d.weight"}

// hfNames returns the names of a Hugging Face checkpoint; Mixtral spells its experts its own way.
func hfNames(mixtral bool) names {
	n := names{
		head: map[Role]string{Embedding: "model.embed_tokens.weight",
			OutputNorm: "model.norm.weight", Output: "lm_head.weight"},
		layer: map[Role]string{
			AttnNorm:     "model.layers.%d.input_layernorm.weight",
			Query:        "model.layers.%d.self_attn.q_proj.weight",
			Key:          "model.layers.%d.self_attn.k_proj.weight",
			Value:        "model.layers.%d.self_attn.v_proj.weight",
			AttnOut:      "model.layers.%d.self_attn.o_proj.weight",
			QueryBias:    "model.layers.%d.self_attn.q_proj.bias",
			KeyBias:      "model.layers.%d.self_attn.k_proj.bias",
			ValueBias:    "model.layers.%d.self_attn.v_proj.bias",
			AttnOutBias:  "model.layers.%d.self_attn.o_proj.bias",
			QueryNorm:    "model.layers.%d.self_attn.q_norm.weight",
			KeyNorm:      "model.layers.%d.self_attn.k_norm.weight",
			FFNNorm:      "model.layers.%d.post_attention_layernorm.weight",
			Router:       "model.layers.%d.mlp.gate.weight",
			SharedGate:   "model.layers.%d.mlp.shared_expert.gate_proj.weight",
			SharedUp:     "model.layers.%d.mlp.shared_expert.up_proj.weight",
			SharedDown:   "model.layers.%d.mlp.shared_expert.down_proj.weight",
			SharedRouter: "model.layers.%d.mlp.shared_expert_gate.weight"},
		experts: map[Role]string{Gate: "model.layers.%d.mlp.experts.%d.gate_proj.weight",
			Up:   "model.layers.%d.mlp.experts.%d.up_proj.weight",
			Down: "model.layers.%d.mlp.experts.%d.down_proj.weight"},
		dense: map[Role]string{Gate: "model.layers.%d.mlp.gate_proj.weight",
			Up:   "model.layers.%d.mlp.up_proj.weight",
			Down: "model.layers.%d.mlp.down_proj.weight"},
	}
	if mixtral {
		n.layer[Router] = "model.layers.%d.block_sparse_moe.gate.weight"
		n.experts = map[Role]string{Gate: "model.layers.%d.block_sparse_moe.experts.%d.w1.weight",
			Up:   "model.layers.%d.block_sparse_moe.experts.%d.w3.weight",
			Down: "model.layers.%d.block_sparse_moe.experts.%d.w2.weight"}
	}
	return n
}

// HFName is the name in a Hugging Face checkpoint of the weight that GGUF files call name, and false if it
// has none. Where GGUF stacks the experts of a layer, each has a tensor there, and %d is its index.
func HFName(name string, mixtral bool) (string, bool) {
	layer, rest := "", name
	if after, ok := strings.CutPrefix(name, "blk."); ok {
		layer, _, _ = strings.Cut(after, ".")
		rest = "blk.%d" + strings.TrimPrefix(after, layer)
	}
	hf := hfNames(mixtral)
	for _, table := range [...]struct{ from, to map[Role]string }{{ggufNames.head, hf.head},
		{ggufNames.layer, hf.layer}, {ggufNames.experts, hf.experts}, {ggufNames.dense, hf.dense}} {
		for role, from := range table.from {
			if from == rest {
				return strings.Replace(table.to[role], "%d", layer, 1), true
			}
		}
	}
	return "", false
}

// ignored tensors carry no weight of ours: tables that Rope computes, or reads, elsewhere.
func ignored(name string) bool {
	if name == "rope_freqs.weight" {
		return true
	}
	var layer int
	n, err := fmt.Sscanf(name, "model.layers.%d.self_attn.rotary_emb.inv_freq", &layer)
	return n == 1 && err == nil
}

// resolver finds tensors, checks their shapes, and remembers which were used, so that a weight that
// the forward pass would leave out is an error.
type resolver struct {
	m    *Model
	used map[string]bool
	err  error
}

// part resolves one tensor or, with slice >= 0, one slice of a stacked tensor.
func (r *resolver) part(role Role, name string, slice, rows, cols int) Part {
	if r.err != nil {
		return Part{}
	}
	t, err := r.m.Store.Tensor(name)
	if err != nil {
		r.err = fmt.Errorf("%w: %w", ErrFormat, err)
		return Part{}
	}
	r.used[name] = true
	file := r.m.Store.Files()[t.File].Path
	p := Part{Role: role, Name: name, Tensor: name, Extent: t.Extent(), Type: t.Type, Rows: rows,
		Cols: cols}
	shape := t.Shape
	if slice >= 0 {
		p.Name = fmt.Sprintf("%s[%d]", name, slice)
		if len(shape) != 3 || shape[0] != int64(r.m.Experts) {
			r.err = fmt.Errorf("%w: %s: tensor %s has shape %v, want %d experts of %dx%d",
				ErrFormat, file, name, shape, r.m.Experts, rows, cols)
			return Part{}
		}
		shape = shape[1:]
		if p.Extent, err = t.Slice(int64(slice)); err != nil {
			r.err = fmt.Errorf("%w: %w", ErrFormat, err)
			return Part{}
		}
	}
	if !shapeIs(shape, rows, cols) {
		r.err = fmt.Errorf("%w: %s: tensor %s at byte %d has shape %v, the configuration says %dx%d",
			ErrFormat, file, name, t.Offset, shape, rows, cols)
	} else if !t.Type.IsFloat() && (rows == 1 && role != SharedRouter || !t.Type.IsQuantized()) {
		r.err = fmt.Errorf("%w: %s: tensor %s has type %s, which its role cannot have",
			ErrUnsupported, file, name, t.DType)
	}
	return p
}

// shapeIs accepts (rows, cols), and (cols) for one row.
func shapeIs(shape []int64, rows, cols int) bool {
	if len(shape) == 1 {
		return rows == 1 && shape[0] == int64(cols)
	}
	return len(shape) == 2 && shape[0] == int64(rows) && shape[1] == int64(cols)
}

// resolve fills Head, Dense and Groups. optional roles are taken where the model has them.
func (m *Model) resolve(n names) error {
	r := &resolver{m: m, used: map[string]bool{}}
	m.Head = map[Role]Part{
		Embedding:  r.part(Embedding, n.head[Embedding], -1, m.Vocab, m.Dim),
		OutputNorm: r.part(OutputNorm, n.head[OutputNorm], -1, 1, m.Dim),
	}
	if m.Store.Has(n.head[Output]) {
		m.Head[Output] = r.part(Output, n.head[Output], -1, m.Vocab, m.Dim)
	}
	m.Dense = make([]map[Role]Part, len(m.Layers))
	m.first = make([]int, len(m.Layers))
	for l := range m.Layers {
		m.Dense[l] = r.dense(n, l)
		m.first[l] = len(m.Groups)
		r.experts(n, l)
		if r.err != nil {
			return r.err
		}
	}
	if r.err != nil {
		return r.err
	}
	for _, t := range m.Store.Tensors() {
		if !r.used[t.Name] && !ignored(t.Name) {
			return fmt.Errorf("%w: %s: tensor %s at byte %d has no place in family %s",
				ErrUnsupported, m.Store.Files()[t.File].Path, t.Name, t.Offset, m.Family)
		}
	}
	return nil
}

// dense resolves a layer's weights apart from experts.
func (r *resolver) dense(n names, l int) map[Role]Part {
	m := r.m
	q, kv := m.Heads*m.HeadDim, m.KVHeads*m.HeadDim
	type shape struct{ rows, cols int }
	want := map[Role]shape{AttnNorm: {1, m.Dim}, Query: {q, m.Dim}, Key: {kv, m.Dim},
		Value: {kv, m.Dim}, AttnOut: {m.Dim, q}, FFNNorm: {1, m.Dim}}
	for role, s := range map[Role]shape{QueryBias: {1, q}, KeyBias: {1, kv}, ValueBias: {1, kv},
		AttnOutBias: {1, m.Dim}} {
		if m.Store.Has(fmt.Sprintf(n.layer[role], l)) {
			want[role] = s
		}
	}
	switch m.QKNorm {
	case HeadNorm:
		want[QueryNorm], want[KeyNorm] = shape{1, m.HeadDim}, shape{1, m.HeadDim}
	case FullNorm:
		want[QueryNorm], want[KeyNorm] = shape{1, q}, shape{1, kv}
	}
	if m.Layers[l].Sparse {
		want[Router] = shape{m.Experts, m.Dim}
		if m.SharedWidth > 0 {
			want[SharedGate], want[SharedUp] = shape{m.SharedWidth, m.Dim}, shape{m.SharedWidth, m.Dim}
			want[SharedDown] = shape{m.Dim, m.SharedWidth}
			want[SharedRouter] = shape{1, m.Dim}
		}
	}
	parts := make(map[Role]Part, len(want))
	for role := AttnNorm; role <= SharedRouter; role++ { // in order, so that errors are stable
		if s, ok := want[role]; ok {
			parts[role] = r.part(role, fmt.Sprintf(n.layer[role], l), -1, s.rows, s.cols)
		}
	}
	return parts
}

// experts appends a layer's groups.
func (r *resolver) experts(n names, l int) {
	m := r.m
	if !m.Layers[l].Sparse {
		m.Groups = append(m.Groups, Expert{Layer: l,
			Gate: r.part(Gate, fmt.Sprintf(n.dense[Gate], l), -1, m.DenseWidth, m.Dim),
			Up:   r.part(Up, fmt.Sprintf(n.dense[Up], l), -1, m.DenseWidth, m.Dim),
			Down: r.part(Down, fmt.Sprintf(n.dense[Down], l), -1, m.Dim, m.DenseWidth)})
		return
	}
	stacked, spelled := n.stacked, n.experts
	if stacked && !m.Store.Has(fmt.Sprintf(spelled[Gate], l)) &&
		m.Store.Has(fmt.Sprintf(ggufOldExperts[Gate], l, 0)) {
		stacked, spelled = false, ggufOldExperts
	}
	for e := range m.Experts {
		find := func(role Role, rows, cols int) Part {
			if stacked {
				return r.part(role, fmt.Sprintf(spelled[role], l), e, rows, cols)
			}
			return r.part(role, fmt.Sprintf(spelled[role], l, e), -1, rows, cols)
		}
		m.Groups = append(m.Groups, Expert{Layer: l, Index: e,
			Gate: find(Gate, m.ExpertWidth, m.Dim), Up: find(Up, m.ExpertWidth, m.Dim),
			Down: find(Down, m.Dim, m.ExpertWidth)})
	}
}
