package pack

import (
	"errors"
	"fmt"

	"github.com/moering/moering/kernels/quant"
)

// The kinds of failure beside those of packages store and arch.
var (
	// ErrOptions: options that make no sense, or that the model has no use for.
	ErrOptions = errors.New("wrong pack option")
	// ErrBudget: too little memory for the buffers.
	ErrBudget = errors.New("too little memory to pack in")
	// ErrModel: a model that GGUF has no words for, or weights that a type cannot hold.
	ErrModel = errors.New("the model cannot be packed so")
)

// The layouts of experts in a packed file.
const (
	// Grouped gives each expert tensors of its own, gate, up and down side by side: one read a group.
	Grouped = "grouped"
	// Stacked keeps the three tensors a layer of other programs: three reads a group.
	Stacked = "stacked"
)

// Options are the choices of Run. The zero value copies all weights as they are, grouped.
type Options struct {
	Layout     string // Grouped, Stacked or "", which is Grouped
	ExpertType string // of experts and dense feed-forward weights; "": as they are
	DenseType  string // of the other matrices but the routers; "": as they are
	Force      bool   // replaces a file that is there
	Memory     int64  // budget in bytes; 0: what the buffers like best
	Threads    int    // that convert; at least 1
	Checkpoint int64  // bytes between two points that Run can go on from; 0: the store's choice
	// ChatTemplate is the template of a model that keeps it outside of GGUF metadata.
	ChatTemplate string
}

// keep stands for "as it is".
const keep = quant.Type(1 << 31)

// types returns what experts and other matrices become.
func (o *Options) types() (expert, dense quant.Type, err error) {
	if expert, err = parseType("expert", o.ExpertType); err != nil {
		return 0, 0, err
	}
	dense, err = parseType("dense", o.DenseType)
	return expert, dense, err
}

func parseType(what, name string) (quant.Type, error) {
	if name == "" {
		return keep, nil
	}
	t, ok := quant.ParseType(name)
	if !ok || !t.CanEncode() || t == quant.F32 {
		return 0, fmt.Errorf("%w: %s type %q; use Q8_0, Q5_0, Q5_1, Q4_0, Q4_1, Q2_K to Q6_K, IQ4_NL, "+
			"IQ4_XS, MXFP4, F16 or BF16", ErrOptions, what, name)
	}
	return t, nil
}

func (o *Options) check() error {
	switch o.Layout {
	case "":
		o.Layout = Grouped
	case Grouped, Stacked:
	default:
		return fmt.Errorf("%w: layout %q; use %s or %s", ErrOptions, o.Layout, Grouped, Stacked)
	}
	o.Threads = max(o.Threads, 1)
	return nil
}
