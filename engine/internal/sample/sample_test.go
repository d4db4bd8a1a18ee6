package sample

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

func mustNew(t testing.TB, p Params) *Sampler {
	t.Helper()
	s, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSample(t testing.TB, s *Sampler, logits []float32, history ...int32) int32 {
	t.Helper()
	id, err := s.Sample(logits, history)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func randomLogits(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	logits := make([]float32, n)
	for i := range logits {
		logits[i] = float32(r.NormFloat64() * 2)
	}
	return logits
}

// goldenCase is a record of testdata/golden.json, made by testdata/make.py with transformers.
type goldenCase struct {
	Temperature   *float32  `json:"temperature"`
	TopK          int       `json:"top_k"`
	TopP          float32   `json:"top_p"`
	MinP          float32   `json:"min_p"`
	Penalty       float32   `json:"repetition_penalty"`
	Logits        []float32 `json:"logits"`
	History       []int32   `json:"history"`
	Probabilities []float64 `json:"probabilities"`
}

func (g goldenCase) params() Params {
	p := Params{Temperature: 1, TopK: g.TopK, TopP: g.TopP, MinP: g.MinP,
		RepetitionPenalty: g.Penalty}
	if g.Temperature != nil {
		p.Temperature = *g.Temperature
	}
	return p
}

func readGolden(t *testing.T) []goldenCase {
	t.Helper()
	b, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []goldenCase
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestDrawsFollowTransformers draws often and compares the counts with the probabilities that
// transformers computes: what it removes is never drawn, and the rest as often as it should.
func TestDrawsFollowTransformers(t *testing.T) {
	const draws = 25_000
	for i, g := range readGolden(t) {
		p := g.params()
		p.Seed = uint64(i)
		s := mustNew(t, p)
		counts := make([]int, len(g.Logits))
		for range draws {
			counts[mustSample(t, s, g.Logits, g.History...)]++
		}
		statistic, freedom := 0.0, -1.0
		rare, rareWant := 0, 0.0 // tokens too rare for the approximation are counted together
		for id, q := range g.Probabilities {
			want := q * draws
			switch {
			case q == 0 && counts[id] > 0:
				t.Errorf("case %d: token %d was drawn %d times and is excluded", i, id, counts[id])
			case want < 5:
				rare, rareWant = rare+counts[id], rareWant+want
			default:
				d := float64(counts[id]) - want
				statistic, freedom = statistic+d*d/want, freedom+1
			}
		}
		if rareWant >= 5 {
			d := float64(rare) - rareWant
			statistic, freedom = statistic+d*d/rareWant, freedom+1
		}
		// Pearson's statistic has mean freedom and variance 2 freedom; five deviations.
		if limit := freedom + 5*math.Sqrt(2*max(freedom, 1)); statistic > limit {
			t.Errorf("case %d: chi-square %.1f over %.1f, freedom %v", i, statistic, limit, freedom)
		}
	}
}

// TestProbabilitiesFollowTransformers compares the weights themselves.
func TestProbabilitiesFollowTransformers(t *testing.T) {
	for i, g := range readGolden(t) {
		s := mustNew(t, g.params())
		mustSample(t, s, g.Logits, g.History...)
		got := make([]float64, len(g.Logits))
		c, total := keptBySort(s.p, s.penalised(g.Logits, g.History))
		for _, d := range c {
			got[d.id] = d.weight / total
		}
		for id, want := range g.Probabilities {
			// transformers works in float32: scores of up to 20 have an error of 1e-6.
			if math.Abs(got[id]-want) > 1e-5*want {
				t.Errorf("case %d, token %d: %v, want %v", i, id, got[id], want)
			}
		}
	}
}

// keptBySort filters in the plainest way: sort everything, cut.
func keptBySort(p Params, c []candidate) (kept []candidate, total float64) {
	slices.SortFunc(c, func(a, b candidate) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	if p.TopK > 0 {
		c = c[:min(p.TopK, len(c))]
	}
	for i := range c {
		c[i].weight = math.Exp(float64(c[i].score-c[0].score) / float64(p.Temperature))
		total += c[i].weight
	}
	if p.TopP > 0 && p.TopP < 1 {
		mass, n, sum := float64(p.TopP)*total, 0, 0.0
		for n == 0 || n < len(c) && sum < mass {
			sum += c[n].weight
			n++
		}
		c = c[:n]
	}
	total = 0
	for _, d := range c {
		if d.weight >= float64(p.MinP) {
			kept, total = append(kept, d), total+d.weight
		}
	}
	return kept, total
}

func sortedIDs(c []candidate) []int32 {
	ids := make([]int32, len(c))
	for i, d := range c {
		ids[i] = d.id
	}
	slices.Sort(ids)
	return ids
}

// TestSelectionEqualsSort compares quickselect and its cousin with sorting, with many equal scores.
func TestSelectionEqualsSort(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 2000 {
		n := 1 + r.IntN(40)
		logits := make([]float32, n)
		for i := range logits {
			logits[i] = float32(r.IntN(8)) / 2
		}
		p := Params{Temperature: 1, TopK: 1 + r.IntN(n), TopP: r.Float32(), RepetitionPenalty: 1}
		s := mustNew(t, p)
		want, _ := keptBySort(p, s.penalised(logits, nil))
		wantIDs := sortedIDs(want)
		c := s.penalised(logits, nil)
		best := first(c)
		selectFirst(c, p.TopK)
		c = c[:p.TopK]
		total := weigh(c, best.score, 1)
		c, _ = nucleus(c, float64(p.TopP)*total)
		if got := sortedIDs(c); !slices.Equal(got, wantIDs) {
			t.Fatalf("%v with %+v: %v, want %v", logits, p, got, wantIDs)
		}
	}
}

func TestGreedyTakesTheLowestOfEquals(t *testing.T) {
	logits := []float32{1, 3, 2, 3, 3}
	for _, p := range []Params{{}, {RepetitionPenalty: 1.5}, {Temperature: 1, TopK: 1},
		{Temperature: 1e-30, TopP: 1e-9}} {
		if id := mustSample(t, mustNew(t, p), logits); id != 1 {
			t.Errorf("%+v: token %d, want 1", p, id)
		}
	}
}

func TestPenaltyLooksBackAtItsWindowOnly(t *testing.T) {
	logits := []float32{2, 1.9, -1}
	s := mustNew(t, Params{RepetitionPenalty: 2, RepetitionWindow: 2})
	for _, c := range []struct {
		history []int32
		want    int32
	}{{nil, 0}, {[]int32{0, 0}, 1}, {[]int32{0, 2, 2}, 0}, {[]int32{0, 1}, 0}, {[]int32{-1, 99}, 0}} {
		if id := mustSample(t, s, logits, c.history...); id != c.want {
			t.Errorf("after %v: token %d, want %d", c.history, id, c.want)
		}
	}
}

func TestSampleLeavesLogitsAlone(t *testing.T) {
	logits := randomLogits(1, 100)
	before := slices.Clone(logits)
	s := mustNew(t, Params{Temperature: 1, TopK: 50, TopP: 0.9, MinP: 0.01, RepetitionPenalty: 1.2})
	for range 10 {
		mustSample(t, s, logits, 1, 2, 3)
	}
	if !slices.Equal(logits, before) {
		t.Error("logits were modified")
	}
}

// TestDrawDependsOnSeedAndPositionOnly makes one sampler greedy half of the time by its logits.
func TestDrawDependsOnSeedAndPositionOnly(t *testing.T) {
	logits := randomLogits(5, 200)
	certain := make([]float32, 200)
	for i := range certain {
		certain[i] = float32(math.Inf(-1))
	}
	certain[7] = 0
	p := Params{Temperature: 1, Seed: 42}
	a, b := mustNew(t, p), mustNew(t, p)
	p.Seed = 43
	other := mustNew(t, p)
	differ := 0
	for i := range 100 {
		want := mustSample(t, a, logits)
		if i%2 == 0 {
			if id := mustSample(t, b, certain); id != 7 {
				t.Fatalf("the only possible token is 7, not %d", id)
			}
		} else if id := mustSample(t, b, logits); id != want {
			t.Fatalf("draw %d: token %d, want %d", i, id, want)
		}
		if mustSample(t, other, logits) != want {
			differ++
		}
	}
	if differ < 50 {
		t.Errorf("another seed gave another token only %d times of 100", differ)
	}
}

func TestLogitsThatCannotBeSampledFromAreErrors(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, logits := range [][]float32{{1, nan, 2}, {nan}, {0, inf}, {-inf, -inf}, {}} {
		for _, p := range []Params{{}, {Temperature: 1, TopK: 2, TopP: 0.5}} {
			if id, err := mustNew(t, p).Sample(logits, nil); !errors.Is(err, ErrLogits) {
				t.Errorf("%v: token %d, error %v", logits, id, err)
			}
		}
	}
	if id := mustSample(t, mustNew(t, Params{Temperature: 2}), []float32{-inf, -3, -inf}); id != 1 {
		t.Errorf("token %d, want the only possible one", id)
	}
	// The greatest and least numbers, with a temperature and a penalty that overflow naively.
	extreme := []float32{math.MaxFloat32, -math.MaxFloat32, math.MaxFloat32}
	p := Params{Temperature: math.SmallestNonzeroFloat32, RepetitionPenalty: 1e-3}
	if id := mustSample(t, mustNew(t, p), extreme, 1, 2); id == 1 {
		t.Error("the least likely token was chosen")
	}
}

func TestBadParametersAreErrors(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, p := range []Params{{Temperature: -1}, {Temperature: nan}, {Temperature: inf}, {TopK: -1},
		{TopP: 1.1}, {TopP: -0.1}, {TopP: nan}, {MinP: 2}, {MinP: nan}, {RepetitionPenalty: -1},
		{RepetitionPenalty: inf}, {RepetitionWindow: -1}, {RepetitionWindow: 1 << 30}} {
		if _, err := New(p); !errors.Is(err, ErrParams) {
			t.Errorf("%+v: error %v", p, err)
		}
	}
}

func TestLogProbAndTop(t *testing.T) {
	logits := []float32{0, float32(math.Log(2)), float32(math.Log(5)), float32(math.Log(2))}
	for id, want := range []float64{0.1, 0.2, 0.5, 0.2} {
		// Logits are rounded to float32: 24 bits.
		if got := math.Exp(LogProb(logits, int32(id))); math.Abs(got-want) > 1e-6 {
			t.Errorf("token %d: %v, want %v", id, got, want)
		}
	}
	var ids []int32
	for _, p := range Top(nil, logits, 3) {
		ids = append(ids, p.ID)
		if want := float32(LogProb(logits, p.ID)); p.LogProb != want {
			t.Errorf("token %d: %v, want %v", p.ID, p.LogProb, want)
		}
	}
	if !slices.Equal(ids, []int32{2, 1, 3}) {
		t.Errorf("order %v", ids)
	}
	if n := len(Top(nil, logits, 9)); n != 4 {
		t.Errorf("%d tokens of 4", n)
	}
	kept := []TokenProb{{9, 9}}
	if kept = Top(kept, logits, 1); len(kept) != 2 || kept[0] != (TokenProb{9, 9}) || kept[1].ID != 2 {
		t.Errorf("%v", kept)
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	logits := randomLogits(2, 5000)
	history := []int32{1, 2, 3}
	top := make([]TokenProb, 0, 8)
	for _, p := range []Params{{}, {Temperature: 1}, {Temperature: 0.8, TopK: 40, TopP: 0.9,
		MinP: 0.02, RepetitionPenalty: 1.1}} {
		s := mustNew(t, p)
		n := testing.AllocsPerRun(20, func() {
			mustSample(t, s, logits, history...)
			top = Top(top[:0], logits, 5)
		})
		if n != 0 {
			t.Errorf("%+v: %v allocations a token", p, n)
		}
	}
}

func BenchmarkSample(b *testing.B) {
	logits := randomLogits(2, 151936)
	for name, p := range map[string]Params{"greedy": {}, "plain": {Temperature: 1},
		"top-p": {Temperature: 0.8, TopP: 0.9},
		"all":   {Temperature: 0.8, TopK: 40, TopP: 0.9, MinP: 0.02, RepetitionPenalty: 1.1}} {
		b.Run(name, func(b *testing.B) {
			s := mustNew(b, p)
			for b.Loop() {
				mustSample(b, s, logits, 1, 2, 3)
			}
		})
	}
}
