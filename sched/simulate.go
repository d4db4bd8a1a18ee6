package sched

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Optimum is the simulator's name for Belady's policy.
const Optimum = "belady"

// SimulateOptions say what a trace is replayed against. Rates of zero cost nothing.
type SimulateOptions struct {
	Policy string // one of PolicyNames, Optimum, or ""
	Places int    // groups that the cache keeps
	Ring   int    // sections beside it, in which a group stays until the hand comes by; at least 1
	// Predict reads guesses ahead, from what the trace says the next router was thought to choose,
	// into the ring, of which RingForDemand sections are always left to demand: it takes a ring of 3
	// or more.
	Predict   bool
	Predictor PredictorOptions // Layers, Experts and Ranks are set from the trace
	// Adapt tells the predictor after each pass what share of it was waiting, as the engine does where
	// reading ahead is its own choice.
	Adapt bool
	// Counts is the static policy's profile; nil: the trace's own, which is hindsight.
	Counts []uint32
	Skip   int // passes at the beginning that fill the cache and are not counted
	// NoSweep keeps passes of many rows in the latency regime too; see SwitchRows.
	NoSweep bool

	Bandwidth float64 // of the disk, bytes a second
	Latency   float64 // of a read, seconds
	Depth     int     // pieces being read at a time; 0: 8
	// Pieces is how many a group is read in: those under way share the bandwidth. 0: a group is one, and
	// its bytes follow those of the groups before it.
	Pieces int
	// GroupBytes is what reading a group moves, with what surrounds it on disk; 0: its own bytes.
	GroupBytes int64

	// Recorded takes the arithmetic from the times in the trace, in place of the three below.
	Recorded     bool
	PassSeconds  float64 // arithmetic of a pass that is not experts, whatever its rows
	GroupSeconds float64 // of touching an expert's weights
	RowSeconds   float64 // of one row in one expert
}

// WasteNothing is the predictor's WasteCost where every guess is read, whatever it costs.
const WasteNothing = 1e-9

// Prefetch sets reading ahead as the engine does it.
func (o *SimulateOptions) Prefetch(p Prefetch) {
	o.Predict, o.Adapt, o.Predictor.WasteCost = p != PrefetchOff, p == PrefetchAuto, 0
	if p == PrefetchOn {
		o.Predictor.WasteCost = WasteNothing
	}
}

