package arch

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/moering/moering/offload/store"
)

// Load understands a model: its configuration and the place of every weight. No weights are read,
// apart from RoPE divisors.
func Load(s *store.Model) (*Model, error) {
	m := &Model{Store: s}
	var err error
	n := ggufNames
	if s.Format() == store.FormatGGUF {
		err = m.fromGGUF()
	} else {
		err = m.fromHF()
		n = hfNames(m.Family == "mixtral")
	}
	if err == nil {
		err = m.Spec.validate()
	}
	if err == nil {
		err = m.resolve(n)
	}
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", s.Path(), err)
	}
	return m, nil
}

// families lists what is implemented, by the names of both worlds; it is what error messages show.
const families = "Mixtral, OLMoE, Qwen2-MoE, Qwen3-MoE, and dense Llama and Qwen3"

// ggufMeta reads keys under the architecture's prefix and remembers the first failure.
type ggufMeta struct {
	*store.Metadata
	arch string
	err  error
}

func (g *ggufMeta) key(name string) string { return g.arch + "." + name }

func (g *ggufMeta) has(name string) bool { return g.Has(g.key(name)) }

func (g *ggufMeta) int(name string, absent int) int {
	if !g.has(name) {
		if absent < 0 && g.err == nil {
			g.err = fmt.Errorf("%w: metadata key %s is missing", ErrFormat, g.key(name))
		}
		return absent
	}
	v, err := g.Int(g.key(name))
	if err == nil && (v < math.MinInt32 || v > math.MaxInt32) {
		err = fmt.Errorf("metadata key %s is %d, which is no size", g.key(name), v)
	}
	if err != nil && g.err == nil {
		g.err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return int(v)
}

func (g *ggufMeta) float(name string, absent float64) float64 {
	if !g.has(name) {
		return absent
	}
	v, err := g.Float(g.key(name))
	if err != nil && g.err == nil {
		g.err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return v
}

// known architecture keys of GGUF files; another key under the prefix could change the result.
var ggufKnown = map[string]bool{"block_count": true, "embedding_length": true,
	"context_length": true, "feed_forward_length": true, "attention.head_count": true,
	"attention.head_count_kv": true, "attention.key_length": true, "attention.value_length": true,
	"attention.layer_norm_rms_epsilon": true, "rope.dimension_count": true, "rope.freq_base": true,
	"vocab_size": true, "expert_count": true, "expert_used_count": true,
	"expert_feed_forward_length": true, "expert_shared_feed_forward_length": true,
	"attention.sliding_window": true, "rope.scaling.type": true, "rope.scaling.factor": true,
	"rope.scale_linear": true, "rope.scaling.original_context_length": true,
	"rope.scaling.attn_factor": true, "rope.scaling.finetuned": true,
	"rope.scaling.yarn_ext_factor": true, "rope.scaling.yarn_attn_factor": true,
	"rope.scaling.yarn_beta_fast": true, "rope.scaling.yarn_beta_slow": true,
	"expert_group_count": true, "expert_group_used_count": true}

// fromGGUF reads the configuration from GGUF metadata. What has no key is fixed by the
// architecture, as the converters and llama.cpp have it.
func (m *Model) fromGGUF() error {
	meta := m.Store.Metadata()
	name, err := meta.String("general.architecture")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	g := &ggufMeta{Metadata: meta, arch: name}
	s := &m.Spec
	s.Family = name
	sparse := g.int("expert_count", 0) > 0
	switch {
	case name == "llama" && sparse:
		s.Family, s.Normalize = "mixtral", true
	case name == "llama":
	case name == "olmoe" && sparse:
		s.QKNorm = FullNorm
	case name == "qwen2moe" && sparse:
	case name == "qwen3moe" && sparse:
		s.QKNorm, s.Normalize = HeadNorm, true
	case name == "qwen3" && !sparse:
		s.QKNorm = HeadNorm
	default:
		return fmt.Errorf("%w: GGUF architecture %q is not implemented; implemented are %s",
			ErrUnsupported, name, families)
	}
	for _, key := range meta.Keys() {
		if len(key) > len(name) && key[:len(name)+1] == name+"." && !ggufKnown[key[len(name)+1:]] {
			return fmt.Errorf("%w: metadata key %s is not implemented", ErrUnsupported, key)
		}
	}
	m.ggufShapes(g)
	m.ggufRope(g)
	if g.err != nil {
		return g.err
	}
	return m.ropeDivisors()
}

func (m *Model) ggufShapes(g *ggufMeta) {
	s := &m.Spec
	s.Dim = g.int("embedding_length", -1)
	s.Heads = g.int("attention.head_count", -1)
	s.KVHeads = g.int("attention.head_count_kv", s.Heads)
	s.Context = g.int("context_length", -1)
	if s.Heads > 0 {
		s.HeadDim = g.int("attention.key_length", s.Dim/s.Heads)
	}
	if v := g.int("attention.value_length", s.HeadDim); v != s.HeadDim && g.err == nil {
		g.err = fmt.Errorf("%w: values of width %d beside keys of width %d", ErrUnsupported, v,
			s.HeadDim)
	}
	if n := max(g.int("expert_group_count", 0), g.int("expert_group_used_count", 0)); n > 1 {
		g.err = fmt.Errorf("%w: metadata key %s above 1", ErrUnsupported, g.key("expert_group_count"))
	}
	s.Eps = float32(g.float("attention.layer_norm_rms_epsilon", 0))
	s.DenseWidth = g.int("feed_forward_length", 0)
	s.Experts = g.int("expert_count", 0)
	s.TopK = g.int("expert_used_count", 0)
	s.ExpertWidth = g.int("expert_feed_forward_length", 0)
	window := g.int("attention.sliding_window", 0)
	layers := g.int("block_count", -1)
	if layers > 0 && layers <= layersMax {
		s.Layers = make([]Layer, layers)
	}
	for l := range s.Layers {
		s.Layers[l] = Layer{Sparse: s.Experts > 0, Window: window}
	}
	s.Vocab = g.int("vocab_size", 0)
	if t, err := m.Store.Tensor(ggufNames.head[Embedding]); err == nil && len(t.Shape) == 2 {
		s.Vocab = int(t.Shape[0])
	}
	if s.Experts == 0 {
		return
	}
	if t, err := m.Store.Tensor("blk.0.ffn_gate_exps.weight"); err == nil && len(t.Shape) == 3 {
		s.ExpertWidth = int(t.Shape[1])
	} else if t, err := m.Store.Tensor(GGUFExpertName(Gate, 0, 0)); err == nil && len(t.Shape) == 2 {
		s.ExpertWidth = int(t.Shape[0])
	} else if s.ExpertWidth == 0 {
		s.ExpertWidth = s.DenseWidth
	}
	if t, err := m.Store.Tensor("blk.0.ffn_gate_shexp.weight"); err == nil && len(t.Shape) == 2 {
		s.SharedWidth = int(t.Shape[0])
	}
}

func (m *Model) ggufRope(g *ggufMeta) {
	s := &m.Spec
	r := &s.Rope
	r.Theta = g.float("rope.freq_base", 10000)
	r.Dim = g.int("rope.dimension_count", s.HeadDim)
	r.Interleaved = g.arch == "llama"
	r.Kind = "default"
	r.Factor = g.float("rope.scaling.factor", g.float("rope.scale_linear", 0))
	if g.has("rope.scaling.type") {
		kind, err := g.String(g.key("rope.scaling.type"))
		if err != nil && g.err == nil {
			g.err = fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if kind != "none" {
			r.Kind = kind
		} else {
			r.Factor = 0
		}
	} else if r.Factor != 0 {
		r.Kind = "linear"
	}
	if r.Kind == "yarn" {
		r.Original = g.int("rope.scaling.original_context_length", s.Context)
		r.BetaFast = g.float("rope.scaling.yarn_beta_fast", 32)
		r.BetaSlow = g.float("rope.scaling.yarn_beta_slow", 1)
		r.Attention = g.float("rope.scaling.yarn_attn_factor", 0)
		if f := g.float("rope.scaling.attn_factor", 1); f != 1 {
			r.Attention = f * (1 + 0.1*math.Log(r.Factor))
		}
		if e := g.float("rope.scaling.yarn_ext_factor", 1); e != 1 && g.err == nil {
			g.err = fmt.Errorf("%w: %s is %g", ErrUnsupported,
				g.key("rope.scaling.yarn_ext_factor"), e)
		}
	}
}

// ropeDivisors reads rope_freqs.weight, by which GGUF files carry the llama3 rule.
func (m *Model) ropeDivisors() error {
	const name = "rope_freqs.weight"
	if !m.Store.Has(name) {
		return nil
	}
	data, err := m.Store.ReadTensor(name, widthMax)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	t, err := m.Store.Tensor(name)
	if err != nil || t.DType != "F32" || len(data) != m.Rope.Dim/2*4 {
		return fmt.Errorf("%w: tensor %s is %s of %d bytes, want %d values of F32", ErrFormat, name,
			t.DType, len(data), m.Rope.Dim/2)
	}
	m.Rope.Divisors = make([]float32, m.Rope.Dim/2)
	for i := range m.Rope.Divisors {
		d := math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		if !(d > 0) || math.IsInf(float64(d), 0) {
			return fmt.Errorf("%w: tensor %s holds %g", ErrFormat, name, d)
		}
		m.Rope.Divisors[i] = d
	}
	return nil
}
