package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/moering/moering/engine/internal/synth"
	"github.com/moering/moering/offload/store"
)

// SynthOptions is the shape of a model with random weights. A zero field takes a small default.
type SynthOptions struct {
	Family      string // qwen3moe, qwen2moe, olmoe, mixtral, llama (dense), qwen3 (dense)
	Layers      int
	Dim         int // of the hidden state
	Heads       int
	KVHeads     int
	HeadDim     int // 0: Dim / Heads
	Experts     int // of a layer; only in families that have them
	ExpertsUsed int // by a token
	ExpertWidth int // of an expert; in dense families, of the one feed-forward network
	SharedWidth int // of the shared expert; only in qwen2moe
	Vocabulary  int
	Context     int
	ExpertType  string // of expert and dense feed-forward weights: "Q4_0", "Q8_0", "Q4_K", "F32", ...
	DenseType   string // of the other matrices
	Seed        uint64 // same options, same bytes
	Tied        bool   // the embedding is also the output matrix
	// Safetensors writes a Hugging Face directory in place of a GGUF file: config.json and
	// model.safetensors, without a tokenizer. Types are then F32, F16 or BF16, which is the default.
	Safetensors bool
}

// SynthPreset returns a named shape: "yardstick" is that by which Moering is measured, 24 layers of
// 128 experts, 8 GB in all, of which 0.4 GB are not experts.
func SynthPreset(name string) (SynthOptions, error) {
	o, err := synth.Preset(name)
	return SynthOptions(o), synthError(err)
}

// Complete returns o with defaults in place of zeros, or an error that says which field is wrong.
func (o SynthOptions) Complete() (SynthOptions, error) {
	c, err := synth.Options(o).Complete()
	return SynthOptions(c), synthError(err)
}

// Synth writes a model with random weights to path, as a GGUF file with a tokenizer or, with Safetensors,
// as a directory that must not be there, in constant memory. It appears complete or not at all. Weights have mean 0 and variance 1/columns, so that
// activations stay finite in any depth. Progress, if not nil, receives the bytes of weights written
// and in all. It is an error, before anything is written, if the file system has too little room.
func Synth(ctx context.Context, path string, o SynthOptions,
	progress func(done, total int64)) error {
	return synthError(synth.Write(ctx, path, synth.Options(o), progress))
}

// synthError gives an error the kind that this package promises.
func synthError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, synth.ErrOptions), errors.Is(err, store.ErrUsage):
		return fmt.Errorf("synth: %w: %w", ErrUsage, err)
	}
	return fmt.Errorf("synth: %w: %w", ErrIO, err)
}
