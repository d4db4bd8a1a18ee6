package sched

import (
	"cmp"
	"slices"
)

// Guess is an expert that a layer will likely use.
type Guess struct {
	Expert      int
	Probability float64 // measured: of guesses like this one, the share that came true
}

// Outcome is what became of a guess that was read ahead.
type Outcome uint8

// Outcomes.
const (
	Useful    Outcome = iota // it was there when it was wanted
	Late                     // it was wanted while it was being read
	Wasted                   // it was read, and left again unused, or its layer chose others
	Cancelled                // it was never started
	outcomes
)

// PredictorOptions describe model and economy. The zero value of the last three is chosen.
type PredictorOptions struct {
	Layers, Experts int
	// Ranks is how many candidates of the next router a row has: its top-k, or more.
	Ranks int
	// WasteCost is the time that a wasted byte costs over the time that a useful byte saves: 1
	// where the disk is never idle, near 0 where it mostly is. 0: 1/2.
	WasteCost float64
	// Memory is how many passes are remembered: 1/e of their weight is left after so many. 0: 256.
	Memory int
	// Groups is how many groups of evidence a verdict takes. 0: 16.
	Groups int
}

const (
	wasteCostDefault = 0.5
	memoryDefault    = 256
	evidenceDefault  = 16
	lateCredit       = 0.5 // a late guess saves about half of its read
	pauseMin         = 64  // passes until prediction that was switched off is tried again,
	pauseMax         = 4096
	waitMemory       = 1. / 16 // weight of the last pass in the share of waiting
	wasteCostLeast   = 0.05
	priorTrials      = 4 // weight of what a rank is believed to be worth before it is measured
)

// Predictor keeps the books of prediction: who was guessed and came, how sure a guess is, and
// whether guessing pays. Two sources are combined: the next layer's router run on the present
// hidden state, by rank, and what the previous pass used in the layer. For each layer and
// combination of the two, the share of guesses that came true is counted with exponential
// forgetting, and that is the guess's probability. It is deterministic, and not safe for concurrent
// use.
type Predictor struct {
	o       PredictorOptions
	keep    float64 // forgetting factor of a pass
	layers  []predictedLayer
	total   account
	last    int             // the layer observed last
	outcome [outcomes]int64 // bytes
	waiting float64         // share of the passes of late that waited for weights

	named, came, used int64 // guesses worth it, those that came true, experts used; in all
	guesses           []Guess
}

// predictedLayer is the books of one layer.
type predictedLayer struct {
	cells    []cell  // rank (the last: not among the router's) × used in the previous pass
	rank     []int16 // expert → its rank among the present candidates; -1: it is none
	previous []bool  // expert → the previous pass used it
	actual   []bool  // scratch of Observe
	named    []int32 // experts with a cell to learn from, of the pass under way
	guessed  []bool  // expert → above the threshold, switched on or not
	waiting  bool    // Propose was called, and Observe not yet
	account  account

	hits, guessesMade, used float64 // with forgetting, for precision and recall
}

// cell counts guesses of one kind.
type cell struct{ hits, trials float64 }

// account decides whether prediction pays: bytes saved against bytes wasted times their cost.
type account struct {
	saved, lost, groups float64 // with forgetting; groups of evidence
	off                 bool
	pause, since        int
}

// NewPredictor returns a predictor that knows nothing: it believes the router's first ranks.
func NewPredictor(o PredictorOptions) *Predictor {
	if o.WasteCost == 0 {
		o.WasteCost = wasteCostDefault
	}
	if o.Memory == 0 {
		o.Memory = memoryDefault
	}
	if o.Groups == 0 {
		o.Groups = evidenceDefault
	}
	p := &Predictor{o: o, keep: 1 - 1/float64(o.Memory), layers: make([]predictedLayer, o.Layers),
		guesses: make([]Guess, 0, o.Experts)}
	p.total.pause = pauseMin
	for i := range p.layers {
		l := &p.layers[i]
		*l = predictedLayer{cells: make([]cell, 2*(o.Ranks+1)), rank: make([]int16, o.Experts),
			previous: make([]bool, o.Experts), actual: make([]bool, o.Experts),
			named: make([]int32, 0, o.Experts), guessed: make([]bool, o.Experts)}
		l.account.pause = pauseMin
		for c := range l.cells {
			l.cells[c] = p.prior(c)
		}
		for e := range l.rank {
			l.rank[e] = -1
		}
	}
	return p
}

