package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/moering/moering/engine"
)

// modelFlags are the flags of commands that open a model.
type modelFlags struct {
	Model    string `short:"m" required:"" placeholder:"PATH" help:"GGUF file, or Hugging Face directory."`
	RAM      size   `placeholder:"SIZE" help:"Memory budget for everything (default: 3/4 of what is available)."`
	VRAM     size   `name:"vram" placeholder:"SIZE" help:"Memory budget on a GPU (default: 9/10 of what is free)."`
	Threads  int    `short:"t" placeholder:"N" help:"Threads that compute (default: one a processor)."`
	Context  int    `short:"c" placeholder:"N" help:"Longest sequence, in tokens."`
	Device   string `default:"auto" placeholder:"NAME" help:"auto, cpu, cuda, cuda:N, cuda:UUID, or ref (plain Go in float64, slow)."`
	Sections int    `placeholder:"N" help:"Sections of the ring that experts stream through."`
	Chunk    int    `placeholder:"N" help:"Most tokens of a pass."`
	Prefetch string `enum:"auto,on,off" default:"auto" help:"Read experts ahead that are likely wanted: auto, on, off."`
	DirectIO string `name:"direct-io" enum:"auto,on,off" default:"auto" help:"Bypass the page cache: auto, on, off."`
	Reader   string `enum:"auto,uring,pread" default:"auto" help:"How to read: auto, uring, pread."`
	Policy   string `default:"auto" placeholder:"NAME" help:"Who leaves the expert cache: auto, reuse, lfu, tinylfu, stale, lru, clock."`
	KVType   string `name:"kv-type" enum:"f32,f16,q8_0" default:"f32" help:"Storage of keys and values: f32, f16, q8_0; the smaller ones round."`
	Checksum string `enum:"always,first,off" default:"always" help:"Check what is read of packed models: always, first (only first reads), off."`

	CuBLASLt string `name:"cublaslt" enum:"off,faster,always" default:"off" help:"Let cuBLASLt have large F16 and BF16 products on a GPU: off, faster, always; the last bits then depend on the batch."`

	IOTimeout    time.Duration `name:"io-timeout" placeholder:"TIME" help:"How long a read may take (default: 1m)."`
	Trace        string        `placeholder:"FILE" help:"Write a timeline for Perfetto or chrome://tracing."`
	RoutingTrace string        `placeholder:"FILE" help:"Write which experts each token used, for moering simulate."`

	CPUExperts bool `name:"cpu-experts" help:"With a GPU: compute experts that are in RAM on the processor, where moving them takes longer."`

	Exact bool `help:"Multiply with float32 activations, not int8 ones."`

	HalfActivations bool `help:"With a GPU: round activations to bfloat16 for F16 and BF16 weights."`
	JSON            bool `name:"json" help:"Print one JSON object."`
}

// options turns flags into options; progress of loading goes to p if there is one.
func (f *modelFlags) options(a *app, p *progress) (engine.Options, error) {
	o := engine.Options{HostMemory: int64(f.RAM), Sections: f.Sections, Threads: f.Threads,
		Context: f.Context, Chunk: f.Chunk, Exact: f.Exact, Logger: a.logger(),
		Device: unlessAuto(f.Device), Reader: unlessAuto(f.Reader), Policy: unlessAuto(f.Policy),
		DeviceMemory: int64(f.VRAM), KVType: f.KVType, Verify: f.Checksum, IOTimeout: f.IOTimeout,
		CuBLASLt: f.CuBLASLt, CPUExperts: f.CPUExperts,
		HalfActivations: f.HalfActivations}
	var err error
	if o.Trace, err = a.create(f.Trace); err != nil {
		return o, err
	}
	if o.RoutingTrace, err = a.create(f.RoutingTrace); err != nil {
		return o, err
	}
	if o.Prefetch, err = engine.ParseToggle(f.Prefetch); err != nil {
		return o, err
	}
	if o.DirectIO, err = engine.ParseToggle(f.DirectIO); err != nil {
		return o, err
	}
	if p != nil {
		o.Progress = p.update
	}
	return o, nil
}

// open opens the model for one sequence at a time and says what was decided.
func (f *modelFlags) open(a *app) (*engine.Engine, error) {
	p := a.newProgress("loading", true)
	defer p.close()
	o, err := f.options(a, p)
	if err != nil {
		return nil, err
	}
	o.Sequences = 1
	e, err := engine.Open(f.Model, o)
	if err != nil {
		return nil, err
	}
	p.close()
	a.decided(e)
	return e, nil
}

// create makes a file that is closed when the command has ended; nil for no name.
func (a *app) create(name string) (io.Writer, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	a.files = append(a.files, f)
	return f, nil
}

