package engine

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/moering/moering/engine/internal/forward"
	"github.com/moering/moering/engine/internal/trace"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
	"github.com/moering/moering/sched"
)

// openTiers reserves the memory of the sections, opens the reader, loads the weights that stay, and
// makes the tiers.
func (e *Engine) openTiers(ctx context.Context, log *slog.Logger) error {
	p, g := &e.plan, &e.groups
	unified := e.device.Info().Unified
	slots, dense := p.Sections+p.CacheSlots, p.DenseSections
	if !unified {
		slots, dense = p.HostSlots, p.HostDense
	}
	buffer, arena, err := forward.Aligned(e.device, int64(slots)*g.section+int64(dense)*g.dense)
	if err != nil {
		return err
	}
	e.sections = append(e.sections, buffer)
	log.Info("sections", "locked", buffer.Locked, "huge_pages", buffer.Huge)
	e.choose("memory", describeMemory(buffer))
	if err := e.openReader(arena, log); err != nil {
		return err
	}
	experts := weights.Options{Groups: g.experts, Bytes: g.section, Sections: slots,
		Memory: arena.Slice(0, int64(slots)*g.section), Trace: e.timeline, Lanes: trace.Reads}
	layers := weights.Options{Groups: g.layers, Bytes: g.dense, Sections: dense,
		Memory: arena.Slice(int64(slots)*g.section, int64(dense)*g.dense), Trace: e.timeline,
		Lanes: trace.Layers}
	disk := weights.Disk{Reader: e.reader, Integrity: e.integrity}
	if unified {
		disk.Device = e.device
		if err := e.unifiedTiers(experts, layers, disk); err != nil {
			return err
		}
	} else if err := e.deviceTiers(experts, layers, disk); err != nil {
		return err
	}
	var progress func(done, total int64)
	if e.options.Progress != nil { // the layers' dense weights follow
		progress = func(done, total int64) { e.options.Progress(done, total+p.Dense) }
	}
	e.resident, err = forward.Load(e.device, e.model, interruptible{e.reader, ctx}, e.integrity,
		progress)
	if err != nil {
		return err
	}
	return e.warm(ctx)
}

func (e *Engine) openReader(arena kernels.Span, log *slog.Logger) error {
	var names []string
	for _, f := range e.model.Store.Files() {
		names = append(names, f.Path)
	}
	auto := e.options.DirectIO == Auto
	o := reader.Options{Kind: e.options.Reader, Buffered: e.options.DirectIO == Off,
		PageCache: auto && e.fitsPageCache(), Arena: arena.Host(), Logger: log,
		Timeout: e.options.IOTimeout}
	if e.options.simulated != nil {
		o.Kind, o.Sim = reader.KindSim, e.options.simulated
	}
	var err error
	if e.reader, err = reader.Open(names, o); err != nil {
		return err
	}
	log.Info("reader", "chosen", e.reader.Info())
	e.choose("reader", e.reader.Info())
	// What took effect.
	if auto {
		e.options.DirectIO = On
		if e.reader.Stats().BufferedFiles > 0 {
			e.options.DirectIO = Off
		}
	}
	if _, ok := e.reader.(*reader.Uring); ok {
		e.options.Reader = reader.KindUring
	} else if e.options.simulated == nil {
		e.options.Reader = reader.KindPread
	}
	return nil
}

func describeMemory(b *kernels.Buffer) string {
	pages, locked := "pages of the usual size", "not locked: the system may move it to swap space"
	if b.Huge {
		pages = "huge pages"
	}
	if b.Locked {
		locked = "locked"
	}
	return pages + ", " + locked
}

func (e *Engine) choose(what, chosen string) { e.chosen = append(e.chosen, what+": "+chosen) }

// fitsPageCache reports that the page cache can hold the whole model beside the budget. Where it
// cannot, it reads more slowly than the disk, whatever it holds at the moment.
func (e *Engine) fitsPageCache() bool {
	total := e.options.HostMemory
	for _, f := range e.model.Store.Files() {
		total += f.Size
	}
	return total <= availableMemory()
}

// policies are the ranking of a tier's experts, and of its layers: those pass in a cycle, for which
// the best is to keep a fixed subset.
func (e *Engine) policies(experts, layers *weights.Options, ring int) error {
	var err error
	if experts.Moored = max(0, experts.Sections-ring); e.options.Policy == "clock" {
		experts.Moored = 0 // the hand alone decides
	}
	layerOf := make([]int32, len(experts.Groups))
	for g := range layerOf {
		layerOf[g] = int32(experts.Groups[g].Layer)
	}
	experts.Policy, err = sched.PolicyOptions{Groups: len(layerOf), LayerOf: layerOf,
		Places: experts.Moored}.New(e.options.Policy)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if layers.Policy, err = sched.NewPolicy("lfu", len(layers.Groups)); err != nil {
		return err
	}
	layers.Moored = layers.Sections
	if layers.Sections < len(layers.Groups) {
		layers.Moored = layers.Sections - min(sched.DenseRing, layers.Sections)
	}
	return nil
}

