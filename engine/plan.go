package engine

import (
	"cmp"
	"fmt"
	"log/slog"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/forward"
	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/sched"
)

// Defaults of options, and what the process needs beside the parts that are counted: code, Go heap,
// tokenizer, thread stacks. Measured as resident set at open, with room.
const (
	contextDefault   = 4096
	sequencesDefault = 8
	chunkDefault     = 512
	chunkLeast       = 16
	reserveBytes     = 64 << 20
)

// effective fills in what the options left to the engine.
func effective(o Options, m *arch.Model) (Options, error) {
	if o.Device == "" {
		o.Device = bestDevice(o)
	}
	if o.HostMemory == 0 {
		o.HostMemory = availableMemory() / 4 * 3
	}
	if o.Context == 0 {
		o.Context = min(m.Context, contextDefault)
	}
	if o.Sequences == 0 {
		o.Sequences = sequencesDefault
	}
	o.Policy = cmp.Or(o.Policy, sched.PolicyNames()[0])
	if mode, err := o.verify(); err == nil { // which says what "" is
		o.Verify = mode.String()
	}
	if o.IOTimeout == 0 {
		o.IOTimeout = ioTimeoutDefault
	}
	o.Threads = o.threads()
	if name, _ := o.device(); name != "cuda" && o.DeviceMemory != 0 && o.discrete == nil {
		return o, fmt.Errorf("%w: DeviceMemory is %d, but device %s computes in host memory; use "+
			"HostMemory", ErrUnsupported, o.DeviceMemory, o.Device)
	}
	if name, _ := o.device(); name != "cuda" && o.HalfActivations {
		return o, fmt.Errorf("%w: HalfActivations: there is no GPU; device %s computes", ErrUnsupported, o.Device)
	}
	if name, _ := o.device(); name != "cuda" && o.CPUExperts && o.discrete == nil {
		return o, fmt.Errorf("%w: CPUExperts: device %s computes all experts in host memory; there is "+
			"nothing beside it", ErrUnsupported, o.Device)
	}
	return o, nil
}

// groups are a model's groups and the sections that hold any of them: in host memory, and in that of a
// device.
type groups struct {
	experts, layers         []weights.Group
	section, dense          int64
	deviceSection, devDense int64
	stay, staging           int64
}

func groupsOf(m *arch.Model) groups {
	g := groups{experts: weights.Experts(m), layers: weights.Layers(m)}
	g.section, g.dense = weights.SectionBytes(g.experts), weights.SectionBytes(g.layers)
	g.deviceSection = weights.DeviceSectionBytes(g.experts)
	g.devDense = weights.DeviceSectionBytes(g.layers)
	g.stay, g.staging = forward.ResidentBytes(m)
	return g
}

// makePlan splits the budgets. The chunk shrinks before dense weights stream, and both before a budget
// is called too small.
func (e *Engine) makePlan() error {
	o, layers := &e.options, int64(len(e.groups.layers))
	chunk, smallest := o.Chunk, o.Chunk
	if chunk == 0 {
		together := o.Context * o.Sequences // several short prompts are fed in one pass
		chunk, smallest = min(chunkDefault, together), min(chunkLeast, o.Context)
		for chunk > smallest && e.demand(chunk).work > e.demand(chunk).Budget/8 {
			chunk = max(chunk/2, smallest)
		}
	}
	d := e.demand(chunk)
	place := sched.Place(d.Demand)
	for (!place.Fits || place.Dense < layers || !e.placeHost(chunk).Fits) && chunk > smallest {
		chunk = max(chunk/2, smallest)
		d = e.demand(chunk)
		place = sched.Place(d.Demand)
	}
	e.setPlan(chunk, d, place)
	p := &e.plan
	p.Least = sched.Place(e.demand(smallest).Demand).Least
	if !place.Fits {
		return fmt.Errorf("%w: %d bytes of memory; the least that works with a context of %d is %d "+
			"(weights that stay %d, dense weights of %d layers, working memory %d, the program %d, "+
			"KV cache, two sections)", ErrBudget, p.Budget, o.Context, p.Least, p.Stay,
			min(sched.DenseRing, layers), p.Work, p.Reserve)
	}
	if e.device.Info().Unified {
		return nil
	}
	return e.planHost(chunk, smallest)
}

// demand is what sched is asked for, and the parts of Fixed that the plan names.
type demand struct {
	sched.Demand
	work, reserve int64
}

