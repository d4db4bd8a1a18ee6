package synth

import (
	"fmt"
	"math"

	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/store"
)

// tensor is one tensor to write.
type tensor struct {
	name      string
	kind      quant.Type
	shape     []int64 // outermost first
	deviation float64 // of the weights; 0: all ones
}

func (t *tensor) bytes() int64 {
	n := int64(t.kind.BlockBytes())
	for _, dim := range t.shape {
		n *= dim
	}
	return n / int64(t.kind.BlockSize())
}

// builder collects tensors.
type builder struct {
	tensors       []tensor
	expert, dense quant.Type
	err           error
}

// matrix adds weights with deviation 1/sqrt(columns), which keeps activations at their size.
func (b *builder) matrix(name string, kind quant.Type, shape ...int) {
	b.scaled(name, kind, 1, shape...)
}

// branch adds a matrix whose output joins the residual stream: all layers together add as much as the
// embedding brings, so that the router sees a token's own embedding to the last layer. Otherwise the
// first attention, an average over the sequence, would choose the same experts for all its tokens,
// and any cache would look good.
func (b *builder) branch(name string, kind quant.Type, o Options, shape ...int) {
	b.scaled(name, kind, 1/math.Sqrt(float64(2*o.Layers)), shape...)
}

func (b *builder) scaled(name string, kind quant.Type, scale float64, shape ...int) {
	cols := shape[len(shape)-1]
	if cols%kind.BlockSize() != 0 && b.err == nil {
		b.err = fmt.Errorf("%w: tensor %s has rows of %d, which are no whole blocks of %v (%d)",
			ErrOptions, name, cols, kind, kind.BlockSize())
	}
	b.add(name, kind, scale/math.Sqrt(float64(cols)), shape...)
}

// biasDeviation of bias vectors: small beside the products they are added to.
const biasDeviation = 0.1

func (b *builder) bias(name string, n int) { b.add(name, quant.F32, biasDeviation, n) }
func (b *builder) norm(name string, n int) { b.add(name, quant.F32, 0, n) }

func (b *builder) add(name string, kind quant.Type, deviation float64, shape ...int) {
	t := tensor{name: name, kind: kind, deviation: deviation}
	for _, n := range shape {
		t.shape = append(t.shape, int64(n))
	}
	b.tensors = append(b.tensors, t)
}

// layout returns the tensors of a complete Options, with the names of llama.cpp.
func layout(o Options) ([]tensor, error) {
	t, err := traitsOf(o.Family)
	if err != nil {
		return nil, err
	}
	b := &builder{}
	if b.expert, err = parseType(o.ExpertType); err != nil {
		return nil, err
	}
	if b.dense, err = parseType(o.DenseType); err != nil {
		return nil, err
	}
	b.scaled("token_embd.weight", b.dense, math.Sqrt(float64(o.Dim)), o.Vocabulary, o.Dim)
	b.norm("output_norm.weight", o.Dim)
	if !o.Tied {
		b.matrix("output.weight", b.dense, o.Vocabulary, o.Dim)
	}
	for i := range o.Layers {
		prefix := fmt.Sprintf("blk.%d.", i)
		b.attention(prefix, o, t)
		b.feedForward(prefix, o, t)
	}
	return b.tensors, b.err
}

func (b *builder) attention(prefix string, o Options, t traits) {
	heads, kv := o.Heads*o.HeadDim, o.KVHeads*o.HeadDim
	b.norm(prefix+"attn_norm.weight", o.Dim)
	b.matrix(prefix+"attn_q.weight", b.dense, heads, o.Dim)
	b.matrix(prefix+"attn_k.weight", b.dense, kv, o.Dim)
	b.matrix(prefix+"attn_v.weight", b.dense, kv, o.Dim)
	if t.biases {
		b.bias(prefix+"attn_q.bias", heads)
		b.bias(prefix+"attn_k.bias", kv)
		b.bias(prefix+"attn_v.bias", kv)
	}
	switch {
	case t.headNorms:
		b.norm(prefix+"attn_q_norm.weight", o.HeadDim)
		b.norm(prefix+"attn_k_norm.weight", o.HeadDim)
	case t.fullNorms:
		b.norm(prefix+"attn_q_norm.weight", heads)
		b.norm(prefix+"attn_k_norm.weight", kv)
	}
	b.branch(prefix+"attn_output.weight", b.dense, o, o.Dim, heads)
	b.norm(prefix+"ffn_norm.weight", o.Dim)
}