// unifiedTiers computes groups where they landed.
func (e *Engine) unifiedTiers(experts, layers weights.Options, d weights.Disk) error {
	if err := e.policies(&experts, &layers, e.plan.Sections); err != nil {
		return err
	}
	e.predict(&experts)
	e.experts, e.dense = weights.NewTier(experts, d), weights.NewTier(layers, d)
	return nil
}

// deviceTiers puts tiers in the device's memory above those of the host.
func (e *Engine) deviceTiers(experts, layers weights.Options, d weights.Disk) error {
	if err := e.policies(&experts, &layers, sched.HostRing); err != nil {
		return err
	}
	e.below = []*weights.Tier{weights.NewTier(experts, d), weights.NewTier(layers, d)}
	p, host := &e.plan, experts.Memory
	allocate := func(o *weights.Options, bytes int64, sections int, lanes trace.Lane) error {
		b, err := e.device.Alloc(bytes * int64(sections))
		if err != nil {
			return err
		}
		e.sections = append(e.sections, b)
		o.Memory, o.Bytes, o.Sections, o.Lanes = b.All(), bytes, sections, lanes
		return nil
	}
	if err := allocate(&experts, e.groups.deviceSection, p.Sections+p.CacheSlots, trace.Copies); err != nil {
		return err
	}
	if err := allocate(&layers, e.groups.devDense, p.DenseSections, trace.LayerCopies); err != nil {
		return err
	}
	if err := e.policies(&experts, &layers, p.Sections); err != nil {
		return err
	}
	if p.CPUExperts {
		if err := e.openBeside(host, experts.Memory); err != nil {
			return err
		}
	}
	e.predict(&experts)
	for i, o := range []weights.Options{experts, layers} {
		s, err := e.device.NewStream([]string{"expert copies", "dense copies"}[i])
		if err != nil {
			return err
		}
		t := weights.NewDeviceTier(o, e.below[i], s)
		if i == 0 {
			e.experts = t
		} else {
			e.dense = t
		}
	}
	return nil
}

// predict makes the predictor, which hears what became of its guesses.
func (e *Engine) predict(experts *weights.Options) {
	m := e.model
	if e.options.Prefetch == Off || m.Experts == 0 || e.plan.Resident {
		return
	}
	o := sched.PredictorOptions{Layers: len(m.Layers), Experts: m.Experts, Ranks: m.TopK}
	if e.options.Prefetch == On {
		o.WasteCost = sched.WasteNothing
	}
	e.predictor = sched.NewPredictor(o)
	experts.OnOutcome = func(layer int, o sched.Outcome, bytes int64) {
		if e.forward != nil {
			e.forward.Outcome(layer, o, bytes)
		}
	}
}

// warm loads the dense weights for which there are sections.
func (e *Engine) warm(ctx context.Context) error {
	stay, dense := e.plan.Stay, e.plan.Dense
	for l := range e.plan.DenseSections {
		if err := ctx.Err(); err != nil {
			return err
		}
		a := e.dense.Acquire(l, []int{l})
		_, err := a.Next(ctx)
		a.Release()
		if err != nil {
			return err
		}
		if e.options.Progress != nil {
			e.options.Progress(stay+dense*int64(l+1)/int64(e.plan.DenseSections), stay+dense)
		}
	}
	return nil
}

func (e *Engine) openIntegrity(log *slog.Logger) (*store.Integrity, error) {
	mode, err := e.options.verify()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	i, err := e.model.Store.Integrity(mode)
	if err == nil && e.model.Store.HasChecksums() {
		log.Info("checksums", "verified", mode)
	} else if err == nil && mode != store.VerifyOff {
		log.Info("checksums: the model has none; moering pack adds them")
	}
	return i, err
}

// openRoutes begins the routing trace, once it is known how experts are held and read.
func (e *Engine) openRoutes() error {
	o, m := &e.options, e.model
	if o.RoutingTrace == nil {
		return nil
	}
	if m.Experts == 0 {
		return fmt.Errorf("%w: a routing trace of %s, which has no experts", ErrUsage, e.info.Path)
	}
	run := sched.TraceRun{Sections: e.plan.Sections, Places: e.plan.CacheSlots,
		Policy: o.Policy}
	switch {
	case e.predictor == nil:
	case o.Prefetch == On:
		run.Prefetch = sched.PrefetchOn
	default:
		run.Prefetch = sched.PrefetchAuto
	}
	stats := e.reader.Stats()
	run.BytesPerSecond = int64(probedRate(stats))
	if len(stats.Devices) > 0 {
		d := stats.Devices[0]
		run.Depth, run.Pieces = d.Depth, weights.Pieces(&e.groups.experts[0], int64(d.ChunkBytes))
	}
	var err error
	e.routes, err = sched.NewTraceWriter(o.RoutingTrace, sched.TraceShape{Layers: len(m.Layers),
		Experts: m.Experts, TopK: m.TopK, GroupBytes: e.info.GroupBytes,
		DenseBytes: e.info.WeightBytes - e.info.ExpertBytes, Run: run})
	return err
}

// probedRate is what the disks of the model's files gave when they were probed, together, in bytes a
// second; 0 where one was not.
func probedRate(s reader.Stats) (rate float64) {
	for _, d := range s.Devices {
		if d.ProbeBytesPerSecond <= 0 {
			return 0
		}
		rate += d.ProbeBytesPerSecond
	}
	return rate
}
