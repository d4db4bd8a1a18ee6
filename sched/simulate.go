package sched

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// Trace is a whole routing trace in memory, as the simulator wants it.
type Trace struct {
	Shape  TraceShape
	passes []tracedPass
	layers []tracedLayer
	uses   []int32 // groups, each once a layer and pass, in the order of their use
	named  []int32 // candidates that were predicted, (rows, topK), best first
	Tokens int64   // rows of all passes
}

type tracedPass struct{ rows, end int32 } // end of its layers

type tracedLayer struct {
	layer         int32
	rows          int32
	usesEnd       int32
	namedEnd      int32
	slots         int32 // rows*k
	usesAt, named int32
}

// usesMax bounds a trace in memory: 256 Mi entries, 1 GiB.
const usesMax = 1 << 28

// ReadTrace reads a trace to its end. One that was cut off gives what is there, and an error that
// wraps io.ErrUnexpectedEOF; other errors give no trace.
func ReadTrace(r io.Reader) (*Trace, error) {
	in, err := NewTraceReader(r)
	if err != nil {
		return nil, err
	}
	t := &Trace{Shape: in.Shape()}
	var p TracePass
	seen := make([]bool, t.Shape.Experts)
	for {
		if err := in.Next(&p); errors.Is(err, io.EOF) {
			return t, nil
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			return t, err
		} else if err != nil {
			return nil, err
		}
		t.add(&p, seen)
		if len(t.uses) > usesMax || len(t.named) > usesMax {
			return nil, fmt.Errorf("%w: more than %d uses", ErrTrace, usesMax)
		}
	}
}

// add appends a pass. Groups of a layer are used in ascending order, as the engine asks for them.
func (t *Trace) add(p *TracePass, seen []bool) {
	t.Tokens += int64(p.Rows)
	for i := range p.Layers {
		l := &p.Layers[i]
		for _, id := range l.IDs {
			seen[id] = true
		}
		at := len(t.uses)
		for e, is := range seen {
			if is {
				t.uses = append(t.uses, int32(l.Layer*t.Shape.Experts+e))
				seen[e] = false
			}
		}
		named := len(t.named)
		t.named = append(t.named, l.Predicted...)
		t.layers = append(t.layers, tracedLayer{layer: int32(l.Layer), rows: int32(p.Rows),
			slots: int32(len(l.IDs)), usesAt: int32(at), usesEnd: int32(len(t.uses)),
			named: int32(named), namedEnd: int32(len(t.named))})
	}
	t.passes = append(t.passes, tracedPass{rows: int32(p.Rows), end: int32(len(t.layers))})
}

// Passes counts the passes.
func (t *Trace) Passes() int { return len(t.passes) }

// Groups counts the groups of the model: layers times experts.
func (t *Trace) Groups() int { return t.Shape.Layers * t.Shape.Experts }

// Counts is how often each group was used: a profile for the static policy.
func (t *Trace) Counts() []uint32 {
	counts := make([]uint32, t.Groups())
	for _, g := range t.uses {
		counts[g]++
	}
	return counts
}

// Optimum is the simulator's name for Belady's policy.
const Optimum = "belady"

// SimulateOptions say what a trace is replayed against. Rates of zero cost nothing.
type SimulateOptions struct {
	Policy string // one of PolicyNames, Optimum, or ""
	Places int    // groups that the cache keeps
	Ring   int    // sections beside it, in which a group stays until the hand comes by; at least 1
	// Predict reads guesses ahead, from what the trace says the next router was thought to choose,
	// into the ring, of which two sections are always left to demand: it takes a ring of 3 or more.
	Predict   bool
	Predictor PredictorOptions // Layers, Experts and Ranks are set from the trace
	// Counts is the static policy's profile; nil: the trace's own, which is hindsight.
	Counts []uint32
	Skip   int // passes at the beginning that fill the cache and are not counted
	// NoSweep keeps passes of many rows in the latency regime too; see SwitchRows.
	NoSweep bool

	Bandwidth float64 // of the disk, bytes a second
	Latency   float64 // of a read, seconds
	Depth     int     // reads under way at a time; 0: 8

	PassSeconds  float64 // arithmetic of a pass that is not experts, whatever its rows
	GroupSeconds float64 // of touching an expert's weights
	RowSeconds   float64 // of one row in one expert
}