// closeFiles closes what create made.
func (a *app) closeFiles() (err error) {
	for _, f := range a.files {
		err = errors.Join(err, f.Close())
	}
	a.files = nil
	return err
}

func unlessAuto(s string) string {
	if s == "auto" {
		return ""
	}
	return s
}

// logger writes what the engine reports: warnings, such as fallbacks, and with --verbose the rest.
func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}

// decided says on standard error what runs, on what, and how the budget is split.
func (a *app) decided(e *engine.Engine) {
	info, plan, o := e.Info(), e.Plan(), e.Options()
	fmt.Fprintf(a.stderr, "model: %s\n", describeModel(info))
	fmt.Fprintf(a.stderr, "device: %s, %d threads; reader %s, direct I/O %v, prefetch %v, policy %s, "+
		"checksums %s\n", plan.Device, o.Threads, orAuto(o.Reader), o.DirectIO, o.Prefetch,
		orAuto(o.Policy), describeChecksums(info.Checksums, o.Verify))
	a.listed(e.Chosen())
	a.budgeted(plan)
}

func (a *app) listed(lines []string) {
	for _, line := range lines {
		fmt.Fprintln(a.stderr, line)
	}
}

// budgeted says how the budget is split, and when the split is an unlucky one.
func (a *app) budgeted(plan engine.Plan) {
	fmt.Fprintf(a.stderr, "budget: %s\n", describePlan(plan))
	if plan.Floods() {
		fmt.Fprintf(a.stderr, "cache: its %d places are fewer than the %d experts that one token uses in "+
			"all layers; recency would never hit, and the default policy keeps what is likely used "+
			"soonest\n", plan.Sections+plan.CacheSlots, plan.Cycle)
	}
}

// describeChecksums says when they are compared; only packed files have them.
func describeChecksums(has bool, when string) string {
	switch {
	case !has:
		return "none"
	case when == "off":
		return "ignored"
	case when == "first":
		return "at first reads"
	}
	return "at every read"
}

func orAuto(s string) string {
	if s == "" {
		return "auto"
	}
	return s
}

func describeModel(i engine.Info) string {
	s := fmt.Sprintf("%s, %d layers of %d", i.Family, i.Layers, i.Dim)
	if i.Experts > 1 {
		s += fmt.Sprintf(", %d experts of which %d are used", i.Experts, i.ExpertsUsed)
	}
	return s + fmt.Sprintf("; %s, of which %s are experts", formatBytes(float64(i.WeightBytes)),
		formatBytes(float64(i.ExpertBytes)))
}

func describePlan(p engine.Plan) string {
	b := func(n int64) string { return formatBytes(float64(n)) }
	s := fmt.Sprintf("%s: weights that stay %s, dense weights %s (%d of %d layers), KV %s (%d tokens "+
		"in %s), ring %s (%d sections), cache %s (%d of %d groups), work %s, program %s", b(p.Budget),
		b(p.Stay), b(p.Dense), p.DenseSections, p.DenseLayers, b(p.KV), p.KVTokens, p.KVType,
		b(p.Ring), p.Sections, b(p.Cache), p.CacheSlots, p.Groups, b(p.Work), b(p.Reserve))
	if p.HostBudget > 0 {
		s += fmt.Sprintf("; host memory %s, of which %s cache %d groups", b(p.HostBudget),
			b(p.HostCache), p.HostSlots)
	}
	if p.CPUExperts {
		s += "; experts in RAM on the processor where that is sooner"
	}
	if r := p.MoveRates; r != (engine.MoveRates{}) {
		ms := func(seconds float64) string { return fmt.Sprintf("%.3g ms", 1e3*seconds) }
		s += fmt.Sprintf(" (moving one takes %s, computing one %s, a further row %s)",
			ms(r.Move(r.GroupBytes, 1)), ms(r.Compute(1)), ms(r.Compute(2)-r.Compute(1)))
	}
	if p.Resident {
		return s + "; all experts fit"
	}
	return s + "; experts stream"
}

// printJSON writes one object, indented, to standard output.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// textBytesMax bounds how much text is read from a file or standard input.
const textBytesMax = 256 << 20

// readText reads a whole file, or standard input for "-".
func (a *app) readText(path string) (string, error) {
	in := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("reading the text: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, textBytesMax+1))
	if err != nil {
		return "", fmt.Errorf("reading the text: %w", err)
	}
	if len(b) > textBytesMax {
		return "", fmt.Errorf("%w: the text is longer than %d bytes", engine.ErrUsage, textBytesMax)
	}
	return string(b), nil
}
