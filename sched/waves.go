package sched

import (
	"cmp"
	"math"
	"slices"
)

// WaveModel is what the arithmetic of a batch job knows of model, machine and budget. A wave is one
// pass: it streams every layer once for all rows in flight, decode rows of running sequences and
// prefill rows of new ones. Bytes and seconds throughout; the zero value of a rate is "costs
// nothing". A WaveModel is a value and safe for concurrent use.
//
// The pass's time is a sum of measurable parts, linear in rows, groups touched and attended tokens;
// loading and computing hide behind each other but for the share Exposed.
type WaveModel struct {
	Layers, Experts, TopK int     // layers of experts, experts of each, experts that a row uses
	GroupBytes            int64   // one expert
	ResidentGroups        int     // groups that stay in the cache, evenly over the layers
	StreamBytes           int64   // dense weights that do not stay: read in every pass
	Bandwidth             float64 // bytes a second from disk

	PassSeconds       float64 // of a pass, whatever its rows
	GroupSeconds      float64 // of touching the weights of one group, whatever its rows
	DecodeRowSeconds  float64 // of one decode row through all layers and the head
	PrefillRowSeconds float64 // of one prefill row through all layers
	AttendSeconds     float64 // of one row attending to one earlier token, all layers
	Exposed           float64 // share of the shorter of loading and computing that does not hide

	KVTokens      int64 // capacity of the KV cache in tokens
	KVTokenBytes  int64
	KVPageTokens  int  // tokens are given in whole pages; 0: 1
	RowsMax       int  // the most rows of a pass
	SequencesMax  int  // the most sequences in flight
	Optimistic    bool // admit by Expect, preempt when memory runs out; else by MaxNew
	InOrder       bool // start jobs in their order; else Forecast starts the longest first
	PrefillBefore bool // prefill as fast as rows allow, rather than filling up to the balance

	SpillTokens    int64   // what may lie outside the KV cache in place of being computed again
	SpillBandwidth float64 // bytes a second of moving them
}

// Job is a request: tokens to feed and tokens to generate.
type Job struct {
	Prompt int // tokens to compute, at least 1; those of a cached shared prefix are not counted
	Cached int // tokens of a shared prefix, held elsewhere
	MaxNew int // the most that it may generate; 0: the prompt's last state is all that is wanted
	Expect int // how many it likely generates; 0: MaxNew
	// Spilled of Prompt are keys and values that lie elsewhere: they are moved in at admission, and
	// take memory, but no rows.
	Spilled int
}

func (j Job) expect() int {
	if j.Expect > 0 {
		return min(j.Expect, j.MaxNew)
	}
	return j.MaxNew
}

// Active is a sequence in flight. The pass that feeds the last row of the prompt generates the
// first token. A sequence begins with Fed = Spilled. A preempted one waits again, see Preempted.
type Active struct {
	Job
	Fed int // rows of the prompt that were computed, or moved in
	New int // tokens generated
}

// tokens held in the KV cache: the last token generated is not there yet.
func (a Active) tokens() int { return a.Fed + max(a.New-1, 0) }

// Preempted is the job that is left of a sequence that gave its KV back; spilled: it lies elsewhere.
func (a Active) Preempted(spilled bool) Job {
	j := Job{Prompt: a.Prompt + a.New, Cached: a.Cached, MaxNew: a.MaxNew - a.New}
	if a.Expect > 0 {
		j.Expect = max(a.expect()-a.New, 1)
	}
	if spilled {
		j.Spilled = a.tokens()
	}
	return j
}

// WaveState is what Next looks at; it changes none of it.
type WaveState struct {
	Active  []Active // in order of admission
	Waiting []Job    // in the order in which they shall start
}

// Wave is one pass. Its slices are reused by Next.
type Wave struct {
	Rows            []int // of each active sequence: 1 of one that decodes, some of a prompt, or 0
	Preempt         []int // active sequences that give their KV back and wait again; their Rows are 0
	Admit           []int // rows of the first len(Admit) waiting jobs, which become active
	Decode, Prefill int   // rows in all
	KVLimited       bool  // a waiting job was held back for want of KV memory
	LoadBytes       int64
	LoadSeconds     float64
	ComputeSeconds  float64
	Seconds         float64
}

// sampleJobs bounds how many waiting jobs are looked at to tell how long jobs are.
const sampleJobs = 64

