package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/chat"
	"github.com/moering/moering/engine/internal/forward"
	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/engine/internal/tokenizer"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
	"github.com/moering/moering/sched"
)

// Engine is an open model and its memory. It is safe for concurrent use.
type Engine struct {
	options Options // effective
	model   *arch.Model
	info    Info
	plan    Plan
	tok     *tokenizer.Tokenizer // nil: the model has none
	ends    map[int32]bool
	// template parses the chat template at its first use: a template that is not understood does
	// not keep a model from being opened.
	template func() (*chat.Template, error)
	special  map[string]string // special tokens by name, for the template

	device   kernels.Device
	reader   reader.Reader
	sections *kernels.Buffer
	resident *forward.Resident
	manager  *weights.Manager
	pool     *kv.Pool
	forward  *forward.Forward
	runner   *runner

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
	if errors.Is(err, ErrBudget) {
		err = nil
	}
	return e.info, e.plan, mapError(err)
}

func (e *Engine) open(ctx context.Context, path string, o Options) error {
	if err := e.understand(path, o); err != nil {
		return err
	}
	log, p := e.options.logger(), e.plan
	var err error
	if e.device, err = openDevice(e.options); err != nil {
		return err
	}
	log.Info("device", "name", e.device.Info().Name, "detail", e.device.Info().Detail)
	log.Info("memory", "budget", p.Budget, "stay", p.Stay, "kv", p.KV, "work", p.Work, "reserve",
		p.Reserve, "ring", p.Ring, "cache", p.Cache, "sections", p.Sections, "groups", p.Groups)
	slots := p.Sections + p.CacheSlots
	var span kernels.Span
	e.sections, span, err = forward.Aligned(e.device,
		int64(slots)*weights.SectionBytes(e.model.Groups))
	if err != nil {
		return err
	}
	log.Info("sections", "locked", e.sections.Locked, "huge_pages", e.sections.Huge)
	var names []string
	for _, f := range e.model.Store.Files() {
		names = append(names, f.Path)
	}
	e.reader, err = reader.Open(names, reader.Options{Kind: e.options.Reader,
		Buffered: e.options.DirectIO == Off, Arena: span.Host(), Logger: e.options.Logger})
	if err != nil {
		return err
	}
	log.Info("reader", "chosen", e.reader.Info())
	policy, err := sched.NewPolicy(e.options.Policy, len(e.model.Groups))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	moored := p.CacheSlots
	if e.options.Policy == "clock" {
		moored = 0 // the hand alone decides
	}
	e.manager = weights.New(e.device, e.reader, e.model.Groups, span, slots, moored, policy)
	e.resident, err = forward.Load(e.device, e.model, interruptible{e.reader, ctx}, e.options.Progress)
	if err != nil {
		return err
	}
	m := e.model
	e.pool, err = kv.New(e.device, quant.F32, len(m.Layers), m.KVHeads, m.HeadDim, p.KVTokens,
		e.options.Sequences, e.options.Context)
	if err != nil {
		return err
	}
	e.forward = &forward.Forward{Model: m, Resident: e.resident, Manager: e.manager, KV: e.pool.KV,
		Exact: e.options.Exact, Prefetch: e.options.Prefetch == On, Chunk: p.Chunk}
	if err := e.forward.Open(e.device); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	e.runner = newRunner(e.forward)
	return nil
}

func openDevice(o Options) (kernels.Device, error) {
	if o.Device == "cpu" {
		return openCPU(o)
	}
	return ref.Open(ref.Options{}), nil
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
	e.options = effective(o, e.model)
	return e.makePlan()
}

// effective fills in what the options left to the engine.
func effective(o Options, m *arch.Model) Options {
	if o.Device == "" {
		o.Device = "ref"
		if haveCPU {
			o.Device = "cpu"
		}
	}
	if o.HostMemory == 0 {
		o.HostMemory = availableMemory() / 4 * 3
	}
	if o.Prefetch == Auto {
		o.Prefetch = On
	}
	if o.DirectIO == Auto {
		o.DirectIO = On
	}
	if o.Context == 0 {
		o.Context = min(m.Context, contextDefault)
	}
	if o.Sequences == 0 {
		o.Sequences = sequencesDefault
	}
	o.Threads = o.threads()
	return o
}

// Defaults of options, and what the process needs beside the parts that are counted: code, Go heap,
// tokenizer, thread stacks. Measured as resident set at open, with room.
const (
	contextDefault   = 4096
	sequencesDefault = 8
	chunkDefault     = 512
	chunkLeast       = 16
	reserveBytes     = 64 << 20
)

