package engine

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/moering/moering/kernels/cuda"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
)

// Toggle is a choice that the engine makes by itself unless told otherwise.
type Toggle int

// The settings of a Toggle; the zero value leaves the choice to the engine.
const (
	Auto Toggle = iota
	On
	Off
)

// String returns "auto", "on" or "off".
func (t Toggle) String() string {
	switch t {
	case On:
		return "on"
	case Off:
		return "off"
	}
	return "auto"
}

// ParseToggle reads what String prints.
func ParseToggle(s string) (Toggle, error) {
	for _, t := range []Toggle{Auto, On, Off} {
		if s == t.String() {
			return t, nil
		}
	}
	return Auto, fmt.Errorf("%w: %q is none of auto, on, off", ErrUsage, s)
}

// Options says how a model is opened. The zero value works: everything is chosen from the machine.
// What was chosen is in Engine.Plan and in the log.
type Options struct {
	// Device is "cpu", "cuda" (the first GPU), "cuda:N" or "cuda:GPU-UUID", "ref" (plain Go in float64,
	// slow) or "" for the best that is there.
	Device string
	// HostMemory is the budget in bytes for everything the engine holds in RAM: weights that stay,
	// KV cache, ring, expert cache and working memory. 0: three quarters of what is available.
	HostMemory int64
	// DeviceMemory is the budget in bytes on a device that has memory of its own, for what is computed
	// with: weights that stay, KV cache, ring and working memory. 0: nine tenths of what is free. A
	// device that computes in host memory refuses a value other than 0.
	DeviceMemory int64
	// CPUExperts computes experts on the processor, beside a device that has memory of its own: those that
	// are in RAM, and not in that memory, where moving them would take longer by costs measured at Open.
	// The last bits of logits then depend on who computed what: on budgets, neighbours and the
	// machine's speed. A device that computes in host memory refuses it.
	CPUExperts bool
	// Sections is the number of ring sections: groups in flight or in use beside the expert cache.
	// 0: chosen.
	Sections int
	// Prefetch reads experts ahead that the next layer's router is likely to choose. Auto: where it
	// pays, which is measured all the while.
	Prefetch Toggle
	// DirectIO bypasses the page cache. Auto: wherever the file system allows it, unless the page cache
	// has room for the whole model beside the budget, holds it, and is measured to be faster.
	DirectIO Toggle
	// Reader is "uring", "pread" or "" for the better one.
	Reader string
	// IOTimeout is how long a read may take before it is an error. 0: a minute.
	IOTimeout time.Duration
	// Verify says when the checksums of a packed model are checked: "always" (also ""; whenever bytes
	// were read), "first" (only what is read for the first time: a bit that flips in a later read is
	// then computed with) or "off".
	Verify string
	// Threads that compute. 0: the processors that this process may use.
	Threads int
	// Context is the longest sequence in tokens. 0: the model's own, or 4096 if that is less.
	Context int
	// Sequences that can be in flight at once. 0: 8.
	Sequences int
	// KVTokens is the tokens of all sequences together that memory for keys and values is taken for,
	// at least Context. 0: what a quarter of the memory that is left over holds, at most Sequences of
	// length Context.
	KVTokens int
	// Chunk is the most rows (tokens) of a pass. 0: chosen from the budget, at most 512.
	Chunk int
	// Exact multiplies block-quantised weights with float32 activations in place of int8 ones.
	Exact bool
	// HalfActivations rounds activations to bfloat16 on a GPU where they are multiplied with F16 and BF16
	// weights, as most programs do: a third of the work of float32's accuracy. Any other device refuses it,
	// and so does Exact.
	HalfActivations bool
	// CuBLASLt lets NVIDIA's library have large products with F16 and BF16 weights on a GPU: "off" (also
	// ""), "faster" (where it is, which is measured) or "always". An answer then depends, in its last
	// bits, on its batch, the budgets and the chunk; without it, it does not.
	CuBLASLt string
	// KVType is the storage of keys and values: "f32" (also ""), or the smaller "f16" and "q8_0",
	// which round them.
	KVType string
	// Policy of the expert cache, as sched.NewPolicy lists them, or "" for the default.
	Policy string
	// Trace receives a timeline in Chrome's trace event format, RoutingTrace the experts that each
	// token used, for "moering simulate". Both are written while the engine is open and complete
	// after Close, which does not close them.
	Trace, RoutingTrace io.Writer
	// Logger receives what the engine decides. nil: nothing is logged.
	Logger *slog.Logger
	// Getenv looks up environment variables, of which only tests use any (MOERING_CPU_ISA). nil:
	// os.Getenv, which in a library does not see what its program sets later.
	Getenv func(name string) string
	// Progress, if set, is called while weights that stay are read: bytes done and in all.
	Progress func(done, total int64)

	simulated *reader.SimOptions   // tests read from a simulated store
	takes     func(group int) bool // tests say which groups the processor computes, with CPUExperts
	discrete  *ref.Options         // tests compute on a simulated device with memory of its own
}

