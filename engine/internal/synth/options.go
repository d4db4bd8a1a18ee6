// Package synth writes models with random weights, of any family and size that the engine runs,
// straight to GGUF in constant memory: for tests under memory pressure and for measurements.
package synth

import (
	"errors"
	"fmt"

	"github.com/moering/moering/kernels/quant"
)

// ErrOptions is wrapped by errors about options.
var ErrOptions = errors.New("bad option")

// Options is the shape of a model. A zero field takes the default that Complete fills in.
type Options struct {
	Family      string // one of Families
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
	ExpertType  string // of expert, and dense feed-forward, weights: "Q4_0", ...
	DenseType   string // of the other matrices
	Seed        uint64
	Tied        bool // the embedding is also the output matrix
	Safetensors bool // write a Hugging Face directory
}

// Families lists the names that Options.Family can have.
func Families() []string {
	return []string{"qwen3moe", "qwen2moe", "olmoe", "mixtral", "llama", "qwen3"}
}

// Preset returns a named shape: "yardstick" is that by which Moering is measured, the experts of
// Qwen3-30B-A3B in half of its layers, with a small vocabulary: 8.2 GB, of which 0.4 GB stay.
func Preset(name string) (Options, error) {
	if name != "yardstick" {
		return Options{}, fmt.Errorf("%w: unknown preset %q; there is yardstick", ErrOptions, name)
	}
	return Options{Family: "qwen3moe", Layers: 24, Dim: 2048, Heads: 32, KVHeads: 4, HeadDim: 128,
		Experts: 128, ExpertsUsed: 8, ExpertWidth: 768, Vocabulary: 4096, Context: 32768,
		ExpertType: "Q4_0", DenseType: "Q8_0"}, nil
}

// traits are the differences of the families.
type traits struct {
	arch      string // general.architecture
	experts   bool
	shared    bool
	biases    bool // of q, k and v
	headNorms bool // q and k are normed a head
	fullNorms bool // q and k are normed over all heads
}

func traitsOf(family string) (traits, error) {
	switch family {
	case "qwen3moe":
		return traits{arch: "qwen3moe", experts: true, headNorms: true}, nil
	case "qwen2moe":
		return traits{arch: "qwen2moe", experts: true, shared: true, biases: true}, nil
	case "olmoe":
		return traits{arch: "olmoe", experts: true, fullNorms: true}, nil
	case "mixtral":
		return traits{arch: "llama", experts: true}, nil
	case "llama":
		return traits{arch: "llama"}, nil
	case "qwen3":
		return traits{arch: "qwen3", headNorms: true}, nil
	}
	return traits{}, fmt.Errorf("%w: unknown family %q; there are %v", ErrOptions, family, Families())
}

// Complete returns o with defaults in place of zeros, or an error that wraps ErrOptions and says
// which field is wrong.
func (o Options) Complete() (Options, error) {
	orString(&o.Family, "qwen3moe")
	t, err := traitsOf(o.Family)
	if err != nil {
		return o, err
	}
	or(&o.Layers, 4)
	or(&o.Dim, 256)
	or(&o.Heads, 8)
	or(&o.KVHeads, o.Heads)
	or(&o.ExpertWidth, o.Dim)
	or(&o.Vocabulary, 1024)
	or(&o.Context, 4096)
	if o.Safetensors {
		orString(&o.DenseType, "BF16")
		orString(&o.ExpertType, o.DenseType)
	}
	orString(&o.ExpertType, "Q4_0")
	orString(&o.DenseType, "Q8_0")
	if o.Heads > 0 {
		or(&o.HeadDim, o.Dim/o.Heads)
	}
	if t.experts {
		or(&o.Experts, 16)
		or(&o.ExpertsUsed, min(2, o.Experts))
	}
	if t.shared {
		or(&o.SharedWidth, o.ExpertWidth)
	}
	return o, o.check(t)
}

func or(field *int, value int) {
	if *field == 0 {
		*field = value
	}
}

func orString(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// Bounds on shapes; what is beyond them is a mistake.
const (
	layersMax  = 1 << 10
	widthMax   = 1 << 18
	headsMax   = 1 << 10
	headDimMax = 1 << 10
	expertsMax = 1 << 12
	contextMax = 1 << 24
)

func (o Options) check(t traits) error {
	for _, f := range []struct {
		name            string
		value, min, max int
	}{
		{"layers", o.Layers, 1, layersMax},
		{"dim", o.Dim, 1, widthMax},
		{"heads", o.Heads, 1, headsMax},
		{"kv heads", o.KVHeads, 1, o.Heads},
		{"head dim", o.HeadDim, 2, headDimMax},
		{"expert width", o.ExpertWidth, 1, widthMax},
		{"vocabulary", o.Vocabulary, vocabularyMin, vocabularyMax},
		{"context", o.Context, 1, contextMax},
	} {
		if f.value < f.min || f.value > f.max {
			return fmt.Errorf("%w: %s %d is outside %d to %d", ErrOptions, f.name, f.value, f.min, f.max)
		}
	}
	for _, name := range []string{o.ExpertType, o.DenseType} {
		if kind, ok := quant.ParseType(name); o.Safetensors && ok && !kind.IsFloat() {
			return fmt.Errorf("%w: safetensors has no weights of type %s; use F32, F16 or BF16", ErrOptions,
				name)
		}
	}
	switch {
	case o.Heads%o.KVHeads != 0:
		return fmt.Errorf("%w: %d heads cannot share %d kv heads", ErrOptions, o.Heads, o.KVHeads)
	case o.HeadDim%2 != 0:
		return fmt.Errorf("%w: head dim %d is odd", ErrOptions, o.HeadDim)
	case !t.experts && (o.Experts != 0 || o.ExpertsUsed != 0):
		return fmt.Errorf("%w: family %s has no experts", ErrOptions, o.Family)
	case t.experts && (o.Experts < 1 || o.Experts > expertsMax):
		return fmt.Errorf("%w: experts %d is outside 1 to %d", ErrOptions, o.Experts, expertsMax)
	case t.experts && (o.ExpertsUsed < 1 || o.ExpertsUsed > o.Experts):
		return fmt.Errorf("%w: experts used %d is outside 1 to %d", ErrOptions, o.ExpertsUsed, o.Experts)
	case !t.shared && o.SharedWidth != 0:
		return fmt.Errorf("%w: family %s has no shared expert", ErrOptions, o.Family)
	case t.shared && (o.SharedWidth < 1 || o.SharedWidth > widthMax):
		return fmt.Errorf("%w: shared width %d is outside 1 to %d", ErrOptions, o.SharedWidth, widthMax)
	}
	return nil
}

// parseType returns a type that blocks can be made of.
func parseType(name string) (quant.Type, error) {
	t, ok := quant.ParseType(name)
	if !ok || !canFill(t) {
		return 0, fmt.Errorf("%w: weights of type %q cannot be made; use F32, F16, BF16, Q8_0, Q4_0, "+
			"Q4_K, Q5_K or Q6_K", ErrOptions, name)
	}
	return t, nil
}