// SimulateResult is what a replay gives. Seconds and tokens/s are 0 where every rate is.
type SimulateResult struct {
	Policy        string  `json:"policy"`
	Places        int     `json:"places"`
	Groups        int     `json:"groups"`
	Predict       bool    `json:"predict"`
	Passes        int     `json:"passes"`
	SweepPasses   int     `json:"sweep_passes"` // of them, in the throughput regime
	Tokens        int64   `json:"tokens"`
	Uses          int64   `json:"uses"` // groups wanted, each once a layer and pass
	Hits          int64   `json:"hits"` // in the cache without prediction's help
	HitRate       float64 `json:"hit_rate"`
	Ready         int64   `json:"ready"` // hits, and guesses that were read in time
	Late          int64   `json:"late"`  // guesses under way when they were wanted
	BytesRead     int64   `json:"bytes_read"`
	BytesPerToken float64 `json:"bytes_per_token"`
	Seconds       float64 `json:"seconds"`
	WaitSeconds   float64 `json:"wait_seconds"` // for weights
	TokensPerS    float64 `json:"tokens_per_s"`
	// Precision and Recall of what the next router was thought to choose, over all layers, whether
	// it was acted on or not; and of the guesses that the predictor thought worth it.
	RouterPrecision float64          `json:"router_precision"`
	RouterRecall    float64          `json:"router_recall"`
	GuessPrecision  float64          `json:"guess_precision"`
	GuessRecall     float64          `json:"guess_recall"`
	Predictor       *PredictorReport `json:"predictor,omitempty"`
}

const depthDefault = 8

// Simulate replays a trace: caches, reads and arithmetic of every layer of every pass, in simulated
// seconds. Passes of SwitchRows rows or more run in the throughput regime. The disk serves one byte
// stream at Bandwidth, with Depth reads under way; a layer computes what is there while it reads
// what is not, in the order of arrival; guesses are read when no demand waits, until the next
// router speaks. It is deterministic.
func Simulate(t *Trace, o SimulateOptions) (SimulateResult, error) {
	s, err := newSimulation(t, o)
	if err != nil {
		return SimulateResult{}, err
	}
	first := int32(0)
	for i, p := range t.passes {
		if i == s.o.Skip {
			s.restart()
		}
		s.pass(t.layers[first:p.end], int(p.rows))
		first = p.end
	}
	return s.result(), nil
}

// simulation is the state of a replay.
type simulation struct {
	t         *Trace
	o         SimulateOptions
	r         SimulateResult
	cache     *places
	policy    Policy
	predictor *Predictor
	disk      disk
	sweep     sweeper
	now       float64 // the compute stream
	began     float64
	guessed   []guessed // in the cache for the next layer
	arrivals  []arrival
	missing   []int32
	distinct  []bool // scratch: candidates of the next router

	named, namedHit, namedUsed int64 // of the router's candidates
	made, madeHit, madeUsed    int64 // of the predictor's guesses
	guesses                    []Guess
	guessLayer                 int32
	guessNamed                 []int32
}

type guessed struct {
	group int32
	ready float64
}

type arrival struct {
	ready float64
	rows  float64
}