// makePlan splits the budget. The chunk shrinks before the budget is called too small.
func (e *Engine) makePlan() error {
	m, o := e.model, &e.options
	chunk, smallest := o.Chunk, o.Chunk
	if chunk == 0 {
		chunk, smallest = min(chunkDefault, o.Context), min(chunkLeast, o.Context)
		for chunk/2 >= smallest && forward.WorkBytes(m, chunk) > o.HostMemory/8 {
			chunk /= 2
		}
	}
	plan, place := e.place(chunk)
	for !place.Fits && chunk/2 >= smallest {
		chunk /= 2
		plan, place = e.place(chunk)
	}
	_, least := e.place(smallest)
	plan.Least = least.Least
	e.plan = plan
	if !place.Fits {
		return fmt.Errorf("%w: %d bytes of memory; the least that works with a context of %d is %d "+
			"(weights that stay %d, working memory %d, the program %d, KV cache, two sections)",
			ErrBudget, plan.Budget, o.Context, plan.Least, plan.Stay, plan.Work, plan.Reserve)
	}
	p := &e.plan
	section := weights.SectionBytes(m.Groups)
	p.KVTokens = int(place.KVTokens) / kv.PageTokens * kv.PageTokens
	p.KV = int64(p.KVTokens) * kv.TokenBytes(quant.F32, len(m.Layers), m.KVHeads, m.HeadDim)
	p.Sections, p.CacheSlots = int(place.Ring), int(place.Cache)
	p.Ring, p.Cache = place.Ring*section, place.Cache*section
	p.Resident = p.Sections+p.CacheSlots >= p.Groups
	return nil
}

// place splits the budget for passes of chunk rows. The plan has the parts that are fixed.
func (e *Engine) place(chunk int) (Plan, sched.Placement) {
	m, o := e.model, &e.options
	// Pages are whole, so tokens are counted in pages.
	tokens := int64((o.Context + kv.PageTokens - 1) / kv.PageTokens * kv.PageTokens)
	p := Plan{Device: o.Device, Budget: o.HostMemory, Stay: forward.ResidentBytes(m),
		Work: forward.WorkBytes(m, chunk), Reserve: reserveBytes, Groups: len(m.Groups), Chunk: chunk}
	return p, sched.Place(sched.Demand{Budget: p.Budget, Fixed: p.Stay + p.Work + p.Reserve,
		KVToken:      kv.TokenBytes(quant.F32, len(m.Layers), m.KVHeads, m.HeadDim),
		KVTokensMin:  tokens,
		KVTokensWant: tokens * int64(o.Sequences), Section: weights.SectionBytes(m.Groups),
		Groups: int64(p.Groups), Sections: int64(o.Sections)})
}

// describe fills Info.
func (e *Engine) describe() {
	m := e.model
	e.info = Info{Path: m.Store.Path(), Format: m.Store.Format().String(), Family: m.Family,
		Layers: len(m.Layers), Dim: m.Dim, Vocabulary: m.Vocab, Context: m.Context,
		Experts: m.Experts, ExpertsUsed: m.TopK, WeightBytes: m.Store.Bytes(),
		ExpertGroups: len(m.Groups)}
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

// Stats returns counters since Open.
func (e *Engine) Stats() Stats {
	s := e.runner.stats()
	c := e.manager.Counters()
	s.BytesRead, s.Reads, s.Hits, s.Late, s.Misses = c.BytesRead, c.Reads, c.Hits, c.Late, c.Misses
	s.Prefetched, s.PrefetchUseful, s.Wait = c.Prefetched, c.PrefetchUseful, c.Wait
	s.PeakMemory = peakMemory()
	return s
}

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
// twice. Sessions need not be closed before.
func (e *Engine) Close() error {
	e.close.Do(func() {
		var errs []error
		if e.runner != nil {
			e.runner.close()
		}
		if e.manager != nil {
			errs = append(errs, e.manager.Close())
		}
		if e.reader != nil {
			errs = append(errs, e.reader.Close())
		}
		if e.forward != nil {
			errs = append(errs, e.forward.Close())
		}
		if e.pool != nil {
			errs = append(errs, e.pool.Close())
		}
		if e.resident != nil {
			errs = append(errs, e.resident.Close())
		}
		if e.sections != nil {
			errs = append(errs, e.sections.Free())
		}
		if e.device != nil {
			errs = append(errs, e.device.Close())
		}
		e.closeErr = errors.Join(errs...)
	})
	return e.closeErr
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