func (b *builder) feedForward(prefix string, o Options, t traits) {
	width := o.ExpertWidth
	if !t.experts {
		b.matrix(prefix+"ffn_gate.weight", b.expert, width, o.Dim)
		b.matrix(prefix+"ffn_up.weight", b.expert, width, o.Dim)
		b.branch(prefix+"ffn_down.weight", b.expert, o, o.Dim, width)
		return
	}
	b.matrix(prefix+"ffn_gate_inp.weight", quant.F32, o.Experts, o.Dim)
	b.matrix(prefix+"ffn_gate_exps.weight", b.expert, o.Experts, width, o.Dim)
	b.matrix(prefix+"ffn_up_exps.weight", b.expert, o.Experts, width, o.Dim)
	b.branch(prefix+"ffn_down_exps.weight", b.expert, o, o.Experts, o.Dim, width)
	if t.shared {
		b.matrix(prefix+"ffn_gate_inp_shexp.weight", quant.F32, o.Dim)
		b.matrix(prefix+"ffn_gate_shexp.weight", b.dense, o.SharedWidth, o.Dim)
		b.matrix(prefix+"ffn_up_shexp.weight", b.dense, o.SharedWidth, o.Dim)
		b.branch(prefix+"ffn_down_shexp.weight", b.dense, o, o.Dim, o.SharedWidth)
	}
}

// entry is one metadata key.
type entry struct {
	key   string
	value store.Value
}

func number(key string, n int) entry { return entry{key, store.Scalar(uint32(n))} }

// metadata returns the keys of a complete Options, with the names of the GGUF specification.
func metadata(o Options, t traits) []entry {
	arch := t.arch + "."
	width := o.ExpertWidth
	entries := []entry{
		{"general.architecture", store.Scalar(t.arch)},
		{"general.name", store.Scalar(fmt.Sprintf("synthetic %s, seed %d", o.Family, o.Seed))},
		number("general.quantization_version", 2),
		number(arch+"context_length", o.Context),
		number(arch+"embedding_length", o.Dim),
		number(arch+"block_count", o.Layers),
		number(arch+"feed_forward_length", width),
		number(arch+"attention.head_count", o.Heads),
		number(arch+"attention.head_count_kv", o.KVHeads),
		number(arch+"attention.key_length", o.HeadDim),
		number(arch+"attention.value_length", o.HeadDim),
		number(arch+"rope.dimension_count", o.HeadDim),
		{arch + "rope.freq_base", store.Scalar(float32(1e6))},
		{arch + "attention.layer_norm_rms_epsilon", store.Scalar(float32(1e-6))},
		number(arch+"vocab_size", o.Vocabulary),
	}
	if t.experts {
		entries = append(entries, number(arch+"expert_count", o.Experts),
			number(arch+"expert_used_count", o.ExpertsUsed))
		if t.arch != "llama" {
			entries = append(entries, number(arch+"expert_feed_forward_length", width))
		}
	}
	if t.shared {
		entries = append(entries, number(arch+"expert_shared_feed_forward_length", o.SharedWidth))
	}
	return append(entries, tokenizerMetadata(newVocabulary(o.Vocabulary))...)
}

func tokenizerMetadata(v vocabulary) []entry {
	return []entry{
		{"tokenizer.ggml.model", store.Scalar("gpt2")},
		{"tokenizer.ggml.pre", store.Scalar("qwen2")},
		{"tokenizer.ggml.tokens", store.Array(v.tokens)},
		{"tokenizer.ggml.token_type", store.Array(v.types)},
		{"tokenizer.ggml.merges", store.Array(v.merges)},
		number("tokenizer.ggml.bos_token_id", endOfText),
		number("tokenizer.ggml.eos_token_id", endOfText),
		number("tokenizer.ggml.eot_token_id", turnEnd),
		number("tokenizer.ggml.padding_token_id", endOfText),
		{"tokenizer.ggml.add_bos_token", store.Scalar(false)},
		{"tokenizer.chat_template", store.Scalar(chatTemplate)},
	}
}
