package pack

import (
	"fmt"
	"math"
	"path/filepath"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/store"
)

const (
	fileTypeKey     = "general.file_type"
	quantVersionKey = "general.quantization_version"
	alignmentKey    = "general.alignment"
	// quantVersion is GGML_QNT_VERSION: the layouts of package quant.
	quantVersion = 2
)

// entry is one metadata key.
type entry struct {
	key   string
	value store.Value
}

func number(key string, n int) entry { return entry{key, store.Scalar(uint32(n))} }

func float(key string, v float64) entry { return entry{key, store.Scalar(float32(v))} }

// metadata returns the keys of the packed file apart from the packer's own.
func (p *plan) metadata(o Options) ([]entry, error) {
	var entries []entry
	if p.isGGUF() {
		entries = p.copied()
	} else {
		var err error
		if entries, err = p.converted(); err != nil {
			return nil, err
		}
		t, err := p.tokenizer(o.ChatTemplate)
		if err != nil {
			return nil, err
		}
		entries = append(entries, t...)
	}
	return p.sideFiles(entries), nil
}

// copied returns a GGUF file's keys as they are, but for those that speak of the file, and of types
// if those change.
func (p *plan) copied() (entries []entry) {
	meta := p.m.Store.Metadata()
	changed := p.expert != keep || p.dense != keep
	for _, key := range meta.Keys() {
		v, err := meta.Value(key)
		switch {
		case err != nil || key == alignmentKey || store.IsPackKey(key) || store.IsShardKey(key):
			continue
		case key == fileTypeKey && changed:
			v = store.Scalar(p.fileType())
		case key == quantVersionKey && changed:
			v = store.Scalar(uint32(quantVersion))
		}
		entries = append(entries, entry{key, v})
	}
	if !changed {
		return entries
	}
	for _, e := range []entry{{fileTypeKey, store.Scalar(p.fileType())},
		number(quantVersionKey, quantVersion)} {
		if !meta.Has(e.key) {
			entries = append(entries, e)
		}
	}
	return entries
}

// fileType is the LLAMA_FTYPE of llama.h for the type that most elements of the file have.
func (p *plan) fileType() uint32 {
	elements := map[quant.Type]int64{}
	for _, t := range p.targets {
		n := int64(1)
		for _, dim := range t.shape {
			n *= dim
		}
		elements[t.kind] += n
	}
	most := quant.F32
	for kind := range elements {
		if elements[kind] > elements[most] || elements[kind] == elements[most] && kind < most {
			most = kind
		}
	}
	const guessed = 1024
	number, ok := map[quant.Type]uint32{quant.F32: 0, quant.F16: 1, quant.Q4_0: 2, quant.Q4_1: 3,
		quant.Q8_0: 7, quant.Q5_0: 8, quant.Q5_1: 9, quant.Q2_K: 10, quant.Q3_K: 11, quant.Q4_K: 14,
		quant.Q5_K: 16, quant.Q6_K: 18, quant.IQ4NL: 25, quant.IQ4XS: 30, quant.BF16: 32}[most]
	if !ok {
		return guessed
	}
	return number
}