func newSimulation(t *Trace, o SimulateOptions) (*simulation, error) {
	o.Ring, o.Depth = max(o.Ring, 1), cmpOr(o.Depth, depthDefault)
	groups := t.Groups()
	if o.Places < 0 || o.Places > groups || o.Ring > groups || o.Depth < 0 || o.Skip < 0 ||
		o.Bandwidth < 0 || o.Latency < 0 || o.PassSeconds < 0 || o.GroupSeconds < 0 ||
		o.RowSeconds < 0 {
		return nil, fmt.Errorf("simulate: options out of range for %d groups: %+v", groups, o)
	}
	if o.Predict && o.Ring <= ringSectionsMin {
		return nil, fmt.Errorf("simulate: prediction needs a ring of %d sections or more, since %d are "+
			"left to demand; the ring has %d", ringSectionsMin+1, ringSectionsMin, o.Ring)
	}
	s := &simulation{t: t, o: o, distinct: make([]bool, t.Shape.Experts), guessLayer: -1}
	counts, layerOf := o.Counts, make([]int32, groups)
	for g := range layerOf {
		layerOf[g] = int32(g / t.Shape.Experts)
	}
	if counts == nil {
		counts = t.Counts()
	}
	if o.Policy == Optimum {
		s.policy = newOptimum(t.uses, groups)
	} else {
		p, err := PolicyOptions{Groups: groups, LayerOf: layerOf, Places: o.Places,
			Counts: counts}.New(o.Policy)
		if err != nil {
			return nil, err
		}
		s.policy = p
	}
	moored := o.Places
	switch o.Policy {
	case "clock":
		moored = 0
	case Optimum: // evicts what is used last again, wherever it is: no place is the hand's
		moored += o.Ring
	}
	s.cache = newPlaces(o.Places+o.Ring, moored, groups, s.policy)
	o.Predictor.Layers, o.Predictor.Experts, o.Predictor.Ranks = t.Shape.Layers, t.Shape.Experts,
		t.Shape.TopK
	s.predictor = NewPredictor(o.Predictor)
	s.sweep = sweeper{free: make([]float64, max(o.Ring, ringSectionsMin)),
		used: make([]bool, t.Shape.Experts)}
	s.disk = disk{bandwidth: o.Bandwidth, latency: o.Latency, done: make([]float64, o.Depth)}
	return s, nil
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

// restart begins to count.
func (s *simulation) restart() {
	s.r, s.began = SimulateResult{}, s.now
	s.named, s.namedHit, s.namedUsed, s.made, s.madeHit, s.madeUsed = 0, 0, 0, 0, 0, 0
	s.predictor.outcome = [outcomes]int64{}
}

func (s *simulation) pass(layers []tracedLayer, rows int) {
	s.r.Passes++
	s.r.Tokens += int64(rows)
	if RegimeOf(rows, s.t.Shape.Experts, s.t.Shape.TopK) == Throughput && !s.o.NoSweep {
		s.r.SweepPasses++
		s.sweepPass(layers)
		return
	}
	s.sweep.on = false
	for i := range layers {
		s.now += s.o.PassSeconds / float64(len(layers))
		s.layer(&layers[i])
	}
}

// layer replays one layer: the router has just spoken.
func (s *simulation) layer(l *tracedLayer) {
	uses := s.t.uses[l.usesAt:l.usesEnd]
	s.judge(l, uses)
	rows := float64(l.slots) / float64(len(uses))
	s.arrivals, s.missing = s.arrivals[:0], s.missing[:0]
	compute := s.now
	for _, g := range uses {
		s.r.Uses++
		s.policy.Use(int(g))
		switch ready, here := s.lookup(l, g); {
		case !here:
			s.missing = append(s.missing, g)
		case ready <= s.now:
			compute += s.o.GroupSeconds + rows*s.o.RowSeconds
		default:
			s.arrivals = append(s.arrivals, arrival{ready, rows})
		}
	}
	for _, g := range s.missing {
		s.r.BytesRead += s.t.Shape.GroupBytes
		s.arrivals = append(s.arrivals, arrival{s.disk.read(s.now, s.t.Shape.GroupBytes), rows})
		s.cache.load(int(g)) // it is let go as soon as it is computed, so that it is not pinned
	}
	s.unpin(l, uses)
	spoken := s.now
	for _, a := range s.arrivals {
		s.r.WaitSeconds += max(a.ready-compute, 0)
		compute = max(compute, a.ready) + s.o.GroupSeconds + a.rows*s.o.RowSeconds
	}
	s.now = compute
	s.ahead(l, spoken)
}

// lookup finds a group in memory or on its way.
func (s *simulation) lookup(l *tracedLayer, g int32) (ready float64, here bool) {
	i := s.cache.find(int(g))
	if i == absent {
		return 0, false
	}
	s.cache.sections[i].hot = true
	s.pin(i)
	at := slices.IndexFunc(s.guessed, func(x guessed) bool { return x.group == g })
	if at < 0 {
		s.r.Hits++
		s.r.Ready++
		return 0, true
	}
	ready = s.guessed[at].ready
	s.guessed = slices.Delete(s.guessed, at, at+1)
	outcome := Useful
	if ready > s.now {
		outcome = Late
		s.r.Late++
	} else {
		s.r.Ready++
	}
	s.predictor.Outcome(int(l.layer), outcome, s.t.Shape.GroupBytes)
	return ready, true
}

// pin keeps what a layer uses or is guessed to use until the layer is computed. The optimum is a
// bound from above, and is not held by it.
func (s *simulation) pin(section int) { s.cache.sections[section].pinned = s.o.Policy != Optimum }

// unpin lets go of the layer's groups; guesses that are left were wrong.
func (s *simulation) unpin(l *tracedLayer, uses []int32) {
	for _, g := range uses {
		if i := s.cache.find(int(g)); i != absent {
			s.cache.sections[i].pinned = false
		}
	}
	for _, x := range s.guessed {
		s.predictor.Outcome(int(l.layer), Wasted, s.t.Shape.GroupBytes)
		if i := s.cache.find(int(x.group)); i != absent {
			s.cache.sections[i].pinned = false
		}
	}
	s.guessed = s.guessed[:0]
}

// judge compares what was thought with what is.
func (s *simulation) judge(l *tracedLayer, uses []int32) {
	if s.guessLayer != l.layer {
		s.predictor.Observe(int(l.layer), s.ids(uses))
		return
	}
	s.guessLayer = -1
	clear(s.distinct)
	for _, g := range uses {
		s.distinct[int(g)%s.t.Shape.Experts] = true
	}
	for _, g := range s.guesses {
		s.made++
		if s.distinct[g.Expert] {
			s.madeHit++
		}
	}
	s.madeUsed += int64(len(uses))
	if len(s.guessNamed) > 0 {
		s.namedUsed += int64(len(uses))
		seen := s.guessNamed[:0:0]
		for _, e := range s.guessNamed {
			if slices.Contains(seen, e) {
				continue
			}
			seen = append(seen, e)
			s.named++
			if s.distinct[e] {
				s.namedHit++
			}
		}
	}
	s.predictor.Observe(int(l.layer), s.ids(uses))
}

// ids turns groups into experts of their layer.
func (s *simulation) ids(uses []int32) []int32 {
	out := make([]int32, len(uses))
	for i, g := range uses {
		out[i] = g % int32(s.t.Shape.Experts)
	}
	return out
}

// ahead guesses the next layer, and reads guesses from the moment at which no demand waits until
// the next router speaks.
func (s *simulation) ahead(l *tracedLayer, spoken float64) {
	next := int(l.layer) + 1
	if next >= s.t.Shape.Layers {
		return
	}
	s.guessNamed = s.t.named[l.named:l.namedEnd]
	s.guesses = append(s.guesses[:0], s.predictor.Propose(next, s.guessNamed)...)
	s.guessLayer = int32(next)
	if !s.o.Predict {
		return
	}
	until := s.now + s.o.PassSeconds/float64(s.t.Shape.Layers)
	for _, g := range s.guesses {
		group := next*s.t.Shape.Experts + g.Expert
		if i := s.cache.find(group); i != absent {
			continue
		}
		i := absent
		if s.disk.free(spoken) < until && len(s.guessed) < s.o.Ring-ringSectionsMin {
			i = s.cache.loadSpare(group)
		}
		if i == absent {
			s.predictor.Outcome(next, Cancelled, s.t.Shape.GroupBytes)
			continue
		}
		s.pin(i)
		s.r.BytesRead += s.t.Shape.GroupBytes
		s.guessed = append(s.guessed, guessed{int32(group),
			s.disk.read(spoken, s.t.Shape.GroupBytes)})
	}
}

func (s *simulation) result() SimulateResult {
	r := s.r
	r.Policy, r.Places, r.Groups = s.o.Policy, s.o.Places, s.t.Groups()
	r.Predict = s.o.Predict
	r.Seconds = s.now - s.began
	share := func(a, b int64) float64 { return float64(a) / float64(max(b, 1)) }
	r.HitRate = share(r.Hits, r.Uses)
	r.BytesPerToken = share(r.BytesRead, r.Tokens)
	if r.Seconds > 0 {
		r.TokensPerS = float64(r.Tokens) / r.Seconds
	}
	r.RouterPrecision, r.RouterRecall = share(s.namedHit, s.named), share(s.namedHit, s.namedUsed)
	r.GuessPrecision, r.GuessRecall = share(s.madeHit, s.made), share(s.madeHit, s.madeUsed)
	if s.o.Predict {
		report := s.predictor.Report()
		r.Predictor = &report
	}
	return r
}

// disk is a server of one byte stream with a number of reads under way.
type disk struct {
	bandwidth, latency float64
	last               float64   // end of the last read
	done               []float64 // ends of the last reads, a ring
	at                 int
}

// read returns when a read that is asked for now will have ended. It starts when one of the depth
// before it has ended, takes the latency, and its bytes follow those of the read before it.
func (d *disk) read(now float64, bytes int64) float64 {
	start := max(now, d.done[d.at])
	end := max(start+d.latency, d.last)
	if d.bandwidth > 0 {
		end += float64(bytes) / d.bandwidth
	}
	d.last = end
	d.done[d.at] = end
	d.at = (d.at + 1) % len(d.done)
	return end
}

// free is when everything asked for so far will have been read, if it is not yet.
func (d *disk) free(now float64) float64 { return max(now, d.last) }
