package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/chat"
	"github.com/moering/moering/engine/internal/forward"
	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/engine/internal/tokenizer"
	"github.com/moering/moering/engine/internal/trace"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
	"github.com/moering/moering/sched"
)

// Engine is an open model and its memory. It is safe for concurrent use.
type Engine struct {
	options Options // effective
	model   *arch.Model
	info    Info
	groups  groups
	plan    Plan
	tok     *tokenizer.Tokenizer // nil: the model has none
	ends    map[int32]bool
	// template parses the chat template at its first use: a template that is not understood does
	// not keep a model from being opened.
	template func() (*chat.Template, error)
	special  map[string]string // special tokens by name, for the template

	device    kernels.Device
	reader    reader.Reader
	integrity *store.Integrity // nil: the file has no checksums, or they are not wanted
	sections  []*kernels.Buffer
	resident  *forward.Resident
	experts   *weights.Tier
	dense     *weights.Tier
	below     []*weights.Tier // in host memory, of a device with memory of its own
	beside    *forward.Beside // nil unless experts are computed on the processor beside the device
	processor kernels.Device  // of beside
	predictor *sched.Predictor
	timeline  *trace.Recorder
	routes    *sched.TraceWriter
	pool      *kv.Pool
	forward   *forward.Forward
	runner    *runner

	chosen   []string
	close    sync.Once
	closeErr error
}

// Open opens a GGUF file or a Hugging Face directory. Weights that stay are read; experts are read
// when they are first used.
func Open(path string, o Options) (*Engine, error) {
	return OpenContext(context.Background(), path, o)
}

// OpenContext is Open that gives up, with the context's error, between two reads once ctx ends.
func OpenContext(ctx context.Context, path string, o Options) (*Engine, error) {
	e := &Engine{}
	err := withFile(path, o, func(file string, o Options) error {
		err := e.open(ctx, file, o)
		e.info.Path = path
		return err
	})
	if err != nil {
		return nil, errors.Join(mapError(err), e.Close())
	}
	return e, nil
}

// Inspect reports what Open would do with the options, without reading weights. A budget that is too
// small is no error here: Plan.Least says what would work.
func Inspect(path string, o Options) (Info, Plan, error) {
	e := &Engine{}
	err := withFile(path, o, func(file string, o Options) error { return e.understand(file, o) })
	e.info.Path = path
	defer e.Close()
	if errors.Is(err, ErrBudget) {
		err = nil
	}
	return e.info, e.plan, mapError(err)
}

func (e *Engine) open(ctx context.Context, path string, o Options) error {
	if err := e.understand(path, o); err != nil {
		return err
	}
	o = e.options
	log := o.logger()
	e.logPlan(log)
	var err error
	if e.integrity, err = e.openIntegrity(log); err != nil {
		return err
	}
	if o.Trace != nil {
		e.timeline = trace.New(o.Trace, clock())
	}
	if err := e.openTiers(ctx, log); err != nil {
		return err
	}
	if err := e.openRoutes(); err != nil {
		return err
	}
	m, p := e.model, e.plan
	e.pool, err = kv.New(e.device, o.kvType(), len(m.Layers), m.KVHeads, m.HeadDim, p.KVTokens,
		o.Sequences, o.Context)
	if err != nil {
		return err
	}
	e.forward = &forward.Forward{Model: m, Resident: e.resident, Experts: e.experts, Dense: e.dense,
		Beside: e.beside, KV: e.pool.KV, Exact: o.Exact, Chunk: p.Chunk, Predictor: e.predictor,
		Adapt: o.Prefetch == Auto, Trace: e.timeline, Routes: e.routes}
	if err := e.forward.Open(e.device); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	e.runner = newRunner(e.forward)
	return nil
}

// understand reads configuration and tokenizer, and makes the plan.
func (e *Engine) understand(path string, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	s, err := store.Open(path)
	if err != nil {
		return err
	}
	if e.model, err = arch.Load(s); err != nil {
		return err
	}
	e.describe()
	if err := e.openTokenizer(); err != nil {
		return err
	}
	source, special, err := e.chatSource()
	if err != nil {
		return err
	}
	e.info.ChatTemplate = source != ""
	e.special = special
	e.template = sync.OnceValues(func() (*chat.Template, error) {
		return chat.Parse("chat_template", source)
	})
	if e.options, err = effective(o, e.model); err != nil {
		return err
	}
	if e.device, err = openDevice(e.options); err != nil {
		return err
	}
	e.groups = groupsOf(e.model)
	return e.makePlan()
}

