package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
)

// config is a Hugging Face config.json. Every read marks a field as understood; what is left over in
// the end, and is neither harmless nor empty, is refused by name.
type config struct {
	fields map[string]json.RawMessage
	seen   map[string]bool
	err    error
}

// harmless fields do not change logits: training, bookkeeping, token ids (the tokenizer's concern).
var harmless = []string{"architectures", "model_type", "torch_dtype", "dtype",
	"transformers_version", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
	"initializer_range", "attention_dropout", "router_aux_loss_coef", "output_router_logits",
	"router_jitter_noise", "pretraining_tp", "_name_or_path", "_attn_implementation", "auto_map",
	"max_window_layers", "output_attentions", "output_hidden_states", "return_dict", "is_decoder",
	"id2label", "label2id", "head_dim", "chunk_size_feed_forward", "use_bfloat16",
	"resid_pdrop", "embd_pdrop", "attn_implementation"}

func parseConfig(text []byte) (*config, error) {
	c := &config{seen: map[string]bool{}}
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&c.fields); err != nil {
		return nil, fmt.Errorf("%w: config.json at byte %d: %w", ErrFormat, dec.InputOffset(), err)
	}
	for _, name := range harmless {
		c.seen[name] = true
	}
	return c, nil
}

// empty reports a field that is absent, null, false, or an empty list or object.
func (c *config) empty(name string) bool {
	switch string(bytes.TrimSpace(c.fields[name])) {
	case "", "null", "false", "[]", "{}":
		return true
	}
	return false
}

func read[T any](c *config, name string, absent T) T {
	c.seen[name] = true
	raw, ok := c.fields[name]
	if !ok || string(raw) == "null" {
		return absent
	}
	v := absent
	if err := json.Unmarshal(raw, &v); err != nil && c.err == nil {
		c.err = fmt.Errorf("%w: config.json: field %s: %w", ErrFormat, name, err)
	}
	return v
}

// size reads a field that must be there.
func (c *config) size(name string) int {
	if c.empty(name) && c.err == nil {
		c.err = fmt.Errorf("%w: config.json: field %s is missing", ErrFormat, name)
	}
	return read(c, name, 0)
}

func (c *config) refuse(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: config.json: %s", ErrUnsupported, fmt.Sprintf(format, args...))
	}
}