// Next chooses the rows of the next pass into w: every sequence that decodes gets its row; prompts
// fill up to the number of rows at which computing takes as long as loading (BalancedRows), or to
// what keeps the KV cache full of sequences if that is more, begun ones first, then waiting jobs in
// their order, each only if its KV fits: all that it may generate, or with Optimistic what it is
// expected to. If with Optimistic the rows of this pass do not fit,
// sequences that are cheapest to compute again are preempted. A pass without rows means that there
// is nothing to do, or that the first waiting job does not fit: see Fits.
func (m WaveModel) Next(s WaveState, w *Wave) {
	*w = Wave{Rows: resize(w.Rows, len(s.Active)), Preempt: w.Preempt[:0], Admit: w.Admit[:0]}
	attended := 0
	for i, a := range s.Active {
		if a.Fed >= a.Prompt {
			w.Rows[i] = 1
			w.Decode++
			attended += a.Cached + a.tokens()
		}
	}
	if m.Optimistic {
		attended -= m.preempt(s, w)
	}
	room := m.room(s, w.Decode)
	for i, a := range s.Active {
		if left := a.Prompt - a.Fed; left > 0 && !slices.Contains(w.Preempt, i) {
			n := min(left, room)
			w.Rows[i] = n
			w.Prefill += n
			room -= n
			attended += n * (a.Cached + a.Fed + n/2)
		}
	}
	attended += m.admit(s, w, room)
	m.cost(w, attended)
}

func resize(s []int, n int) []int {
	s = slices.Grow(s[:0], n)[:n]
	clear(s)
	return s
}

// room is how many prefill rows go with so many decode rows.
func (m WaveModel) room(s WaveState, decode int) int {
	most := max(m.RowsMax-decode, 0)
	if m.PrefillBefore {
		return most
	}
	return min(most, max(m.BalancedRows()-decode, m.steadyRows(s), 1))
}

// steadyRows is how many prompt rows a pass must feed so that new sequences come in as fast as
// those in flight end: with A in flight that generate N tokens each, A/N end with every pass.
func (m WaveModel) steadyRows(s WaveState) int {
	prompt, generate, n := 0, 0, 0
	for _, j := range s.Waiting[:min(len(s.Waiting), sampleJobs)] {
		prompt, generate, n = prompt+j.Prompt, generate+max(j.expect(), 1), n+1
	}
	if n == 0 {
		return 0
	}
	inFlight := min(m.KVTokens*int64(n)/int64(prompt+generate), int64(m.inFlightMax()))
	return int((inFlight*int64(prompt) + int64(generate) - 1) / int64(generate))
}

// inFlightMax is the most sequences: each that decodes needs a row in every pass.
func (m WaveModel) inFlightMax() int { return min(m.SequencesMax, m.RowsMax) }

// admit takes waiting jobs while rows and KV last, and returns the tokens that they attend to.
func (m WaveModel) admit(s WaveState, w *Wave, room int) (attended int) {
	free := m.KVTokens - m.reserved(s, w)
	inFlight := len(s.Active) - len(w.Preempt)
	if len(w.Preempt) > 0 {
		return 0 // memory is short: nobody else comes in
	}
	for _, j := range s.Waiting {
		if room <= 0 || inFlight >= m.inFlightMax() {
			break
		}
		need := m.pages(m.need(Active{Job: j}))
		if need > free {
			w.KVLimited = true
			break
		}
		n := min(j.Prompt-j.Spilled, room)
		w.Admit = append(w.Admit, n)
		w.Prefill += n
		room -= n
		free -= need
		inFlight++
		attended += n * (j.Cached + j.Spilled + n/2)
	}
	return attended
}

// need is the tokens that a sequence is given at admission.
func (m WaveModel) need(a Active) int {
	if m.Optimistic {
		return max(a.Prompt+a.expect(), a.tokens()+1)
	}
	return a.Prompt + a.MaxNew
}

// reserved sums what active sequences were given.
func (m WaveModel) reserved(s WaveState, w *Wave) (n int64) {
	for i, a := range s.Active {
		if !slices.Contains(w.Preempt, i) {
			n += m.pages(m.need(a))
		}
	}
	return n
}

// pages rounds tokens up to whole pages.
func (m WaveModel) pages(tokens int) int64 {
	page := max(m.KVPageTokens, 1)
	return int64((tokens + page - 1) / page * page)
}

