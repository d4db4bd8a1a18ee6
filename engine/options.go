package engine

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
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
	// Device is "cpu", "ref" (plain Go in float64, slow) or "" for the best that is there.
	Device string
	// HostMemory is the budget in bytes for everything the engine holds in RAM: weights that stay,
	// KV cache, ring, expert cache and working memory. 0: three quarters of what is available.
	HostMemory int64
	// DeviceMemory is the budget in bytes on a device that has memory of its own. The devices of this
	// version compute in host memory, and refuse a value other than 0.
	DeviceMemory int64
	// Sections is the number of ring sections: groups in flight or in use beside the expert cache.
	// 0: chosen.
	Sections int
	// Prefetch reads experts ahead that the next layer's router is likely to choose.
	Prefetch Toggle
	// DirectIO bypasses the page cache. Auto: wherever the file system allows it.
	DirectIO Toggle
	// Reader is "uring", "pread" or "" for the better one.
	Reader string
	// Threads that compute. 0: the processors that this process may use.
	Threads int
	// Context is the longest sequence in tokens. 0: the model's own, or 4096 if that is less.
	Context int
	// Sequences that can be in flight at once. 0: 8.
	Sequences int
	// Chunk is the most rows (tokens) of a pass. 0: chosen from the budget, at most 512.
	Chunk int
	// Exact multiplies block-quantised weights with float32 activations in place of int8 ones.
	Exact bool
	// Policy of the expert cache: "lfu", "lru", "clock", or "" for the default.
	Policy string
	// Logger receives what the engine decides. nil: nothing is logged.
	Logger *slog.Logger
	// Getenv looks up environment variables, of which only tests use any (MOERING_CPU_ISA). nil:
	// os.Getenv, which in a library does not see what its program sets later.
	Getenv func(name string) string
	// Progress, if set, is called while weights that stay are read: bytes done and in all.
	Progress func(done, total int64)
}

// Limits on options; beyond them a value is a mistake.
const (
	contextMax   = 1 << 20
	sequencesMax = 1 << 12
	chunkMax     = 1 << 13
	threadsMax   = 1 << 10
	sectionsMax  = 1 << 16
)

func (o Options) validate() error {
	switch o.Device {
	case "", "cpu", "ref":
	case "cuda":
		return fmt.Errorf("%w: device cuda: this build has no CUDA device; use cpu", ErrUnsupported)
	default:
		return fmt.Errorf("%w: unknown device %q; use cpu or ref", ErrUsage, o.Device)
	}
	if o.DeviceMemory != 0 {
		return fmt.Errorf("%w: DeviceMemory is %d, but this build's devices compute in host memory; "+
			"use HostMemory", ErrUnsupported, o.DeviceMemory)
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
		{"Sections", int64(o.Sections), sectionsMax},
		{"Threads", int64(o.Threads), threadsMax},
		{"Context", int64(o.Context), contextMax},
		{"Sequences", int64(o.Sequences), sequencesMax},
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

func (o Options) threads() int {
	if o.Threads > 0 {
		return o.Threads
	}
	return runtime.GOMAXPROCS(0)
}
