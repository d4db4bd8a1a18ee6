package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/moering/moering/engine/internal/batch"
	"github.com/moering/moering/sched"
)

// BatchProgress is a job's state between two passes.
type BatchProgress struct {
	Requests, Finished, Failed, Resumed int
	Active                              int // sequences in flight
	TokensInFlight                      int // in the KV cache
	Rows                                int // of the pass before
	PromptTokens, NewTokens             int64
	SharedTokens                        int64
	PrefillPerS, DecodePerS             float64 // tokens a second, lately
	Elapsed                             time.Duration
	Left                                time.Duration // estimated; 0 while nothing is known
	Memory, Budget                      int64         // resident set of the process, and what it may be
	Preempted                           int           // times that a sequence gave its memory to others
	MovedBytes                          int64         // of such sequences, out of the KV cache and in again
	Stats                               Stats         // of the engine, since the job began
}

// batchFigures are counted while a job runs.
type batchFigures struct {
	began   time.Time
	initial Stats
	last    Stats // before the pass under way
	passes  int

	promptTokens, newTokens, sharedTokens int64
	// What is left: rows to compute, if every request generates as much as it may. generated and
	// allowed tell how much of that finished requests used.
	rowsLeft           int64
	newLeft            int64
	generated, allowed int64
	endedRequests      int
	recent             []batchSample // of the last passes, the oldest first
	history            batchHistory
	movedBefore        int64
}

// batchSample is one pass, or several added up.
type batchSample struct {
	at              time.Duration // since the job began, at its end
	took            time.Duration
	decode, prefill int
	read            int64
	wait            time.Duration
	hits, asked     int64
	moved           int64 // bytes of keys and values
	// Of a device with memory of its own: what was asked for in host memory.
	hostHits, hostAsked int64
}

// recentTime is what "lately" means: long enough for a few passes of a large model.
const (
	recentTime = 30 * time.Second
	recentMax  = 256
)

func (d *batchDriver) start() {
	d.began, d.initial = clock(), d.engine.Stats()
	d.last = d.initial
}

// addUp adds up what is to be computed.
func (d *batchDriver) addUp(jobs []sched.Job) {
	for _, j := range jobs {
		d.rowsLeft += int64(j.Prompt + j.MaxNew)
		d.newLeft += int64(j.MaxNew)
	}
}

func (d *batchDriver) before() { d.last = d.engine.Stats() }

// after counts a pass.
func (d *batchDriver) after() {
	s := d.engine.Stats().Sub(d.last)
	rows := d.wave.Decode + d.wave.Prefill
	d.rates.add(rows, s)
	d.passes++
	d.promptTokens += int64(d.prompted)
	d.newTokens += int64(len(d.logits))
	d.rowsLeft -= int64(rows)
	d.newLeft -= int64(len(d.logits))
	p := batchSample{d.now(), s.Busy, len(d.logits), d.wave.Prefill,
		s.BytesRead + s.DenseBytesRead, s.Wait, s.Hits, s.Hits + s.Late + s.Misses,
		d.spill.moved() - d.movedBefore, s.HostHits, s.HostHits + s.HostLate + s.HostMisses}
	d.movedBefore = d.spill.moved()
	d.history.add(p)
	d.recent = append(d.recent, p)
	for len(d.recent) > recentMax || len(d.recent) > 2 && p.at-d.recent[0].at > recentTime {
		d.recent = d.recent[:copy(d.recent, d.recent[1:])]
	}
}

// ended counts a request that is done.
func (d *batchDriver) ended(s *batchSlot) {
	unused := int64(s.limit - s.made)
	d.rowsLeft -= unused + 1 // the last token is not fed
	d.newLeft -= unused
	d.endedRequests++
	d.generated += int64(s.made)
	d.allowed += int64(s.limit)
	d.history.ended(batchRequest{id: s.request.ID, took: clock().Sub(s.begun),
		prompt: s.answer.PromptTokens, new: s.made})
}

// show reports progress.
func (d *batchDriver) show() {
	if d.o.Progress == nil {
		return
	}
	p := BatchProgress{Active: len(d.active), Rows: d.wave.Decode + d.wave.Prefill,
		PromptTokens: d.promptTokens, NewTokens: d.newTokens, SharedTokens: d.sharedTokens,
		Elapsed: d.now(), Memory: residentMemory(), Budget: d.engine.plan.Budget,
		Stats: d.engine.Stats().Sub(d.initial)}
	c := d.job.Counts()
	p.Requests, p.Finished, p.Failed, p.Resumed = c.Requests, c.Finished, c.Failed, c.Resumed
	for _, s := range d.active {
		p.TokensInFlight += s.seq.Len
	}
	p.Preempted, p.MovedBytes = d.spill.preempted, d.spill.moved()
	p.PrefillPerS, p.DecodePerS = d.lately()
	p.Left = d.left(p.PrefillPerS + p.DecodePerS)
	d.o.Progress(p)
}

