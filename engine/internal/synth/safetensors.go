package synth

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels/quant"
)

// publish turns the tensors of a GGUF file into those of a Hugging Face directory.
func publish(o Options, tensors []tensor, vectors quant.Type) (list []tensor, err error) {
	for _, t := range tensors {
		name, ok := arch.HFName(t.name, o.Family == "mixtral")
		if !ok {
			return nil, fmt.Errorf("%w: tensor %s has no name in a Hugging Face directory", ErrOptions, t.name)
		}
		if t.kind == quant.F32 { // norms, biases and routers, which are all of one type there
			t.kind = vectors
		}
		if strings.HasSuffix(name, "shared_expert_gate.weight") {
			t.shape = append([]int64{1}, t.shape...)
		}
		if !strings.Contains(name, "%d") {
			t.name = name
			list = append(list, t)
			continue
		}
		experts := t.shape[0]
		t.shape = t.shape[1:]
		for e := range experts {
			t.name = fmt.Sprintf(name, e)
			list = append(list, t)
		}
	}
	return list, nil
}

// config is config.json, with what both transformers and the engine read.
func config(o Options, t traits) map[string]any {
	model := map[string]string{"qwen3moe": "Qwen3Moe", "qwen2moe": "Qwen2Moe", "olmoe": "Olmoe",
		"mixtral": "Mixtral", "llama": "Llama", "qwen3": "Qwen3"}[o.Family]
	c := map[string]any{"architectures": []string{model + "ForCausalLM"},
		"model_type": strings.NewReplacer("2moe", "2_moe", "3moe", "3_moe").Replace(o.Family),
		"hidden_act": "silu", "hidden_size": o.Dim, "intermediate_size": o.ExpertWidth,
		"max_position_embeddings": o.Context, "num_attention_heads": o.Heads,
		"num_key_value_heads": o.KVHeads, "num_hidden_layers": o.Layers, "rms_norm_eps": 1e-6,
		"rope_theta": 1e6, "tie_word_embeddings": o.Tied, "vocab_size": o.Vocabulary,
		"bos_token_id": endOfText, "eos_token_id": endOfText, "use_cache": true,
		"torch_dtype": map[string]string{"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[o.DenseType]}
	if o.HeadDim*o.Heads != o.Dim || t.headNorms {
		c["head_dim"] = o.HeadDim
	}
	if !t.experts {
		return c
	}
	c["num_experts_per_tok"] = o.ExpertsUsed
	if o.Family == "mixtral" {
		c["num_local_experts"] = o.Experts
		return c
	}
	c["num_experts"], c["norm_topk_prob"] = o.Experts, t.headNorms
	if o.Family != "olmoe" {
		c["moe_intermediate_size"], c["decoder_sparse_step"] = o.ExpertWidth, 1
		c["mlp_only_layers"] = []int{}
	}
	if t.shared {
		c["shared_expert_intermediate_size"] = o.SharedWidth
	}
	return c
}

// header is that of a safetensors file: JSON behind its length, padded so that data is aligned.
func header(tensors []tensor) ([]byte, int64, error) {
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int64  `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	entries := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	at := int64(0)
	for _, t := range tensors {
		entries[t.name] = entry{t.kind.String(), t.shape, [2]int64{at, at + t.bytes()}}
		at += t.bytes()
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, 0, err
	}
	const align = 64
	for (8+len(text))%align != 0 {
		text = append(text, ' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), at, nil
}

// writeDirectory writes a Hugging Face directory: config.json and model.safetensors, without a tokenizer.
// It is made under another name and appears complete or not at all.
func writeDirectory(ctx context.Context, dir string, o Options, progress func(done, total int64)) (err error) {
	t, err := traitsOf(o.Family)
	if err != nil {
		return err
	}
	tensors, err := layout(o)
	if err != nil {
		return err
	}
	vectors, _ := quant.ParseType(o.DenseType)
	if tensors, err = publish(o, tensors, vectors); err != nil {
		return err
	}
	head, total, err := header(tensors)
	if err != nil {
		return err
	}
	dir = filepath.Clean(dir)
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("%w: %s is there already", ErrOptions, dir)
	}
	if err := checkSpace(filepath.Dir(dir), total+headerSpace); err != nil {
		return err
	}
	partial, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".partial-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	if err := os.Chmod(partial, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(config(o, t), "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(partial, "config.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(partial, "model.safetensors"))
	if err != nil {
		return err
	}
	_, err = f.Write(head)
	done := int64(0)
	if err == nil {
		err = generate(ctx, o, tensors, func(_ *tensor, p []byte) error {
			if _, err := f.Write(p); err != nil {
				return err
			}
			if done += int64(len(p)); progress != nil {
				progress(done, total)
			}
			return nil
		})
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(partial, dir)
}
