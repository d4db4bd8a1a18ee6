// Package arch reads what a model is: a family's configuration and tensor names become a Spec, by
// which the one forward pass is driven, and a list of weights with their places on disk.
//
// A family is one small file: mixtral.go, olmoe.go, qwen.go, llama.go. A configuration that this
// package does not know in full is refused by name; nothing is guessed.
package arch

import (
	"errors"
	"fmt"
	"math"
)

// ErrUnsupported is wrapped where a model is well formed but not implemented.
var ErrUnsupported = errors.New("unsupported model")

// ErrFormat is wrapped where a model contradicts itself: missing tensors, wrong shapes.
var ErrFormat = errors.New("malformed model")

// NormKind says what the query and key norms span.
type NormKind int

const (
	NoNorm   NormKind = iota
	HeadNorm          // each head by itself (Qwen3)
	FullNorm          // all heads together (OLMoE)
)

// Spec is the blueprint of the forward pass.
type Spec struct {
	Family  string // "qwen3moe", "mixtral", …
	Dim     int    // width of the residual stream
	Heads   int    // query heads
	KVHeads int
	HeadDim int
	Vocab   int
	Context int // positions that the model was made for
	Eps     float32
	QKNorm  NormKind
	Rope    Rope
	Layers  []Layer

	Experts     int // of a sparse layer; 0 in a dense model
	TopK        int
	ExpertWidth int  // hidden width of a routed expert
	DenseWidth  int  // hidden width of a dense layer's block
	SharedWidth int  // hidden width of the shared expert; 0: none
	Normalize   bool // top-k weights are divided by their sum
}

// Layer is what differs between layers.
type Layer struct {
	Sparse bool
	Window int // sliding window in positions; 0: none
}

// Rope says how positions turn queries and keys.
type Rope struct {
	Theta       float64
	Dim         int // leading elements of a head that rotate
	Interleaved bool
	Kind        string // "default", "linear", "yarn", "llama3"
	Factor      float64
	Original    int // positions before scaling
	LowFreq     float64
	HighFreq    float64
	BetaFast    float64
	BetaSlow    float64
	NoTruncate  bool
	// Attention multiplies cos and sin; 0 is the default of the kind.
	Attention float64
	// Divisors divide the frequencies, one each (GGUF's rope_freqs.weight); nil: none.
	Divisors []float32
}

// Frequencies returns the angle per position of each pair, Dim/2 values, and the factor by which
// cosine and sine are multiplied. Sources: RoFormer (arXiv 2104.09864); YaRN (arXiv 2309.00071,
// section 3.3 and 3.4); the llama3 rule as transformers documents it.
func (r Rope) Frequencies() (inv []float32, scale float32) {
	inv = make([]float32, r.Dim/2)
	scale = 1
	for i := range inv {
		f := math.Pow(r.Theta, -2*float64(i)/float64(r.Dim))
		switch r.Kind {
		case "linear":
			f /= r.Factor
		case "llama3":
			f = r.llama3(f)
		case "yarn":
			f = r.yarn(f, i)
		}
		if r.Divisors != nil {
			f /= float64(r.Divisors[i])
		}
		inv[i] = float32(f)
	}
	if r.Kind == "yarn" {
		scale = float32(r.Attention)
		if r.Attention == 0 {
			scale = float32(1 + 0.1*math.Log(math.Max(r.Factor, 1)))
		}
	}
	return inv, scale
}

func (r Rope) llama3(f float64) float64 {
	turns := float64(r.Original) * f / (2 * math.Pi)
	switch {
	case turns < r.LowFreq:
		return f / r.Factor
	case turns > r.HighFreq:
		return f
	}
	smooth := (turns - r.LowFreq) / (r.HighFreq - r.LowFreq)
	return (1-smooth)*f/r.Factor + smooth*f
}

func (r Rope) yarn(f float64, i int) float64 {
	corner := func(beta float64) float64 {
		return float64(r.Dim) * math.Log(float64(r.Original)/(2*math.Pi*beta)) /
			(2 * math.Log(r.Theta))
	}
	low, high := corner(r.BetaFast), corner(r.BetaSlow)
	if !r.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = math.Max(low, 0), math.Min(high, float64(r.Dim-1))
	span := high - low
	if span == 0 {
		span = 0.001
	}
	m := math.Min(math.Max((float64(i)-low)/span, 0), 1)
	return f*(1-m) + f/r.Factor*m
}

// Limits on what a configuration may say; beyond them it is taken for damage.
const (
	layersMax  = 1 << 12
	widthMax   = 1 << 20
	expertsMax = 1 << 14
	vocabMax   = 1 << 24
)

func (s *Spec) validate() error {
	check := func(name string, v, least, most int) error {
		if v < least || v > most {
			return fmt.Errorf("%w: %s is %d, outside %d to %d", ErrFormat, name, v, least, most)
		}
		return nil
	}
	err := errors.Join(
		check("layers", len(s.Layers), 1, layersMax), check("width", s.Dim, 1, widthMax),
		check("heads", s.Heads, 1, widthMax), check("key-value heads", s.KVHeads, 1, s.Heads),
		check("head width", s.HeadDim, 1, widthMax), check("vocabulary", s.Vocab, 1, vocabMax),
		check("context", s.Context, 1, 1<<30), check("rotated width", s.Rope.Dim, 2, s.HeadDim))
	if err != nil {
		return err
	}
	if s.Heads%s.KVHeads != 0 || s.Rope.Dim%2 != 0 {
		return fmt.Errorf("%w: %d heads over %d key-value heads, rotated width %d", ErrFormat,
			s.Heads, s.KVHeads, s.Rope.Dim)
	}
	if !(s.Rope.Theta > 1) || !(s.Eps > 0 && s.Eps < 1) {
		return fmt.Errorf("%w: rope theta %g, norm epsilon %g", ErrFormat, s.Rope.Theta, s.Eps)
	}
	if err := s.Rope.validate(); err != nil {
		return err
	}
	for _, l := range s.Layers {
		if l.Sparse {
			return errors.Join(check("experts", s.Experts, 1, expertsMax),
				check("experts a token", s.TopK, 1, s.Experts),
				check("expert width", s.ExpertWidth, 1, widthMax),
				check("shared width", s.SharedWidth, 0, widthMax))
		}
	}
	return check("feed-forward width", s.DenseWidth, 1, widthMax)
}

func (r Rope) validate() error {
	switch r.Kind {
	case "default":
		return nil
	case "linear":
		if r.Factor > 0 {
			return nil
		}
	case "yarn":
		if r.Factor > 0 && r.Original > 0 && r.BetaFast > 0 && r.BetaSlow > 0 {
			return nil
		}
	case "llama3":
		if r.Factor > 0 && r.Original > 0 && r.HighFreq > r.LowFreq {
			return nil
		}
	default:
		return fmt.Errorf("%w: rope scaling %q", ErrUnsupported, r.Kind)
	}
	return fmt.Errorf("%w: rope scaling %s with factor %g, original context %d", ErrFormat, r.Kind,
		r.Factor, r.Original)
}