// Fits reports whether a job alone fits the KV cache, whatever it generates. Next never admits one
// that does not.
func (m WaveModel) Fits(j Job) bool {
	return m.pages(j.Prompt+j.MaxNew) <= m.KVTokens && m.SequencesMax > 0 && m.RowsMax > 0
}

// preempt picks victims until the tokens of this pass fit, the fewest tokens held first, the latest
// admitted among equals, never the last one; it returns the tokens that they would have attended
// to.
func (m WaveModel) preempt(s WaveState, w *Wave) (attended int) {
	var used int64
	for _, a := range s.Active {
		used += m.pages(max(a.Prompt, a.tokens()+1)) // a prompt that was begun is fed to its end
	}
	for used > m.KVTokens && len(w.Preempt) < len(s.Active)-1 {
		v := -1
		for i, a := range s.Active {
			if !slices.Contains(w.Preempt, i) && (v < 0 || a.tokens() <= s.Active[v].tokens()) {
				v = i
			}
		}
		a := s.Active[v]
		used -= m.pages(max(a.Prompt, a.tokens()+1))
		if w.Rows[v] > 0 {
			w.Decode--
			attended += a.Cached + a.tokens()
		}
		w.Rows[v] = 0
		w.Preempt = append(w.Preempt, v)
	}
	return attended
}

// Distinct is the expected number of different experts of a layer that so many rows use, if each
// used a random one: the usual bound from above for real routers, which are skewed.
func Distinct(experts, topK, rows int) float64 {
	if experts <= 0 || rows <= 0 {
		return 0
	}
	e := float64(experts)
	return e * (1 - math.Pow(1-min(float64(topK)/e, 1), float64(rows)))
}

// PassBytes is what a pass over so many rows reads: the groups that are not in the cache, and dense
// weights that stream.
func (m WaveModel) PassBytes(rows int) int64 {
	if rows <= 0 {
		return 0
	}
	all := float64(m.Layers * m.Experts)
	if all == 0 {
		return m.StreamBytes
	}
	missing := 1 - min(float64(m.ResidentGroups)/all, 1)
	groups := float64(m.Layers) * Distinct(m.Experts, m.TopK, rows) * missing
	return m.StreamBytes + int64(groups*float64(m.GroupBytes))
}

// loadSeconds is the time to read so many bytes.
func (m WaveModel) loadSeconds(bytes int64) float64 {
	if m.Bandwidth <= 0 {
		return 0
	}
	return float64(bytes) / m.Bandwidth
}

// ComputeSeconds is the time of the arithmetic of a pass.
func (m WaveModel) ComputeSeconds(decode, prefill, attended int) float64 {
	if decode+prefill == 0 {
		return 0
	}
	groups := float64(m.Layers) * Distinct(m.Experts, m.TopK, decode+prefill)
	return m.PassSeconds + groups*m.GroupSeconds + float64(decode)*m.DecodeRowSeconds +
		float64(prefill)*m.PrefillRowSeconds + float64(attended)*m.AttendSeconds
}

// cost fills in bytes and seconds.
func (m WaveModel) cost(w *Wave, attended int) {
	w.LoadBytes = m.PassBytes(w.Decode + w.Prefill)
	w.LoadSeconds = m.loadSeconds(w.LoadBytes)
	w.ComputeSeconds = m.ComputeSeconds(w.Decode, w.Prefill, attended)
	w.Seconds = max(w.LoadSeconds, w.ComputeSeconds) +
		m.Exposed*min(w.LoadSeconds, w.ComputeSeconds)
}

// BalancedRows is the fewest rows at which computing a pass takes as long as loading it, at most
// RowsMax: below, the arithmetic waits for the disk; above, nothing is gained. Both times grow with
// rows, the load ever more slowly, so that they meet once.
func (m WaveModel) BalancedRows() int {
	low, high := 1, max(m.RowsMax, 1)
	for low < high {
		rows := (low + high) / 2
		if m.ComputeSeconds(0, rows, 0) >= m.loadSeconds(m.PassBytes(rows)) {
			high = rows
		} else {
			low = rows + 1
		}
	}
	return low
}

// LongestFirst returns the order in which jobs start so that none is left to run alone at the end:
// most tokens to generate first, then the longest prompt, then as they came.
func LongestFirst(jobs []Job) []int {
	order := make([]int, len(jobs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(jobs[b].expect(), jobs[a].expect()),
			cmp.Compare(jobs[b].Prompt, jobs[a].Prompt))
	})
	return order
}
