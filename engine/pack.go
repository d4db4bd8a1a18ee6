package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/pack"
	"github.com/moering/moering/offload/store"
)

// PackOptions says how a model is rewritten. The zero value copies all weights as they are.
type PackOptions struct {
	// Layout of experts. "grouped", or "": each expert's three matrices lie side by side, in tensors
	// of their own, and take one read; other programs list such a file, and cannot run it. "stacked":
	// three tensors a layer, as other programs have them; three reads an expert.
	Layout string
	// ExpertType is what experts and dense feed-forward weights become: any block format that
	// kernels/quant knows, by its published name ("Q8_0", "Q4_K", "IQ4_XS", "MXFP4", ...), "F16",
	// "BF16", or "" for what they are. Only F32, F16 and BF16 weights are converted. DenseType is
	// the same for the other matrices. Norms, biases and routers stay.
	ExpertType, DenseType string
	// Force replaces a file that has the target's name.
	Force bool
	// HostMemory is the budget in bytes. 0: what the buffers like best, less than 200 MB.
	HostMemory int64
	// Threads that convert. 0: the processors that this process may use.
	Threads int
	// CheckpointBytes is how much is written between two points that an interrupted pack can go on
	// from. 0: 256 MiB.
	CheckpointBytes int64
	// Progress, if set, is called with the bytes of weights that are written, those of an earlier,
	// interrupted run among them, and in all.
	Progress func(done, total int64)
}

// PackReport says what Pack did.
type PackReport struct {
	Source    Info     `json:"source"`
	Packed    Info     `json:"packed"`
	Layout    string   `json:"layout"`
	Resumed   int64    `json:"resumed_bytes"` // written by an earlier run
	Checksums int      `json:"checksums"`
	Notes     []string `json:"notes,omitempty"` // what is not as asked, and why
}

// Pack rewrites a model for streaming, as one GGUF file: every tensor begins at a multiple of 4096
// bytes, every expert is contiguous, and every weight has a checksum that is compared when it is
// read. Any model that Open takes can be packed, a packed one among them: so one layout becomes the
// other. Metadata is kept; of a Hugging Face model it is made from the configuration, and the
// tokenizer's files are carried as they are.
//
// The file appears under its name complete and on disk, or not at all. When ctx ends, after a
// failure and after a crash, what is written stays beside the target; the same call goes on from
// there, and gives the same bytes.
//
// Errors wrap ErrUsage for a target that is there and for options that make no sense, ErrIO (with
// the system's reason) where the disk is too small or fails, ErrUnsupported for a model that GGUF
// cannot carry, ErrBudget, ErrFormat, or that of ctx.
func Pack(ctx context.Context, source, target string, o PackOptions) (PackReport, error) {
	r, err := packModel(ctx, source, target, o)
	return r, packError(err)
}

func packModel(ctx context.Context, source, target string, o PackOptions) (r PackReport, err error) {
	e := &Engine{}
	if err := e.read(source); err != nil {
		return r, err
	}
	r.Source = e.info
	if err := e.openTokenizer(); err != nil {
		return r, err
	}
	template, _, err := e.chatSource()
	if err != nil {
		return r, err
	}
	if o.HostMemory < 0 || o.Threads < 0 || o.Threads > threadsMax || o.CheckpointBytes < 0 {
		return r, fmt.Errorf("%w: memory %d, threads %d, checkpoint %d", ErrUsage, o.HostMemory, o.Threads,
			o.CheckpointBytes)
	}
	done, err := pack.Run(ctx, e.model, target, pack.Options{Layout: o.Layout,
		ExpertType: o.ExpertType, DenseType: o.DenseType, Force: o.Force, Memory: o.HostMemory,
		Threads: Options{Threads: o.Threads}.threads(), Checkpoint: o.CheckpointBytes,
		ChatTemplate: template}, o.Progress)
	r.Resumed, r.Checksums, r.Notes = done.Resumed, done.Pieces, done.Notes
	if err != nil {
		return r, err
	}
	packed := &Engine{}
	if err := packed.read(target); err != nil {
		return r, err
	}
	r.Packed, r.Layout = packed.info, packed.model.Store.Layout()
	return r, nil
}

// read opens a model's headers and describes it.
func (e *Engine) read(path string) error {
	s, err := store.Open(path)
	if err != nil {
		return err
	}
	if e.model, err = arch.Load(s); err != nil {
		return err
	}
	e.describe()
	return nil
}

// Verify reads the whole of a packed file and compares every byte: weights and header with their
// checksums, padding with zero. Progress, if not nil, receives the bytes read and in all, from one
// goroutine at a time. What is wrong is an error that names each place; a file without checksums
// is an error that wraps ErrUnsupported.
func Verify(ctx context.Context, path string, progress func(done, total int64)) error {
	s, err := store.Open(path)
	if err == nil {
		err = s.Check(ctx, progress)
	}
	return mapError(err)
}

// packError gives an error the kind that this package promises.
func packError(err error) error {
	for _, k := range []struct{ from, to error }{{pack.ErrOptions, ErrUsage}, {store.ErrUsage, ErrUsage},
		{pack.ErrBudget, ErrBudget}, {pack.ErrModel, ErrUnsupported}} {
		if errors.Is(err, k.from) && !errors.Is(err, k.to) {
			return fmt.Errorf("%w: %w", k.to, err)
		}
	}
	return mapError(err)
}

// hubTokenizer reports whether text is understood by the files of a Hugging Face model: they lie
// beside the weights, or a packed file carries them. A GGUF file of others that has a
// tokenizer.json but not the configuration of it, by which BOS and chat are known, is read by its
// own keys if it has them.
func hubTokenizer(s *store.Model) bool {
	if s.Format() != store.FormatGGUF {
		return true
	}
	m := s.Metadata()
	return m.Has(store.EmbeddedKey(store.SideTokenizer)) &&
		(m.Has(store.EmbeddedKey(store.SideTokenizerConfig)) || !m.Has("tokenizer.ggml.tokens"))
}