// converted returns the keys of a Hugging Face model, by the names of the GGUF specification.
func (p *plan) converted() ([]entry, error) {
	m := p.m
	s := &m.Spec
	name := s.Family
	if name == "mixtral" {
		name = "llama"
	}
	if err := expressible(s); err != nil {
		return nil, err
	}
	a := name + "."
	entries := []entry{
		{"general.architecture", store.Scalar(name)},
		{"general.type", store.Scalar("model")},
		{"general.name", store.Scalar(filepath.Base(filepath.Dir(m.Store.Files()[0].Path)))},
		number(quantVersionKey, quantVersion),
		{fileTypeKey, store.Scalar(p.fileType())},
		number(a+"block_count", len(s.Layers)),
		number(a+"context_length", s.Context),
		number(a+"embedding_length", s.Dim),
		number(a+"feed_forward_length", s.DenseWidth),
		number(a+"attention.head_count", s.Heads),
		number(a+"attention.head_count_kv", s.KVHeads),
		number(a+"attention.key_length", s.HeadDim),
		number(a+"attention.value_length", s.HeadDim),
		float(a+"attention.layer_norm_rms_epsilon", float64(s.Eps)),
		number(a+"rope.dimension_count", s.Rope.Dim),
		float(a+"rope.freq_base", s.Rope.Theta),
		number(a+"vocab_size", s.Vocab),
	}
	if s.Layers[0].Window > 0 {
		entries = append(entries, number(a+"attention.sliding_window", s.Layers[0].Window))
	}
	if s.Experts > 0 {
		entries = append(entries, number(a+"expert_count", s.Experts),
			number(a+"expert_used_count", s.TopK))
		if name != "llama" && name != "olmoe" {
			entries = append(entries, number(a+"expert_feed_forward_length", s.ExpertWidth))
		}
	}
	if s.SharedWidth > 0 {
		entries = append(entries, number(a+"expert_shared_feed_forward_length", s.SharedWidth))
	}
	return append(entries, ropeEntries(a, s.Rope)...), nil
}

// ropeEntries are the keys of scaled RoPE. The llama3 rule is a tensor.
func ropeEntries(a string, r arch.Rope) []entry {
	if r.Kind != "linear" && r.Kind != "yarn" {
		return nil
	}
	entries := []entry{{a + "rope.scaling.type", store.Scalar(r.Kind)},
		float(a+"rope.scaling.factor", r.Factor)}
	if r.Kind == "linear" {
		return entries
	}
	entries = append(entries, number(a+"rope.scaling.original_context_length", r.Original))
	if r.BetaFast != 32 || r.BetaSlow != 1 {
		entries = append(entries, float(a+"rope.scaling.yarn_beta_fast", r.BetaFast),
			float(a+"rope.scaling.yarn_beta_slow", r.BetaSlow))
	}
	if own := 1 + 0.1*math.Log(math.Max(r.Factor, 1)); r.Attention != 0 && r.Attention != own {
		entries = append(entries, float(a+"rope.scaling.attn_factor", r.Attention/own))
	}
	return entries
}

// expressible refuses what the keys of GGUF, as readers have them, cannot say of a family.
func expressible(s *arch.Spec) error {
	no := func(what string) error {
		return fmt.Errorf("%w: GGUF has no key for %s in family %s", ErrModel, what, s.Family)
	}
	if s.Experts > 0 && s.Normalize != (s.Family == "mixtral" || s.Family == "qwen3moe") {
		return no(fmt.Sprintf("norm_topk_prob %v", s.Normalize))
	}
	for _, l := range s.Layers {
		if l.Sparse != (s.Experts > 0) {
			return no("layers without experts beside layers with them")
		}
		if l.Window != s.Layers[0].Window {
			return no("a sliding window in some layers only")
		}
	}
	if s.Rope.Kind == "yarn" && s.Rope.NoTruncate {
		return no("YaRN without truncation")
	}
	return nil
}

// sideFiles adds the side files by which the engine understands text, as they are: of a Hugging
// Face model all, of a GGUF file the one that is read beside it. A tokenizer.json never comes
// without a tokenizer_config.json: by that the engine knows that the two are to be believed.
func (p *plan) sideFiles(entries []entry) []entry {
	s := p.m.Store
	names := []string{store.SideGenerationConfig}
	if _, absent := s.SideFile(store.SideTokenizer); absent == nil && !p.isGGUF() {
		names = append(names, store.SideTokenizer, store.SideTokenizerConfig)
	}
	if !p.isGGUF() {
		names = append(names, store.SideChatTemplate)
	}
	for _, name := range names {
		key := store.EmbeddedKey(name)
		if s.Metadata().Has(key) {
			continue // copied
		}
		text, absent := s.SideFile(name)
		if absent != nil && name == store.SideTokenizerConfig {
			text, absent = []byte("{}"), nil
		}
		if absent == nil { // as at open: a side file that is not there is no failure
			entries = append(entries, entry{key, store.Scalar(string(text))})
		}
	}
	return entries
}
