package engine

import (
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

// denseRing is the least number of sections for dense weights that do not all fit: the present
// layer's, the next one's on its way, and one whose kernels may still run.
const denseRing = 3

// hostRing is the number of sections of host memory through which groups pass on their way to a
// device, beside those that stay.
const hostRing = 8

// effective fills in what the options left to the engine.
func effective(o Options, m *arch.Model) (Options, error) {
	if o.Device == "" {
		o.Device = bestDevice(o)
	}
	if o.HostMemory == 0 {
		o.HostMemory = availableMemory() / 4 * 3
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
	if o.IOTimeout == 0 {
		o.IOTimeout = ioTimeoutDefault
	}
	o.Threads = o.threads()
	if name, _ := o.device(); name != "cuda" && o.DeviceMemory != 0 && o.discrete == nil {
		return o, fmt.Errorf("%w: DeviceMemory is %d, but device %s computes in host memory; use "+
			"HostMemory", ErrUnsupported, o.DeviceMemory, o.Device)
	}
	return o, nil
}

// needs are the parts of a plan that do not depend on how it is split.
type needs struct {
	experts, layers         []weights.Group
	section, dense          int64 // bytes in the memory that is computed in
	hostSection, hostDense  int64 // and on the way there; 0 where it is the same
	stay, staging           int64
	kvToken, kvTokens       int64
	unified                 bool
	budget, host            int64
	work, hostWork, reserve int64 // of the memory that is computed in, of the host
}

func (e *Engine) needs(chunk int) needs {
	m, o := e.model, &e.options
	n := needs{experts: weights.Experts(m), layers: weights.Layers(m), unified: true,
		budget: o.HostMemory, reserve: reserveBytes,
		kvToken: kv.TokenBytes(o.kvType(), len(m.Layers), m.KVHeads, m.HeadDim),
		// Pages are whole, so tokens are counted in pages.
		kvTokens: int64(kv.Pages(o.Context) * kv.PageTokens)}
	n.section, n.dense = weights.SectionBytes(n.experts), weights.SectionBytes(n.layers)
	n.stay, n.staging = forward.ResidentBytes(m)
	n.work, n.hostWork = forward.WorkBytes(m, chunk)
	if info := e.device.Info(); !info.Unified {
		n.unified = false
		n.work += forward.DeviceScratchBytes(m, chunk, o.Context)
		n.hostSection, n.hostDense = n.section, n.dense
		n.section = weights.DeviceSectionBytes(n.experts)
		n.dense = weights.DeviceSectionBytes(n.layers)
		n.host = o.HostMemory
		if n.budget = o.DeviceMemory; n.budget == 0 {
			n.budget = info.MemoryBytes / 10 * 9
		}
	}
	return n
}

// makePlan splits the budgets. The chunk shrinks, and dense weights stream, before a budget is called
// too small.
func (e *Engine) makePlan() error {
	m, o := e.model, &e.options
	chunk, smallest := o.Chunk, o.Chunk
	if chunk == 0 {
		chunk, smallest = min(chunkDefault, o.Context), min(chunkLeast, o.Context)
		for chunk/2 >= smallest && e.workShare(chunk) > 1./8 {
			chunk /= 2
		}
	}
	layers := len(m.Layers)
	place := e.place(chunk, layers)
	for !place.Fits && chunk/2 >= smallest {
		chunk /= 2
		place = e.place(chunk, layers)
	}
	for dense := layers - 1; !place.Fits && dense >= min(denseRing, layers); dense-- {
		place = e.place(chunk, dense)
	}
	e.plan.Least = e.placeOnly(smallest, min(denseRing, layers)).Least
	if !place.Fits {
		p := &e.plan
		return fmt.Errorf("%w: %d bytes of memory; the least that works with a context of %d is %d "+
			"(weights that stay %d, dense weights of %d layers %d, working memory %d, the program %d, "+
			"KV cache, two sections)", ErrBudget, p.Budget, o.Context, p.Least, p.Stay,
			p.DenseSections, p.Dense, p.Work, p.Reserve)
	}
	e.plan.KVTokens = int(place.KVTokens) / kv.PageTokens * kv.PageTokens
	n := e.needs(chunk)
	p := &e.plan
	p.KV = int64(p.KVTokens) * n.kvToken
	p.Sections, p.CacheSlots = int(place.Ring), int(place.Cache)
	p.Ring, p.Cache = place.Ring*n.section, place.Cache*n.section
	p.Resident = p.Sections+p.CacheSlots >= p.Groups
	if n.unified {
		return nil
	}
	return e.planHost(n)
}

func (e *Engine) workShare(chunk int) float64 {
	n := e.needs(chunk)
	return float64(n.work) / float64(max(n.budget, 1))
}

// place splits the budget of the memory that is computed in, for passes of chunk rows and so many
// layers' dense weights, and sets the fixed parts of the plan.
func (e *Engine) place(chunk, dense int) sched.Placement {
	n := e.needs(chunk)
	e.plan = Plan{Device: e.options.Device, Budget: n.budget, Stay: n.stay,
		Dense: int64(dense) * n.dense, Work: n.work, Reserve: n.reserve, Groups: len(n.experts),
		Chunk: chunk, DenseSections: dense, DenseLayers: len(n.layers),
		KVType: e.options.kvType().String()}
	if !n.unified {
		e.plan.Reserve = 0
	}
	return e.placeOnly(chunk, dense)
}

func (e *Engine) placeOnly(chunk, dense int) sched.Placement {
	n := e.needs(chunk)
	fixed := n.stay + int64(dense)*n.dense + n.work
	if n.unified {
		fixed += n.reserve
	}
	return sched.Place(sched.Demand{Budget: n.budget, Fixed: fixed, KVToken: n.kvToken,
		KVTokensMin: n.kvTokens, KVTokensWant: n.kvTokens * int64(e.options.Sequences),
		Section: n.section, Groups: int64(len(n.experts)), Sections: int64(e.options.Sections)})
}

// planHost splits the host's budget of a device with memory of its own: what passes takes little, and
// the rest caches groups, dense ones first, since every token needs them.
func (e *Engine) planHost(n needs) error {
	p := &e.plan
	p.HostBudget = n.host
	p.HostDense = min(denseRing, len(n.layers))
	fixed := n.reserve + n.hostWork + n.staging + int64(p.HostDense)*n.hostDense
	ring := min(hostRing, int64(len(n.experts)))
	p.HostLeast = fixed + ring*n.hostSection
	if n.host < p.HostLeast {
		return fmt.Errorf("%w: %d bytes of host memory; the least that works beside device %s is %d "+
			"(working memory %d, the program %d, staging %d, sections)", ErrBudget, n.host, p.Device,
			p.HostLeast, n.hostWork, n.reserve, n.staging)
	}
	free := n.host - p.HostLeast
	if p.DenseSections < p.DenseLayers && n.hostDense > 0 {
		more := min(free/n.hostDense, int64(p.DenseLayers-p.HostDense))
		p.HostDense += int(more)
		free -= more * n.hostDense
	}
	p.HostSlots = int(min(ring+free/n.hostSection, int64(len(n.experts))))
	p.HostCache = int64(p.HostSlots) * n.hostSection
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
	perPass := e.model.TopK * len(e.model.Layers)
	if !p.Resident && p.Sections+p.CacheSlots < perPass {
		log.Info("the expert cache is smaller than one token's cycle over the layers: recency would "+
			"never hit; the policy keeps what is used most", "sections", p.Sections+p.CacheSlots,
			"cycle", perPass)
	}
}