// prior is what a cell is believed before it was measured: the router's first choice nearly always
// comes, its last about every second time, the previous pass's every fourth.
func (p *Predictor) prior(c int) cell {
	rank, again := c/2, c%2 == 1
	share := 0.25
	if rank < p.o.Ranks {
		share = 0.9 - 0.4*float64(rank)/float64(p.o.Ranks)
	} else if !again {
		share = 0
	}
	return cell{hits: share * priorTrials, trials: priorTrials}
}

// Threshold is the probability from which on a guess is worth its bytes: p saves what (1-p) times
// the cost of waste loses.
func (p *Predictor) Threshold() float64 { return p.o.WasteCost / (1 + p.o.WasteCost) }

// Passed tells the predictor how busy the disk is, by what a pass took and how much of it waited for
// experts, in one unit: while passes wait for the disk, a wasted read costs what a useful one saves;
// while they do not, next to nothing. See PredictorOptions.WasteCost.
func (p *Predictor) Passed(waited, took float64) {
	share := 0.0
	if took > 0 {
		share = min(waited/took, 1)
	}
	p.waiting += (share - p.waiting) * waitMemory
	p.o.WasteCost = max(p.waiting, wasteCostLeast)
}

// Propose returns who will likely be used by a layer, the likeliest first, valid until the next
// call. router has the candidates of the layer's router, (rows, Ranks), best first, or is empty if
// it was not run. Guesses that are not worth their bytes are left out, and all of them while
// prediction does not pay in this layer or as a whole; what would have been proposed is judged all
// the same. Which of them are in memory already, and how many bytes idle time allows, is the
// caller's business.
func (p *Predictor) Propose(layer int, router []int32) []Guess {
	l := &p.layers[layer]
	l.forget()
	l.waiting = true
	for i, e := range router {
		if r := int16(i % p.o.Ranks); l.rank[e] < 0 {
			l.rank[e] = r
			l.named = append(l.named, e)
		} else {
			l.rank[e] = min(l.rank[e], r)
		}
	}
	for e, again := range l.previous {
		if again && l.rank[e] < 0 {
			l.rank[e] = int16(p.o.Ranks)
			l.named = append(l.named, int32(e))
		}
	}
	p.guesses = p.guesses[:0]
	least := p.Threshold()
	for _, e := range l.named {
		c := l.cells[l.cell(e)]
		if share := c.hits / c.trials; share >= least {
			l.guessed[e] = true
			p.guesses = append(p.guesses, Guess{int(e), share})
		}
	}
	if l.account.off || p.total.off {
		return nil
	}
	slices.SortFunc(p.guesses, func(a, b Guess) int {
		return cmp.Or(cmp.Compare(b.Probability, a.Probability),
			cmp.Compare(l.rank[a.Expert], l.rank[b.Expert]), cmp.Compare(a.Expert, b.Expert))
	})
	return p.guesses
}

// forget drops a proposal.
func (l *predictedLayer) forget() {
	for _, e := range l.named {
		l.rank[e], l.guessed[e] = -1, false
	}
	l.named = l.named[:0]
}

func (l *predictedLayer) cell(e int32) int {
	c := 2 * int(l.rank[e])
	if l.previous[e] {
		c++
	}
	return c
}

// Observe says what a layer used: ids, any number of times each. It follows the layer's Propose if
// there was one.
func (p *Predictor) Observe(layer int, ids []int32) {
	l := &p.layers[layer]
	clear(l.actual)
	distinct := 0
	for _, e := range ids {
		if !l.actual[e] {
			l.actual[e] = true
			distinct++
		}
	}
	if l.waiting {
		p.learn(l, distinct)
		l.forget()
		l.waiting = false
	}
	l.previous, l.actual = l.actual, l.previous
	l.account.tick(p.o.Groups)
	if layer <= p.last { // a pass has begun; layers without experts are never observed
		p.total.tick(p.o.Groups * min(p.o.Layers, evidenceDefault))
	}
	p.last = layer
}

