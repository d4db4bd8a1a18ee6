// Package sample turns logits into a token: repetition penalty, temperature, top-k, top-p and
// min-p, in the order and with the meaning of Hugging Face transformers (generation/logits_process.py).
package sample

import (
	"errors"
	"fmt"
	"math"
)

// ErrParams is wrapped by every error of New.
var ErrParams = errors.New("bad sampling parameter")

// ErrLogits is wrapped by every error of Sample: the model's output cannot be sampled from.
var ErrLogits = errors.New("logits cannot be sampled from")

// Bounds and defaults of Params.
const (
	// WindowDefault is the number of tokens that the repetition penalty looks back at.
	WindowDefault = 64
	windowMax     = 1 << 20
	topKMax       = 1 << 24
)

// Params says how a token is chosen. The zero value is greedy.
type Params struct {
	Temperature       float32 // 0: greedy
	TopK              int     // the k most likely remain; 0: off
	TopP              float32 // the fewest tokens with this mass remain; 0 or 1: off
	MinP              float32 // tokens with this share of the best one's probability remain; 0: off
	RepetitionPenalty float32 // divides positive, multiplies negative logits; 0 or 1: off
	RepetitionWindow  int     // tokens looked back at; 0: WindowDefault
	Seed              uint64
}

func (p Params) validate() error {
	switch {
	case !finite(p.Temperature) || p.Temperature < 0:
		return fmt.Errorf("%w: temperature %v is not a number of at least 0", ErrParams, p.Temperature)
	case p.TopK < 0 || p.TopK > topKMax:
		return fmt.Errorf("%w: top-k %d is outside 0 to %d", ErrParams, p.TopK, topKMax)
	case !(p.TopP >= 0 && p.TopP <= 1):
		return fmt.Errorf("%w: top-p %v is outside 0 to 1", ErrParams, p.TopP)
	case !(p.MinP >= 0 && p.MinP <= 1):
		return fmt.Errorf("%w: min-p %v is outside 0 to 1", ErrParams, p.MinP)
	case !finite(p.RepetitionPenalty) || p.RepetitionPenalty < 0:
		return fmt.Errorf("%w: repetition penalty %v is not a number above 0", ErrParams,
			p.RepetitionPenalty)
	case p.RepetitionWindow < 0 || p.RepetitionWindow > windowMax:
		return fmt.Errorf("%w: repetition window %d is outside 0 to %d", ErrParams,
			p.RepetitionWindow, windowMax)
	}
	return nil
}

func finite(v float32) bool { return !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0) }
