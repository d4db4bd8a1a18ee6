package sched

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// world routes like a model: the router's candidate of rank r comes true with chance[r].
type world struct {
	rng    *rand.Rand
	chance []float64
}

// step returns candidates and what is used of 32 experts.
func (w *world) step() (router, actual []int32) {
	perm := w.rng.Perm(32)
	for r, c := range w.chance {
		router = append(router, int32(perm[r]))
		if w.rng.Float64() < c {
			actual = append(actual, int32(perm[r]))
		}
	}
	for i := len(w.chance); len(actual) < len(w.chance); i++ {
		actual = append(actual, int32(perm[i]))
	}
	return router, actual
}

// The probability of a guess is what was measured, and precision and recall come out as they are.
func TestPredictorLearnsWhatEachRankIsWorth(t *testing.T) {
	w := &world{rand.New(rand.NewPCG(6, 6)), []float64{0.95, 0.8, 0.6, 0.1}}
	p := NewPredictor(PredictorOptions{Layers: 1, Experts: 32, Ranks: 4})
	var last []Guess
	var router []int32
	hits, made, used := 0, 0, 0
	for i := range 3000 {
		var actual []int32
		router, actual = w.step()
		last = p.Propose(0, router)
		if i >= 1000 {
			made += len(last)
			used += len(actual)
			for _, g := range last {
				if slices.Contains(actual, int32(g.Expert)) {
					hits++
				}
			}
		}
		p.Observe(0, actual)
	}
	for i, want := range w.chance[:3] {
		// 256 remembered trials: a deviation of at most 0.5/sqrt(128), of which three are allowed.
		if d := math.Abs(last[i].Probability - want); last[i].Expert != int(router[i]) || d > 0.13 {
			t.Errorf("rank %d: %+v, want %.2f", i, last[i], want)
		}
	}
	if slices.ContainsFunc(last, func(g Guess) bool { return g.Expert == int(router[3]) }) {
		t.Error("a rank that comes once in ten is proposed")
	}
	r := p.Report()
	precision, recall := float64(hits)/float64(made), float64(hits)/float64(used)
	if math.Abs(r.Precision[0]-precision) > 0.1 || math.Abs(r.Recall[0]-recall) > 0.1 {
		t.Errorf("precision %.2f, recall %.2f; counted %.2f and %.2f", r.Precision[0], r.Recall[0],
			precision, recall)
	}
}

// Without a router's word the previous pass is guessed, if that is worth it.
func TestPredictorUsesThePreviousPass(t *testing.T) {
	p := NewPredictor(PredictorOptions{Layers: 2, Experts: 8, Ranks: 2})
	rng := rand.New(rand.NewPCG(7, 7))
	for range 200 {
		p.Propose(0, nil)
		p.Observe(0, []int32{3, 5})
		p.Propose(1, nil)
		p.Observe(1, []int32{rng.Int32N(8), rng.Int32N(8)})
	}
	got := p.Propose(0, nil)
	if len(got) != 2 || got[0].Expert != 3 || got[1].Expert != 5 || got[0].Probability < 0.9 {
		t.Errorf("%v", got)
	}
	if got := p.Propose(1, nil); len(got) > 0 {
		t.Errorf("where the choice is random: %v", got)
	}
}

// Prediction that loses more than it saves switches itself off, in its layer alone, tries again
// ever more seldom, and stays on once it pays.
func TestPredictorSwitchesItselfOff(t *testing.T) {
	p := NewPredictor(PredictorOptions{Layers: 2, Experts: 32, Ranks: 2})
	run := func(passes int, outcome [2]Outcome) (on [2]int) {
		w := &world{rand.New(rand.NewPCG(8, 8)), []float64{0.9, 0.9}}
		for range passes {
			for l := range 2 {
				router, actual := w.step()
				for range p.Propose(l, router) {
					p.Outcome(l, outcome[l], 100)
					on[l]++
				}
				p.Observe(l, actual)
			}
		}
		return on
	}
	if on := run(500, [2]Outcome{Useful, Late}); on[0] < 950 || on[1] < 950 {
		t.Errorf("what pays is on in %v of 1000 guesses", on)
	}
	on := run(2000, [2]Outcome{Useful, Wasted})
	if on[0] < 3500 || on[1] > 800 {
		t.Errorf("half of it wasted: %v of 4000 guesses", on)
	}
	first := run(4000, [2]Outcome{Wasted, Wasted})
	second := run(4000, [2]Outcome{Wasted, Wasted})
	if second[0] == 0 || second[0] > 300 || second[0] > first[0] {
		t.Errorf("all wasted: %v, then %v of 8000 guesses", first, second)
	}
	if r := p.Report(); r.UsefulBytes == 0 || r.WastedBytes == 0 || r.LateBytes == 0 ||
		r.IssuedBytes != r.UsefulBytes+r.LateBytes+r.WastedBytes {
		t.Errorf("%+v", r)
	}
	run(9000, [2]Outcome{Useful, Useful})
	if r := p.Report(); !r.On || !r.LayerOn[0] || !r.LayerOn[1] {
		t.Errorf("it pays again, and is off: %+v", r)
	}
}

func TestPredictorAllocatesNothing(t *testing.T) {
	p := NewPredictor(PredictorOptions{Layers: 1, Experts: 64, Ranks: 8})
	ids := []int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	if n := testing.AllocsPerRun(50, func() {
		for _, g := range p.Propose(0, ids) {
			p.Outcome(0, Outcome(g.Expert%3), 10)
		}
		p.Observe(0, ids[4:12])
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Many layers that each lose too little to be judged are judged together.
func TestPredictionAsAWholeIsSwitchedOff(t *testing.T) {
	p := NewPredictor(PredictorOptions{Layers: 64, Experts: 8, Ranks: 1})
	pass := func() (guesses int) {
		for l := 3; l < 64; l++ { // the first layers have no experts
			guesses += len(p.Propose(l, []int32{1}))
			p.Outcome(l, Wasted, 100)
			p.Observe(l, []int32{1})
		}
		return guesses
	}
	if pass() != 61 {
		t.Fatal("prediction does not begin switched on")
	}
	for range 6 {
		pass()
	}
	if r := p.Report(); pass() != 0 || r.On || !r.LayerOn[3] {
		t.Errorf("%+v", r)
	}
}

// What was learned long ago is forgotten, and tried again.
func TestPredictorForgets(t *testing.T) {
	p := NewPredictor(PredictorOptions{Layers: 1, Experts: 8, Ranks: 1})
	for range 50 {
		p.Propose(0, []int32{1})
		p.Observe(0, []int32{2})
	}
	proposed := func(g Guess) bool { return g.Expert == 1 }
	if got := p.Propose(0, []int32{1}); slices.ContainsFunc(got, proposed) {
		t.Errorf("never right, and proposed: %v", got)
	}
	for range 3000 {
		p.Propose(0, nil)
		p.Observe(0, []int32{2})
	}
	if got := p.Propose(0, []int32{1}); !slices.ContainsFunc(got, proposed) {
		t.Errorf("not tried again: %v", got)
	}
}