// demand is what passes of chunk rows want of the memory that is computed in.
func (e *Engine) demand(chunk int) demand {
	m, o, g := e.model, &e.options, &e.groups
	d := demand{reserve: reserveBytes}
	d.work, _ = forward.WorkBytes(m, chunk)
	// Pages are whole, so tokens are counted in pages.
	least := int64(kv.Pages(o.Context) * kv.PageTokens)
	most := least * int64(o.Sequences)
	if o.KVTokens > 0 {
		least = max(least, int64(kv.Pages(o.KVTokens)*kv.PageTokens))
		most = least
	}
	d.Demand = sched.Demand{Budget: o.HostMemory, KVTokensMin: least, KVTokensWant: most,
		KVToken: kv.TokenBytes(o.kvType(), len(m.Layers), m.KVHeads, m.HeadDim),
		Section: g.section, Groups: int64(len(g.experts)),
		Sections: int64(o.Sections), DenseSection: g.dense, Layers: int64(len(g.layers))}
	if info := e.device.Info(); !info.Unified {
		d.reserve = 0 // the host's
		d.work += forward.DeviceScratchBytes(m, chunk, o.Context) + e.cuBLASLtBytes(chunk)
		d.Section, d.DenseSection = g.deviceSection, g.devDense
		if d.Budget = o.DeviceMemory; d.Budget == 0 {
			d.Budget = info.MemoryBytes / 10 * 9
		}
	}
	d.Fixed = g.stay + d.work + d.reserve
	return d
}

func (e *Engine) setPlan(chunk int, d demand, place sched.Placement) {
	p := Plan{Device: e.options.Device, Budget: d.Budget, Stay: e.groups.stay, Work: d.work,
		Reserve: d.reserve, Groups: int(d.Groups), Cycle: e.cycle(), Chunk: chunk, KVType: e.options.kvType().String(),
		DenseSections: int(place.Dense), DenseLayers: int(d.Layers),
		Dense: place.Dense * d.DenseSection}
	p.KVTokens = int(place.KVTokens) / kv.PageTokens * kv.PageTokens
	p.KV = int64(p.KVTokens) * d.KVToken
	p.Sections, p.CacheSlots = int(place.Ring), int(place.Cache)
	p.Ring, p.Cache = place.Ring*d.Section, place.Cache*d.Section
	p.Resident = place.Fits && p.Sections+p.CacheSlots >= p.Groups
	e.plan = p
}

// hostWork is what passes of chunk rows take of the host's memory, beside a device with its own.
func (e *Engine) hostWork(chunk int) int64 {
	_, work := forward.WorkBytes(e.model, chunk)
	if e.options.CPUExperts {
		work += forward.BesideBytes(e.model, chunk)
	}
	return work
}

// placeHost splits the host's budget of a device with memory of its own; any other has none to split.
func (e *Engine) placeHost(chunk int) sched.HostPlacement {
	p, g := &e.plan, &e.groups
	if e.device.Info().Unified {
		return sched.HostPlacement{Fits: true}
	}
	return sched.PlaceHost(sched.HostDemand{Budget: e.options.HostMemory,
		Fixed: reserveBytes + e.hostWork(chunk) + g.staging, Section: g.section,
		Groups: int64(len(g.experts)), DenseSection: g.dense, Layers: int64(len(g.layers)),
		DenseStreams: p.DenseSections < p.DenseLayers})
}

// planHost splits the host's budget once that of the device is.
func (e *Engine) planHost(chunk, smallest int) error {
	p, g := &e.plan, &e.groups
	place := e.placeHost(chunk)
	p.CPUExperts = e.options.CPUExperts
	p.HostBudget, p.HostLeast = e.options.HostMemory, e.placeHost(smallest).Least
	if !place.Fits {
		return fmt.Errorf("%w: %d bytes of host memory; the least that works beside device %s is %d "+
			"(working memory %d, the program %d, staging %d, sections)", ErrBudget, p.HostBudget,
			p.Device, p.HostLeast, e.hostWork(smallest), reserveBytes, g.staging)
	}
	p.HostDense, p.HostSlots = int(place.Dense), int(place.Sections)
	p.HostCache = place.Sections * g.section
	return nil
}

func (e *Engine) logPlan(log *slog.Logger) {
	p, i := e.plan, e.device.Info()
	log.Info("device", "name", i.Name, "detail", i.Detail)
	log.Info("memory", "budget", p.Budget, "stay", p.Stay, "dense", p.Dense, "kv", p.KV, "work",
		p.Work, "reserve", p.Reserve, "ring", p.Ring, "cache", p.Cache, "sections", p.Sections,
		"groups", p.Groups)
	if p.DenseSections < p.DenseLayers {
		log.Info("dense weights stream", "sections", p.DenseSections, "layers", p.DenseLayers)
	}
	if p.HostBudget > 0 {
		log.Info("host memory", "budget", p.HostBudget, "cache", p.HostCache, "slots", p.HostSlots,
			"dense_sections", p.HostDense)
	}
	if p.Floods() {
		log.Info("the expert cache is smaller than one token's cycle over the layers: recency would "+
			"never hit; the policy keeps what is likely used soonest", "sections",
			p.Sections+p.CacheSlots, "cycle", p.Cycle)
	}
}

// cycle is how many groups one token uses in all layers.
func (e *Engine) cycle() (n int) {
	for i := range e.model.Layers {
		if e.model.Layers[i].Sparse {
			n += e.model.TopK
		} else {
			n++
		}
	}
	return n
}