// SimulateResult is what a replay gives. Seconds and tokens/s are 0 where every rate is.
type SimulateResult struct {
	Policy      string `json:"policy"`
	Places      int    `json:"places"`
	Ring        int    `json:"ring"`
	Groups      int    `json:"groups"`
	Predict     bool   `json:"predict"`
	Passes      int    `json:"passes"`
	SweepPasses int    `json:"sweep_passes"` // of them, in the throughput regime
	Tokens      int64  `json:"tokens"`
	Uses        int64  `json:"uses"` // groups wanted, each once a layer and pass
	// Ready counts groups in memory when they were wanted, and HitRate is their share, as in the
	// engine's figures. Hits are those of them that stayed from an earlier use, CacheRate their share:
	// the two differ by what was read ahead in time.
	Ready            int64   `json:"ready"`
	HitRate          float64 `json:"hit_rate"`
	Hits             int64   `json:"hits"`
	CacheRate        float64 `json:"cache_rate"`
	Late             int64   `json:"late"` // being read ahead when they were wanted
	BytesRead        int64   `json:"bytes_read"`
	BytesPerToken    float64 `json:"bytes_per_token"`
	Seconds          float64 `json:"seconds"`
	WaitSeconds      float64 `json:"wait_seconds"` // for weights
	TokensPerS       float64 `json:"tokens_per_s"`
	DecodeTokensPerS float64 `json:"decode_tokens_per_s"` // of the passes with a row a sequence
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
// seconds, by the rules of the engine's tiers. Passes of SwitchRows rows or more run in the throughput
// regime: each layer's router is not waited for to read all of the next one. The disk serves one byte
// stream at Bandwidth, with Depth pieces under way; a layer computes what is there while it reads what
// is not, in the order of arrival. It is deterministic.
func Simulate(t *Trace, o SimulateOptions) (SimulateResult, error) {
	s, err := newSimulation(t, o)
	if err != nil {
		return SimulateResult{}, err
	}
	first := int32(0)
	for i := range t.passes {
		if i == s.o.Skip {
			s.restart()
		}
		s.weather(i)
		if err := s.pass(&t.passes[i], t.layers[first:t.passes[i].end]); err != nil {
			return SimulateResult{}, err
		}
		first = t.passes[i].end
	}
	return s.result(), nil
}

// simulation is the state of a replay. The time is the tier's.
type simulation struct {
	*tier
	t         *Trace
	o         SimulateOptions
	r         SimulateResult
	predictor *Predictor
	start     float64
	began0    int64 // reads before counting began
	regime    Regime
	gap       float64
	latency   float64 // as the recording run's reads were, with each; see Trace.fit
	each      float64
	decoded   int64
	decode    float64 // seconds of passes with a row a sequence
	distinct  []bool  // scratch: candidates of the next router
	groups    []int
	chances   []float64
	experts32 []int32

	named, namedHit, namedUsed int64 // of the router's candidates
	made, madeHit, madeUsed    int64 // of the predictor's guesses
	guesses                    []Guess
	guessLayer                 int32
	guessNamed                 []int32
}

func newSimulation(t *Trace, o SimulateOptions) (*simulation, error) {
	o.Ring, o.Depth = max(o.Ring, 1), cmp.Or(o.Depth, depthDefault)
	o.GroupBytes = cmp.Or(o.GroupBytes, t.Shape.GroupBytes)
	groups := t.Groups()
	if o.Places < 0 || o.Places > groups || o.Ring > groups || o.Depth < 0 || o.Skip < 0 ||
		o.Pieces < 0 || o.GroupBytes < 0 ||
		o.Bandwidth < 0 || o.Latency < 0 || o.PassSeconds < 0 || o.GroupSeconds < 0 ||
		o.RowSeconds < 0 {
		return nil, fmt.Errorf("simulate: options out of range for %d groups: %+v", groups, o)
	}
	if o.Predict && o.Ring <= RingForDemand {
		return nil, fmt.Errorf("simulate: prediction needs a ring of %d sections or more, since %d are "+
			"left to demand; the ring has %d", RingForDemand+1, RingForDemand, o.Ring)
	}
	s := &simulation{t: t, o: o, distinct: make([]bool, t.Shape.Experts), guessLayer: -1}
	policy, err := s.newPolicy(groups)
	if err != nil {
		return nil, err
	}
	moored := o.Places
	switch o.Policy {
	case "clock":
		moored = 0
	case Optimum: // evicts what is used last again, wherever it is: no place is the hand's
		moored += o.Ring
	}
	s.tier = newTier(groups, t.Shape.Experts, o.Places+o.Ring, moored, policy)
	s.places.unheld = o.Policy == Optimum
	if o.Pieces > 0 {
		s.disk = newShared(o, o.GroupBytes)
	} else {
		s.disk = &disk{bandwidth: o.Bandwidth, latency: o.Latency, bytes: o.GroupBytes,
			depth: o.Depth}
	}
	s.tier.outcome = func(layer int, outcome Outcome) {
		if o.Predict {
			s.predictor.Outcome(layer, outcome, o.GroupBytes)
		}
	}
	s.o.Predictor.Layers, s.o.Predictor.Experts, s.o.Predictor.Ranks = t.Shape.Layers, t.Shape.Experts,
		t.Shape.TopK
	s.predictor = NewPredictor(s.o.Predictor)
	if o.Recorded {
		s.gap = seconds(t.gap())
		s.latency, s.each = t.fit()
	}
	return s, nil
}

func (s *simulation) newPolicy(groups int) (Policy, error) {
	if s.o.Policy == Optimum {
		return newOptimum(s.t.uses, groups), nil
	}
	counts, layerOf := s.o.Counts, make([]int32, groups)
	for g := range layerOf {
		layerOf[g] = int32(g / s.t.Shape.Experts)
	}
	if counts == nil {
		counts = s.t.Counts()
	}
	return PolicyOptions{Groups: groups, LayerOf: layerOf, Places: s.o.Places,
		Counts: counts}.New(s.o.Policy)
}

// weather makes the disk as slow as it was in the recorded pass.
func (s *simulation) weather(pass int) {
	if disk, ok := s.disk.(*shared); ok && s.o.Recorded {
		disk.slow = s.t.slowness(pass, s.latency, s.each)
	}
}

// restart begins to count.
func (s *simulation) restart() {
	s.r, s.start, s.began0 = SimulateResult{}, s.now, s.began
	s.hits, s.ready, s.late, s.decoded, s.decode = 0, 0, 0, 0, 0
	s.named, s.namedHit, s.namedUsed, s.made, s.madeHit, s.madeUsed = 0, 0, 0, 0, 0, 0
	s.predictor.outcome = [outcomes]int64{}
}

// pass replays a pass: what is outside of its layers, half of which comes before them, and the layers.
func (s *simulation) pass(p *tracedPass, layers []tracedLayer) error {
	s.r.Passes++
	s.r.Tokens += int64(p.rows)
	s.regime = RegimeOf(int(p.rows), s.t.Shape.Experts, s.t.Shape.TopK)
	if s.o.NoSweep {
		s.regime = Latency
	}
	if s.regime == Throughput {
		s.r.SweepPasses++
	}
	gapEnd := s.now + s.gap
	outside := 0.0
	if s.o.Recorded {
		outside = seconds(p.figures.Outside)
	}
	waited, begun := s.r.WaitSeconds, s.now
	s.advance(gapEnd + outside/2)
	for i := range layers {
		s.advance(s.now + s.before(&layers[i], len(layers)))
		if err := s.layer(&layers[i]); err != nil {
			return err
		}
	}
	s.advance(s.now + outside/2)
	if s.o.Predict && s.o.Adapt {
		s.predictor.Passed(s.r.WaitSeconds-waited, s.now-gapEnd)
	}
	if p.decode {
		s.decoded, s.decode = s.decoded+int64(p.rows), s.decode+s.now-begun
	}
	return nil
}

// before is the time until a layer's router has spoken.
func (s *simulation) before(l *tracedLayer, layers int) float64 {
	if s.o.Recorded {
		return seconds(l.figures.Before)
	}
	return s.o.PassSeconds / float64(layers)
}

// work is the time that one of a layer's experts takes.
func (s *simulation) work(l *tracedLayer, uses int) float64 {
	if s.o.Recorded {
		return seconds(l.figures.Experts) / float64(uses)
	}
	return s.o.GroupSeconds + float64(l.slots)/float64(uses)*s.o.RowSeconds
}

// layer replays one layer: the router has just spoken.
func (s *simulation) layer(l *tracedLayer) error {
	uses := s.t.uses[l.usesAt:l.usesEnd]
	work := s.work(l, len(uses))
	s.r.Uses += int64(len(uses))
	if s.regime == Latency {
		s.judge(l, uses)
	}
	s.acquire(int(l.layer), uses)
	s.foresee(l)
	for {
		if n := s.take(); n > 0 {
			s.advance(s.now + float64(n)*work)
		}
		if len(s.pending) == 0 {
			return nil
		}
		s.retire()
		if slices.ContainsFunc(s.pending, func(g int32) bool { return s.here(int(g)) }) {
			continue
		}
		end, ok := s.disk.next()
		if !ok {
			return errors.New("simulate: nothing is on its way, and a layer waits")
		}
		s.r.WaitSeconds += max(end-s.now, 0)
		s.advance(max(end, s.now))
	}
}

// judge compares what was thought with what is.
func (s *simulation) judge(l *tracedLayer, uses []int32) {
	s.experts32 = s.experts32[:0]
	for _, g := range uses {
		s.experts32 = append(s.experts32, g%int32(s.t.Shape.Experts))
	}
	if s.guessLayer == l.layer {
		s.score(len(uses))
	}
	s.guessLayer = -1
}

// score counts how many of the guesses for a layer came true.
func (s *simulation) score(uses int) {
	clear(s.distinct)
	for _, e := range s.experts32 {
		s.distinct[e] = true
	}
	for _, g := range s.guesses {
		s.made++
		if s.distinct[g.Expert] {
			s.madeHit++
		}
	}
	s.madeUsed += int64(uses)
	if len(s.guessNamed) == 0 {
		return
	}
	s.namedUsed += int64(uses)
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

// foresee names what the next layer will want, as forward.ahead does: all of it in the throughput
// regime, a guess in the other.
func (s *simulation) foresee(l *tracedLayer) {
	shape := s.t.Shape
	s.groups, s.chances = s.groups[:0], s.chances[:0]
	if s.regime == Throughput {
		after := (int(l.layer) + 1) % shape.Layers
		for e := range shape.Experts {
			s.groups = append(s.groups, after*shape.Experts+e)
		}
		s.want(s.groups, ClassCertain, int64(l.layer)+1, nil)
		return
	}
	s.predictor.Observe(int(l.layer), s.experts32)
	next := int(l.layer) + 1
	if next >= shape.Layers {
		return
	}
	s.guessNamed = s.t.named[l.named:l.namedEnd]
	s.guesses = append(s.guesses[:0], s.predictor.Propose(next, s.guessNamed)...)
	s.guessLayer = int32(next)
	if !s.o.Predict {
		return
	}
	for _, g := range s.guesses {
		s.groups = append(s.groups, next*shape.Experts+g.Expert)
		s.chances = append(s.chances, g.Probability)
	}
	s.want(s.groups, ClassPredicted, int64(next), s.chances)
}

func (s *simulation) result() SimulateResult {
	r := s.r
	r.Policy, r.Places, r.Ring, r.Groups = s.o.Policy, s.o.Places, s.o.Ring, s.t.Groups()
	r.Predict = s.o.Predict
	r.Hits, r.Ready, r.Late = s.hits, s.tier.ready, s.late
	r.BytesRead = (s.began - s.began0) * s.o.GroupBytes
	r.Seconds = s.now - s.start
	r.HitRate, r.CacheRate = share(r.Ready, r.Uses), share(r.Hits, r.Uses)
	r.BytesPerToken = share(r.BytesRead, r.Tokens)
	r.TokensPerS = rate(r.Tokens, r.Seconds)
	r.DecodeTokensPerS = rate(s.decoded, s.decode)
	r.RouterPrecision, r.RouterRecall = share(s.namedHit, s.named), share(s.namedHit, s.namedUsed)
	r.GuessPrecision, r.GuessRecall = share(s.madeHit, s.made), share(s.madeHit, s.madeUsed)
	if s.o.Predict {
		report := s.predictor.Report()
		r.Predictor = &report
	}
	return r
}