// rest refuses what was not understood.
func (c *config) rest() {
	var names []string
	for name := range c.fields {
		if !c.seen[name] && !c.empty(name) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	if len(names) > 0 {
		c.refuse("field %s = %.60s is not implemented and may change the result", names[0],
			c.fields[names[0]])
	}
}

// fromHF reads config.json.
func (m *Model) fromHF() error {
	text, err := m.Store.SideFile("config.json")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	c, err := parseConfig(text)
	if err != nil {
		return err
	}
	return m.Spec.fromConfig(c)
}

func (s *Spec) fromConfig(c *config) error {
	layers := c.size("num_hidden_layers")
	if c.err == nil && (layers < 1 || layers > layersMax) {
		return fmt.Errorf("%w: config.json: num_hidden_layers is %d", ErrFormat, layers)
	}
	s.Layers = make([]Layer, layers)
	s.Dim = c.size("hidden_size")
	s.Heads = c.size("num_attention_heads")
	s.KVHeads = read(c, "num_key_value_heads", s.Heads)
	s.HeadDim = s.Dim / max(s.Heads, 1)
	if !c.empty("head_dim") {
		s.HeadDim = read(c, "head_dim", 0)
	}
	s.Vocab = c.size("vocab_size")
	s.Context = c.size("max_position_embeddings")
	s.Eps = float32(read(c, "rms_norm_eps", 1e-6))
	s.DenseWidth = read(c, "intermediate_size", 0)
	if act := read(c, "hidden_act", "silu"); act != "silu" {
		c.refuse("hidden_act %q; only silu is implemented", act)
	}
	read(c, "tie_word_embeddings", false) // told by the absence of the output matrix
	theta := 10000.0
	switch family := read(c, "model_type", ""); family {
	case "mixtral":
		theta = 1e6
		s.mixtral(c)
	case "olmoe":
		s.olmoe(c)
	case "qwen2_moe", "qwen3_moe":
		s.qwenMoE(c, family == "qwen3_moe")
	case "qwen3":
		s.qwen3(c)
	case "llama":
		s.llama(c)
	default:
		c.refuse("model_type %q is not implemented; implemented are %s", family, families)
	}
	s.ropeFromConfig(c, theta)
	c.rest()
	return c.err
}

func (s *Spec) allLayers(l Layer) {
	for i := range s.Layers {
		s.Layers[i] = l
	}
}

// mixtral: arXiv 2401.04088. Weights of the chosen experts are normalised.
func (s *Spec) mixtral(c *config) {
	s.Family = "mixtral"
	s.Experts, s.TopK = c.size("num_local_experts"), c.size("num_experts_per_tok")
	s.ExpertWidth, s.Normalize = s.DenseWidth, true
	s.allLayers(Layer{Sparse: true, Window: read(c, "sliding_window", 0)})
}

// olmoe: arXiv 2409.02060. Query and key norms span all heads.
func (s *Spec) olmoe(c *config) {
	s.Family, s.QKNorm = "olmoe", FullNorm
	s.Experts, s.TopK = c.size("num_experts"), c.size("num_experts_per_tok")
	s.ExpertWidth = s.DenseWidth
	s.Normalize = read(c, "norm_topk_prob", false)
	read(c, "attention_bias", false) // told by the tensors
	if !c.empty("clip_qkv") {
		c.refuse("clip_qkv is not implemented")
	}
	s.allLayers(Layer{Sparse: true})
}

// qwenMoE: Qwen2-MoE (arXiv 2407.10671) and Qwen3-MoE (arXiv 2505.09388).
func (s *Spec) qwenMoE(c *config, qwen3 bool) {
	s.Family = "qwen2moe"
	experts := "num_experts"
	if qwen3 {
		s.Family, s.QKNorm = "qwen3moe", HeadNorm
		if c.empty(experts) {
			experts = "num_local_experts"
		}
	} else {
		s.SharedWidth = c.size("shared_expert_intermediate_size")
	}
	read(c, "num_local_experts", 0)
	s.Experts, s.TopK = c.size(experts), c.size("num_experts_per_tok")
	s.ExpertWidth = c.size("moe_intermediate_size")
	s.Normalize = read(c, "norm_topk_prob", false)
	read(c, "attention_bias", false) // biases are told by the tensors
	read(c, "qkv_bias", false)
	step := read(c, "decoder_sparse_step", 1)
	dense := read(c, "mlp_only_layers", []int(nil))
	for i := range s.Layers {
		s.Layers[i].Sparse = !slices.Contains(dense, i) && step > 0 && (i+1)%step == 0
	}
	s.qwenWindow(c, func(i, maxLayers int) bool {
		return qwen3 || i < maxLayers && i%2 == 0
	})
}

// qwen3 is the dense Qwen3.
func (s *Spec) qwen3(c *config) {
	s.Family, s.QKNorm = "qwen3", HeadNorm
	read(c, "attention_bias", false)
	s.qwenWindow(c, func(i, maxLayers int) bool { return i >= maxLayers })
}

// qwenWindow sets the sliding window of the layers that have one.
func (s *Spec) qwenWindow(c *config, has func(i, maxLayers int) bool) {
	window := read(c, "sliding_window", 0)
	maxLayers := read(c, "max_window_layers", len(s.Layers))
	types := read(c, "layer_types", []string(nil))
	if !read(c, "use_sliding_window", false) {
		window = 0
	}
	if types != nil && len(types) != len(s.Layers) {
		c.refuse("layer_types has %d entries for %d layers", len(types), len(s.Layers))
		return
	}
	for i := range s.Layers {
		on := has(i, maxLayers)
		if types != nil {
			on = types[i] == "sliding_attention"
			if !on && types[i] != "full_attention" {
				c.refuse("layer_types holds %q", types[i])
			}
		}
		if on {
			s.Layers[i].Window = window
		}
	}
}

// llama is the dense Llama.
func (s *Spec) llama(c *config) {
	s.Family = "llama"
	read(c, "attention_bias", false)
	if read(c, "mlp_bias", false) {
		c.refuse("mlp_bias is not implemented")
	}
}

// ropeFields is rope_scaling, or rope_parameters since transformers 5.
type ropeFields struct {
	Theta        *float64 `json:"rope_theta"`
	RopeType     string   `json:"rope_type"`
	Type         string   `json:"type"`
	Factor       float64  `json:"factor"`
	Original     int      `json:"original_max_position_embeddings"`
	LowFreq      float64  `json:"low_freq_factor"`
	HighFreq     float64  `json:"high_freq_factor"`
	BetaFast     *float64 `json:"beta_fast"`
	BetaSlow     *float64 `json:"beta_slow"`
	Attention    *float64 `json:"attention_factor"`
	MScale       *float64 `json:"mscale"`
	MScaleAllDim *float64 `json:"mscale_all_dim"`
	Truncate     *bool    `json:"truncate"`
	Partial      *float64 `json:"partial_rotary_factor"`
	Rest         *float64 `json:"max_position_embeddings"`
}

func (s *Spec) ropeFromConfig(c *config, theta float64) {
	theta = read(c, "rope_theta", theta)
	name := "rope_scaling"
	if !c.empty("rope_parameters") {
		name = "rope_parameters"
	}
	c.seen["rope_scaling"], c.seen["rope_parameters"] = true, true
	var f ropeFields
	if !c.empty(name) {
		dec := json.NewDecoder(bytes.NewReader(c.fields[name]))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&f); err != nil {
			c.refuse("field %s: %v", name, err)
			return
		}
	}
	r := &s.Rope
	r.Theta, r.Kind, r.Dim = theta, "default", s.HeadDim
	if f.Theta != nil {
		r.Theta = *f.Theta
	}
	if kind := f.RopeType + f.Type; kind != "" {
		r.Kind = f.RopeType
		if r.Kind == "" {
			r.Kind = f.Type
		}
	}
	if f.Partial != nil && *f.Partial != 1 {
		c.refuse("partial_rotary_factor %g is not implemented", *f.Partial)
	}
	or := func(p *float64, absent float64) float64 {
		if p == nil {
			return absent
		}
		return *p
	}
	r.Factor, r.LowFreq, r.HighFreq = f.Factor, f.LowFreq, f.HighFreq
	r.Original = f.Original
	if r.Kind == "yarn" {
		if r.Original == 0 {
			r.Original = s.Context
		}
		r.BetaFast, r.BetaSlow = or(f.BetaFast, 32), or(f.BetaSlow, 1)
		r.NoTruncate = f.Truncate != nil && !*f.Truncate
		r.Attention = or(f.Attention, 0)
		if f.Attention == nil && or(f.MScale, 0) != 0 && or(f.MScaleAllDim, 0) != 0 {
			scale := func(m float64) float64 { return 1 + 0.1*m*math.Log(math.Max(r.Factor, 1)) }
			r.Attention = scale(*f.MScale) / scale(*f.MScaleAllDim)
		}
	}
}
