package engine

import (
	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/sched"
)

// batchSequencesMax bounds the sequences that a job has in flight unless the options say otherwise:
// beyond it, passes are as long as computing them wants anyway.
const batchSequencesMax = 1024

// What a machine is taken for until it has been measured, to weigh memory for keys and values
// against memory for experts: a middling NVMe disk, and a fast core with wide vectors. Only the
// ratio matters. Passes that are longer than need be cost a little cache; passes that are too short
// wait for the disk: so the core is taken for a fast one.
const (
	nominalBandwidth = 1.5e9 // bytes a second
	nominalCore      = 1e11  // bytes of weights a second, times rows
)

// fitJobsMax bounds the requests that a choice of memory is tried on.
const fitJobsMax = 512

// fit fills in what the options leave open from what the requests need: the rows of a pass, places
// for sequences, and the memory for keys and values, by running the passes forward for each of a few
// choices.
func (p *batchJob) fit(o Options) Options {
	jobs, longest := p.sample()
	whole := kv.Pages(longest) * kv.PageTokens
	if o.Sequences == 0 {
		n := len(p.shapes)
		o.Sequences = max(min(n, batchSequencesMax), 1) + min(n, prefixesHeld)
	}
	if o.Context == 0 || o.Context < whole {
		o.Context = min(whole, contextMax)
	}
	f := batchFit{engine: p.asks, jobs: jobs, best: o}
	if o.Sections == 0 { // a ring that overlaps well first, and any other only if memory is short
		f.best.Sections = batchRing
		if f.chunks(f.best); f.seconds > 0 {
			return f.best
		}
		f.best = o
	}
	f.chunks(o)
	return f.best
}

// batchRing is the sections of a job's ring: as many reads under way as the reader takes, and as many
// groups computed or landing. A few megabytes less of cache cost little where every pass sweeps over
// all experts; a ring of two or three leaves little that can overlap.
const batchRing = 16

// chunks tries the rows of a pass that the options leave open.
func (f *batchFit) chunks(o Options) {
	if o.Chunk != 0 {
		f.tryAll(o, o.Chunk)
		return
	}
	for chunk := batchChunkMax; chunk >= chunkLeast; chunk /= 2 {
		f.tryAll(o, chunk)
	}
}

// batchChunkMax is the most rows of a pass that are considered.
const batchChunkMax = 2048

// sample takes up to fitJobsMax requests, evenly, and finds the longest sequence of all.
func (p *batchJob) sample() (jobs []sched.Job, longest int) {
	step := len(p.shapes)/fitJobsMax + 1
	longest = 1
	for i, s := range p.shapes {
		if p.job.Refused(i) {
			continue
		}
		longest = max(longest, int(s.most))
		if i%step == 0 {
			jobs = append(jobs, sched.Job{Prompt: int(s.prompt), MaxNew: int(s.new)})
		}
	}
	return jobs, longest
}

// batchFit looks for the options under which a job takes least time.
type batchFit struct {
	engine  *Engine // without weights
	jobs    []sched.Job
	best    Options
	seconds float64 // of the best; 0: none fits yet
}

// kvShares is into how many parts the memory that is not taken is divided, to try them for the KV
// cache.
const kvShares = 8

// tryAll tries passes of so many rows with several sizes of the KV cache.
func (f *batchFit) tryAll(o Options, chunk int) {
	o.Chunk = chunk
	free, token := f.try(o)
	if token == 0 || o.KVTokens != 0 {
		return
	}
	for part := 1; part < kvShares; part++ {
		tokens := int(free/kvShares*int64(part)/token) / kv.PageTokens * kv.PageTokens
		if tokens <= o.Context || tokens > kvTokensMax {
			continue
		}
		more := o
		more.KVTokens = tokens
		f.try(more)
	}
}

// try forecasts the job under options, and keeps them if they are better than the best by more than
// rounding. It returns the bytes that are shared by KV cache, ring and expert cache, and those of a
// token; 0 if the options do not fit.
func (f *batchFit) try(o Options) (free, token int64) {
	e := f.engine
	var err error
	if e.options, err = effective(o, e.model); err != nil || e.makePlan() != nil {
		return 0, 0
	}
	m := e.waveModel()
	m.Bandwidth = nominalBandwidth
	m.PrefillRowSeconds = float64(e.activeBytes()) / (nominalCore * float64(e.options.Threads))
	m.DecodeRowSeconds = m.PrefillRowSeconds
	m.PrefillBefore = 2*m.BalancedRows() <= m.RowsMax
	seconds := sched.Forecast(m, f.jobs).Seconds
	if f.seconds == 0 || seconds < 0.98*f.seconds {
		f.seconds, f.best = seconds, o
	}
	p := e.plan
	return p.KV + p.Ring + p.Cache, p.KV / int64(max(p.KVTokens, 1))
}

// activeBytes is the weights that one row is multiplied with.
func (e *Engine) activeBytes() int64 {
	i := e.info
	if i.Experts == 0 {
		return i.WeightBytes
	}
	return i.WeightBytes - i.ExpertBytes + i.ExpertBytes/int64(i.Experts)*int64(i.ExpertsUsed)
}