// lately is the speed over the last passes, in tokens a second.
func (d *batchDriver) lately() (prefill, decode float64) {
	if len(d.recent) == 0 {
		return 0, 0
	}
	var rows [2]int
	for _, s := range d.recent {
		rows[0] += s.prefill
		rows[1] += s.decode
	}
	first := d.recent[0]
	seconds := (d.now() - first.at + first.took).Seconds()
	if seconds <= 0 {
		return 0, 0
	}
	return float64(rows[0]) / seconds, float64(rows[1]) / seconds
}

// left estimates the time to the end: what is to be fed, and of what may be generated the share that
// finished requests used, at the speed of late.
func (d *batchDriver) left(perS float64) time.Duration {
	if perS <= 0 || d.passes < 2 {
		return 0
	}
	share := 1.0
	if d.allowed > 0 {
		share = float64(d.generated) / float64(d.allowed)
	}
	rows := float64(d.rowsLeft-d.newLeft) + share*float64(d.newLeft)
	return time.Duration(max(rows, 0) / perS * float64(time.Second)).Round(time.Second)
}

// result is what the job has come to.
func (d *batchDriver) result() BatchResult {
	c := d.job.Counts()
	r := BatchResult{Requests: c.Requests, Finished: c.Finished, Failed: c.Failed, Resumed: c.Resumed,
		Complete: d.job.Complete(), PromptTokens: d.promptTokens, NewTokens: d.newTokens,
		SharedTokens: d.sharedTokens, Preempted: d.spill.preempted, MovedBytes: d.spill.moved(),
		RecomputedTokens: d.spill.recomputed, Elapsed: d.now(), Plan: d.engine.plan,
		Stats: d.engine.Stats().Sub(d.initial)}
	r.Output, r.Errors, r.Journal = d.job.Paths()
	if c.Failed == 0 {
		r.Errors = ""
	}
	if r.Seconds = r.Elapsed.Seconds(); r.Seconds > 0 {
		r.TokensPerS = float64(r.PromptTokens+r.NewTokens) / r.Seconds
	}
	return r
}

func residentMemory() int64 {
	kib, _ := field("/proc/self/status", "VmRSS:")
	return kib << 10
}

// batchHistory is what the report shows, in bounded memory.
type batchHistory struct {
	samples []batchSample
	merged  int // passes a sample stands for
	open    batchSample
	count   int // passes in open
	slow    []batchRequest
	prompts batch.Histogram
	news    batch.Histogram
}

// batchRequest is a request that ended.
type batchRequest struct {
	id          string
	took        time.Duration
	prompt, new int
}

// Bounds on what a report is made of.
const (
	historySamplesMax = 512
	historySlowMax    = 20
)

// add takes a pass. When there are too many samples, each two become one.
func (h *batchHistory) add(p batchSample) {
	h.open.add(p)
	if h.count++; h.count < max(h.merged, 1) {
		return
	}
	h.samples = append(h.samples, h.open)
	h.open, h.count = batchSample{}, 0
	if len(h.samples) < historySamplesMax {
		return
	}
	for i := range len(h.samples) / 2 {
		s := h.samples[2*i]
		s.add(h.samples[2*i+1])
		h.samples[i] = s
	}
	h.samples = h.samples[:len(h.samples)/2]
	h.merged = 2 * max(h.merged, 1)
}

func (s *batchSample) add(p batchSample) {
	s.at = p.at
	s.took += p.took
	s.decode += p.decode
	s.prefill += p.prefill
	s.read += p.read
	s.wait += p.wait
	s.hits += p.hits
	s.asked += p.asked
	s.moved += p.moved
	s.hostHits += p.hostHits
	s.hostAsked += p.hostAsked
}

func (h *batchHistory) ended(r batchRequest) {
	h.prompts.Add(r.prompt)
	h.news.Add(r.new)
	if len(h.slow) == historySlowMax && r.took <= h.slow[len(h.slow)-1].took {
		return
	}
	h.slow = append(h.slow, r)
	slices.SortStableFunc(h.slow, func(a, b batchRequest) int { return cmp.Compare(b.took, a.took) })
	h.slow = h.slow[:min(len(h.slow), historySlowMax)]
}