// describe fills Info.
func (e *Engine) describe() {
	m := e.model
	e.info = Info{Path: m.Store.Path(), Format: m.Store.Format().String(), Family: m.Family,
		Layers: len(m.Layers), Dim: m.Dim, Vocabulary: m.Vocab, Context: m.Context,
		Experts: m.Experts, ExpertsUsed: m.TopK, WeightBytes: m.Store.Bytes(),
		ExpertGroups: len(m.Groups), Checksums: m.Store.HasChecksums()}
	for i := range m.Groups {
		n := m.Groups[i].Bytes()
		e.info.ExpertBytes += n
		e.info.GroupBytes = max(e.info.GroupBytes, n)
	}
	sizes := map[string]int64{}
	for _, t := range m.Store.Tensors() {
		sizes[t.DType] += t.Size
	}
	var types []string
	for t := range sizes {
		types = append(types, t)
	}
	sort.Slice(types, func(i, j int) bool { return sizes[types[i]] > sizes[types[j]] })
	for i, t := range types {
		types[i] = fmt.Sprintf("%s %.1f MB", t, float64(sizes[t])/1e6)
	}
	e.info.Types = strings.Join(types, ", ")
}

// openTokenizer takes the tokenizer from the model's files; a model without one works with ids.
func (e *Engine) openTokenizer() error {
	s := e.model.Store
	var err error
	e.ends = map[int32]bool{}
	if !hubTokenizer(s) {
		e.tok, err = ggufTokenizer(s.Metadata())
	} else if text, missing := s.SideFile("tokenizer.json"); missing == nil {
		config, absent := s.SideFile("tokenizer_config.json")
		if absent != nil {
			config = nil
		}
		e.tok, err = tokenizer.FromJSON(text, config)
	}
	if err != nil || e.tok == nil {
		return err
	}
	for _, id := range e.tok.EOGs() {
		e.ends[id] = true
	}
	text, absent := s.SideFile("generation_config.json")
	if absent != nil {
		return nil
	}
	return e.generationConfig(text)
}

// generationConfig adds the end-of-text ids that the publisher names: one, or a list.
func (e *Engine) generationConfig(text []byte) error {
	var g struct {
		EOS json.RawMessage `json:"eos_token_id"`
	}
	var one int32
	var list []int32
	if err := json.Unmarshal(text, &g); err != nil {
		return fmt.Errorf("%w: generation_config.json: %w", ErrFormat, err)
	}
	if json.Unmarshal(g.EOS, &one) == nil {
		list = []int32{one}
	} else if len(g.EOS) > 0 {
		if err := json.Unmarshal(g.EOS, &list); err != nil {
			return fmt.Errorf("%w: generation_config.json: eos_token_id: %w", ErrFormat, err)
		}
	}
	for _, id := range list {
		e.ends[id] = true
	}
	return nil
}

// Info describes the model.
func (e *Engine) Info() Info { return e.info }

// Plan says how the budget was split.
func (e *Engine) Plan() Plan { return e.plan }

// Options returns the options in effect.
func (e *Engine) Options() Options { return e.options }

// Chosen says, a line each, how the memory of experts is held and how files are read: the outcome of
// what the system allows and of what was measured at open.
func (e *Engine) Chosen() []string { return slices.Clone(e.chosen) }