// learn compares candidates with the actual set.
func (p *Predictor) learn(l *predictedLayer, distinct int) {
	for i := range l.cells {
		l.cells[i].hits *= p.keep
		l.cells[i].trials *= p.keep
	}
	l.hits, l.guessesMade, l.used = l.hits*p.keep, l.guessesMade*p.keep, l.used*p.keep
	l.used += float64(distinct)
	p.used += int64(distinct)
	for _, e := range l.named {
		came := 0.0
		if l.actual[e] {
			came = 1
		}
		c := &l.cells[l.cell(e)]
		c.hits += came
		c.trials++
		if l.guessed[e] {
			l.guessesMade++
			l.hits += came
			p.named++
			p.came += int64(came)
		}
	}
	for i := range l.cells { // an empty cell returns to its prior, so that it is tried again
		if c := &l.cells[i]; c.trials < 1 {
			*c = p.prior(i)
		}
	}
}

// Outcome books what became of bytes that were read ahead, or were to be, for a layer.
func (p *Predictor) Outcome(layer int, o Outcome, bytes int64) {
	p.outcome[o] += bytes
	b := float64(bytes)
	for _, a := range []*account{&p.layers[layer].account, &p.total} {
		switch o {
		case Useful:
			a.saved += b
		case Late:
			a.saved += lateCredit * b
		case Wasted:
			a.lost += p.o.WasteCost * b
		default:
			continue
		}
		a.groups++
	}
}

// tick judges an account once a pass, and forgets old evidence.
func (a *account) tick(evidence int) {
	a.since++
	if a.off {
		if a.since >= a.pause {
			*a = account{pause: a.pause}
		}
		return
	}
	if a.groups < float64(evidence) {
		return
	}
	if a.saved < a.lost {
		a.off, a.since = true, 0
		a.pause = min(2*a.pause, pauseMax)
		return
	}
	a.pause = pauseMin
	// Old evidence counts for half whenever twice what a verdict takes has come together.
	if a.groups >= 2*float64(evidence) {
		a.saved, a.lost, a.groups = a.saved/2, a.lost/2, a.groups/2
	}
}

// PredictorReport is the books.
type PredictorReport struct {
	IssuedBytes    int64 `json:"issued_bytes"` // useful, late and wasted
	UsefulBytes    int64 `json:"useful_bytes"`
	LateBytes      int64 `json:"late_bytes"`
	WastedBytes    int64 `json:"wasted_bytes"`
	CancelledBytes int64 `json:"cancelled_bytes"`
	On             bool  `json:"on"` // prediction as a whole
	// Guesses that were thought worth it, acted on or not, how many of them came true, and the experts
	// that were used in layers with a guess: the counts behind precision and recall.
	Guessed int64 `json:"guessed"`
	Came    int64 `json:"came"`
	Used    int64 `json:"used"`
	// Per layer, with forgetting: the share of guesses that came true, the share of used experts
	// that were guessed, and whether the layer is switched on. NaN-free: 0 where nothing was
	// guessed.
	Precision []float64 `json:"precision"`
	Recall    []float64 `json:"recall"`
	LayerOn   []bool    `json:"layer_on"`
}

// Counts are the totals of Report; it allocates nothing.
func (p *Predictor) Counts() (guessed, came, used int64) { return p.named, p.came, p.used }

// Report returns the books; it allocates.
func (p *Predictor) Report() PredictorReport {
	r := PredictorReport{UsefulBytes: p.outcome[Useful], LateBytes: p.outcome[Late],
		WastedBytes: p.outcome[Wasted], CancelledBytes: p.outcome[Cancelled], On: !p.total.off,
		Guessed: p.named, Came: p.came, Used: p.used}
	r.IssuedBytes = r.UsefulBytes + r.LateBytes + r.WastedBytes
	for i := range p.layers {
		l := &p.layers[i]
		r.Precision = append(r.Precision, l.hits/max(l.guessesMade, 1e-9))
		r.Recall = append(r.Recall, l.hits/max(l.used, 1e-9))
		r.LayerOn = append(r.LayerOn, !l.account.off)
	}
	return r
}