// Limits on options; beyond them a value is a mistake.
const (
	contextMax   = 1 << 20
	sequencesMax = 1 << 12
	kvTokensMax  = 1 << 30
	chunkMax     = 1 << 13
	threadsMax   = 1 << 10
	sectionsMax  = 1 << 16
	ioTimeoutMax = 24 * time.Hour
)

const ioTimeoutDefault = time.Minute

func (o Options) validate() error {
	name, _ := o.device()
	switch name {
	case "", "cpu", "ref", "cuda":
	default:
		return fmt.Errorf("%w: unknown device %q; use cpu, cuda, cuda:N, cuda:UUID or ref", ErrUsage,
			o.Device)
	}
	if use, err := cuda.ParseCuBLASLt(o.CuBLASLt); err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	} else if use != cuda.CuBLASLtOff && name != "" && name != "cuda" {
		return fmt.Errorf("%w: cuBLASLt on device %s; it is for cuda", ErrUsage, name)
	}
	switch {
	case o.HalfActivations && name != "" && name != "cuda":
		return fmt.Errorf("%w: HalfActivations on device %s; it is for cuda", ErrUsage, name)
	case o.HalfActivations && o.Exact:
		return fmt.Errorf("%w: HalfActivations and Exact exclude each other", ErrUsage)
	}
	if _, err := parseKVType(o.KVType); err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if _, err := o.verify(); err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	switch o.Reader {
	case "", "uring", "pread":
	default:
		return fmt.Errorf("%w: unknown reader %q; use uring or pread", ErrUsage, o.Reader)
	}
	for _, f := range []struct {
		name       string
		value, max int64
	}{
		{"HostMemory", o.HostMemory, 1 << 50},
		{"DeviceMemory", o.DeviceMemory, 1 << 50},
		{"IOTimeout", int64(o.IOTimeout), int64(ioTimeoutMax)},
		{"Sections", int64(o.Sections), sectionsMax},
		{"Threads", int64(o.Threads), threadsMax},
		{"Context", int64(o.Context), contextMax},
		{"Sequences", int64(o.Sequences), sequencesMax},
		{"KVTokens", int64(o.KVTokens), kvTokensMax},
		{"Chunk", int64(o.Chunk), chunkMax},
	} {
		if f.value < 0 || f.value > f.max {
			return fmt.Errorf("%w: %s is %d, outside 0 to %d", ErrUsage, f.name, f.value, f.max)
		}
	}
	return nil
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

func (o Options) getenv(name string) string {
	if o.Getenv == nil {
		return os.Getenv(name)
	}
	return o.Getenv(name)
}

func (o Options) verify() (store.VerifyMode, error) {
	if o.Verify == "" {
		return store.VerifyAlways, nil
	}
	return store.ParseVerifyMode(o.Verify)
}

func (o Options) threads() int {
	if o.Threads > 0 {
		return o.Threads
	}
	return runtime.GOMAXPROCS(0)
}

// device splits Device into its name and which one of several.
func (o Options) device() (name, which string) {
	name, which, _ = strings.Cut(o.Device, ":")
	return name, which
}

func (o Options) cuBLASLt() cuda.CuBLASLt {
	c, _ := cuda.ParseCuBLASLt(o.CuBLASLt) // validated
	return c
}

func (o Options) kvType() quant.Type {
	t, _ := parseKVType(o.KVType) // validated
	return t
}

func parseKVType(s string) (quant.Type, error) {
	switch s {
	case "", "f32":
		return quant.F32, nil
	case "f16":
		return quant.F16, nil
	case "q8_0":
		return quant.Q8_0, nil
	}
	return 0, fmt.Errorf("unknown type %q of keys and values; use f32, f16 or q8_0", s)
}