// Stats returns counters since Open.
func (e *Engine) Stats() Stats {
	s := e.runner.stats()
	c, d := e.experts.Counters(), e.dense.Counters()
	s.Hits, s.Late, s.Misses = c.Hits, c.Late, c.Misses
	s.Prefetched, s.PrefetchUseful = c.Ahead, c.AheadUseful
	s.Wait = c.Wait + d.Wait
	s.BytesRead, s.DenseBytesRead, s.Reads = c.BytesRead, d.BytesRead, c.Reads+d.Reads
	if len(e.below) > 0 { // what the device's tiers miss comes from those below, or is read there
		c, d := e.below[0].Counters(), e.below[1].Counters()
		s.HostHits, s.HostLate, s.HostMisses = c.Hits, c.Late, c.Misses
		s.BytesRead, s.DenseBytesRead, s.Reads = c.BytesRead, d.BytesRead, c.Reads+d.Reads
	}
	r := e.reader.Stats()
	s.ReadBusy, s.AllBytesRead = time.Duration(r.BusyNanos), r.Bytes
	s.ProbeBytesPerS = probedRate(r)
	s.Guessed, s.GuessesCame, s.GuessesWanted = e.forward.Guesses()
	if e.beside != nil {
		s.CPUExperts = e.beside.Computed()
	}
	s.PeakMemory = peakMemory()
	return s
}

// Prediction reports how well experts were guessed, and what reading them ahead was worth. It is zero
// where nothing is read ahead on a guess.
func (e *Engine) Prediction() Prediction { return e.forward.Prediction() }

// Encode turns text into ids. With special, the model's own begin token is added where it has one,
// and special tokens in the text are recognised.
func (e *Engine) Encode(text string, special bool) ([]int32, error) {
	if e.tok == nil {
		return nil, fmt.Errorf("%w: model %s has no tokenizer; give token ids", ErrUnsupported,
			e.info.Path)
	}
	ids, err := e.tok.Encode(text, tokenizer.EncodeOptions{AddSpecial: special, ParseSpecial: special})
	return ids, mapError(err)
}

// Decode turns ids into text, special tokens included. Without a tokenizer it is empty.
func (e *Engine) Decode(ids []int32) string {
	if e.tok == nil {
		return ""
	}
	return e.tok.Decode(ids, false)
}

// Close ends running calls with ErrClosed, waits for them, and frees everything. It may be called
// twice. Sessions need not be closed before. Memory that a hanging disk may still write to is not
// freed, and the error says so.
func (e *Engine) Close() error {
	e.close.Do(func() { e.closeErr = mapError(e.shut()) })
	return e.closeErr
}

func (e *Engine) shut() error {
	var errs []error
	add := func(err error) { errs = append(errs, err) }
	if e.runner != nil {
		e.runner.close()
	}
	if e.routes != nil {
		add(e.routes.Flush())
	}
	for _, t := range append([]*weights.Tier{e.experts, e.dense}, e.below...) {
		if t != nil {
			add(t.Close())
		}
	}
	stranded := false
	if e.reader != nil {
		err := e.reader.Close()
		stranded = errors.Is(err, reader.ErrStranded)
		add(err)
	}
	if e.forward != nil {
		add(e.forward.Close())
	}
	if e.pool != nil {
		add(e.pool.Close())
	}
	if e.resident != nil && !stranded {
		add(e.resident.Close())
	}
	for _, b := range e.sections {
		if !stranded {
			add(b.Free())
		}
	}
	for _, d := range []kernels.Device{e.processor, e.device} {
		if d != nil {
			add(d.Close())
		}
	}
	add(e.timeline.Close())
	return errors.Join(errs...)
}

// mapError adds this package's kind to an error from below.
func mapError(err error) error {
	for _, k := range []struct{ from, to error }{{store.ErrFormat, ErrFormat},
		{store.ErrUnsupported, ErrUnsupported}, {store.ErrIO, ErrIO}, {store.ErrNotFound, ErrFormat},
		{arch.ErrFormat, ErrFormat}, {arch.ErrUnsupported, ErrUnsupported}, {reader.ErrIO, ErrIO},
		{tokenizer.ErrFormat, ErrFormat}, {tokenizer.ErrUnsupported, ErrUnsupported},
		{kv.ErrFull, ErrContext}, {kernels.ErrDevice, ErrDevice}} {
		if errors.Is(err, k.from) && !errors.Is(err, k.to) {
			return fmt.Errorf("%w: %w", k.to, err)
		}
	}
	return err
}

// clock is the time source of figures; nothing depends on it.
func clock() time.Time { return time.Now() }
