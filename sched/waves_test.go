package sched

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// yardstick is the 8 GiB model of the benchmarks in a quarter of its size, in round figures.
func yardstick() WaveModel {
	return WaveModel{Layers: 24, Experts: 128, TopK: 8, GroupBytes: 2_654_208, ResidentGroups: 400,
		Bandwidth: 1.5e9, PassSeconds: 0.02, GroupSeconds: 5e-5, DecodeRowSeconds: 0.009,
		PrefillRowSeconds: 0.009, AttendSeconds: 1e-7, KVTokens: 32768, KVTokenBytes: 49152,
		KVPageTokens: 16, RowsMax: 1024, SequencesMax: 256}
}

func randomJobs(rng *rand.Rand, n int) []Job {
	jobs := make([]Job, n)
	for i := range jobs {
		jobs[i] = Job{Prompt: 1 + rng.IntN(300), MaxNew: rng.IntN(100)}
		if rng.IntN(2) == 0 {
			jobs[i].Expect = rng.IntN(jobs[i].MaxNew + 1)
		}
	}
	return jobs
}

// Every pass stays within rows, sequences and KV memory, and every job is computed to its end.
func TestWavesKeepTheirBoundsAndFinishEveryJob(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := yardstick()
		m.RowsMax, m.SequencesMax = 1+rng.IntN([]int{20, 500}[seed/2%2]), 1+rng.IntN(60)
		m.KVTokens, m.Optimistic = int64(rng.IntN(4000)), seed%2 == 0
		m.PrefillBefore, m.InOrder = rng.IntN(2) == 0, rng.IntN(2) == 0
		jobs := randomJobs(rng, 80)
		f := forecaster{m: m}
		f.queue(jobs)
		var wanted, prompts, got int64
		for _, j := range f.s.Waiting {
			wanted += int64(j.expect())
			prompts += int64(j.Prompt)
		}
		for len(f.s.Active)+len(f.s.Waiting) > 0 {
			f.m.Next(f.s, &f.w)
			w := &f.w
			if n := w.Decode + w.Prefill; n > m.RowsMax {
				t.Fatalf("seed %d: %d rows of %d", seed, n, m.RowsMax)
			}
			if n := len(f.s.Active) + len(w.Admit) - len(w.Preempt); n > m.SequencesMax {
				t.Fatalf("seed %d: %d sequences of %d", seed, n, m.SequencesMax)
			}
			if w.Decode+w.Prefill == 0 {
				t.Fatalf("seed %d: nothing goes on: %+v", seed, f.s)
			}
			f.count()
			f.advance()
			if f.r.KVTokensPeak > m.KVTokens {
				t.Fatalf("seed %d: %d KV tokens of %d", seed, f.r.KVTokensPeak, m.KVTokens)
			}
		}
		got = f.r.DecodeTokens
		if got != wanted || f.r.PrefillTokens < prompts {
			t.Errorf("seed %d: %d tokens of %d, %d prompt tokens of %d", seed, got, wanted,
				f.r.PrefillTokens, prompts)
		}
		if !m.Optimistic && (f.r.Preemptions > 0 || f.r.PrefillTokens != prompts) {
			t.Errorf("seed %d: admission by worst case preempted %d", seed, f.r.Preemptions)
		}
	}
}

// Loading and computing meet at the balance: one row fewer computes shorter than it loads.
func TestBalancedRowsAreWhereLoadingMeetsComputing(t *testing.T) {
	m := yardstick()
	n := m.BalancedRows()
	compute := func(n int) float64 { return m.ComputeSeconds(0, n, 0) }
	load := func(n int) float64 { return float64(m.PassBytes(n)) / m.Bandwidth }
	if n < 2 || compute(n) < load(n) || compute(n-1) >= load(n-1) {
		t.Errorf("%d rows: computes %.3f s, loads %.3f s", n, compute(n), load(n))
	}
	m.Bandwidth = 1e6
	if n := m.BalancedRows(); n != m.RowsMax {
		t.Errorf("%d rows where the disk is hopeless, want all %d", n, m.RowsMax)
	}
}

// A batch's prompts are spread over its passes: it takes hardly longer than its busier half alone.
func TestForecastOverlapsPrefillWithDecode(t *testing.T) {
	m := yardstick()
	jobs := make([]Job, 512)
	for i := range jobs {
		jobs[i] = Job{Prompt: 128, MaxNew: 32}
	}
	r := Forecast(m, jobs)
	if r.DecodeTokens != 512*32 || r.PrefillTokens != 512*128 || r.Refused != 0 {
		t.Fatalf("%+v", r)
	}
	if roof := max(r.ComputeSecs, r.LoadSeconds); r.Seconds > 1.15*roof {
		t.Errorf("%.1f s, the busier of disk and cores alone %.1f s", r.Seconds, roof)
	}
	if n := r.Seconds; n > 1.003*firstSeconds(m, jobs) {
		t.Errorf("filled up %.1f s, prompts first %.1f s", n, firstSeconds(m, jobs))
	}
	m.KVTokens /= 8 // too few sequences to decode at the balance: prompts must last
	if n := Forecast(m, jobs).Seconds; n > 0.97*firstSeconds(m, jobs) {
		t.Errorf("few sequences: filled up %.1f s, prompts first %.1f s", n, firstSeconds(m, jobs))
	}
}

func firstSeconds(m WaveModel, jobs []Job) float64 {
	m.PrefillBefore = true
	return Forecast(m, jobs).Seconds
}

func TestForecastNamesTheBottleneck(t *testing.T) {
	jobs := make([]Job, 256)
	for i := range jobs {
		jobs[i] = Job{Prompt: 64, MaxNew: 64}
	}
	for want, change := range map[string]func(*WaveModel){
		"cores":  func(m *WaveModel) { m.Bandwidth *= 20 },
		"disk":   func(m *WaveModel) { m.Bandwidth /= 20 },
		"memory": func(m *WaveModel) { m.Bandwidth, m.KVTokens = m.Bandwidth/2, 4096 },
	} {
		m := yardstick()
		change(&m)
		r := Forecast(m, jobs)
		help := map[string]string{"cores": "cores", "disk": "disk", "memory": "RAM"}[want]
		if r.Bottleneck != want || r.Helps[0].What != help {
			t.Errorf("%s: bottleneck %s, helps %+v", want, r.Bottleneck, r.Helps)
		}
	}
}

// A long job that starts last would run alone at the end.
func TestLongestFirstShortensTheTail(t *testing.T) {
	m := yardstick()
	m.SequencesMax = 8
	var jobs []Job
	for range 64 {
		jobs = append(jobs, Job{Prompt: 16, MaxNew: 16})
	}
	jobs = append(jobs, Job{Prompt: 16, MaxNew: 120})
	longest := Forecast(m, jobs)
	m.InOrder = true
	if inOrder := Forecast(m, jobs); longest.Seconds >= inOrder.Seconds {
		t.Errorf("longest first %.1f s, in order %.1f s", longest.Seconds, inOrder.Seconds)
	}
	if o := LongestFirst(jobs); o[0] != 64 || o[1] != 0 || len(o) != 65 {
		t.Errorf("order %v", o)
	}
}

func TestDistinctCountsExperts(t *testing.T) {
	// By simulation: rows that each pick 8 different experts of 128 uniformly.
	rng := rand.New(rand.NewPCG(1, 1))
	for _, rows := range []int{1, 8, 32, 128} {
		sum := 0
		const trials = 200
		for range trials {
			var hit [128]bool
			for range rows {
				for _, e := range rng.Perm(128)[:8] {
					if !hit[e] {
						hit[e] = true
						sum++
					}
				}
			}
		}
		got, want := Distinct(128, 8, rows), float64(sum)/trials
		// The mean of 200 trials with a deviation below 4 is within 1 in all but 0.04 % of cases.
		if math.Abs(got-want) > 1 {
			t.Errorf("%d rows: %.2f, counted %.2f", rows, got, want)
		}
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	m := yardstick()
	s := WaveState{Waiting: make([]Job, 64)}
	for i := range s.Waiting {
		s.Waiting[i] = Job{Prompt: 40, MaxNew: 20}
	}
	s.Active = slices.Repeat([]Active{{Job: Job{Prompt: 40, MaxNew: 20}, Fed: 40, New: 3}}, 64)
	var w Wave
	m.Next(s, &w)
	if n := testing.AllocsPerRun(10, func() { m.Next(s, &w) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Where memory runs out, the sequences that are cheapest to compute again go, the latest first
// among equals, one stays, and nobody comes in.
func TestPreemptionTakesTheCheapest(t *testing.T) {
	m := yardstick()
	m.Optimistic, m.KVPageTokens = true, 1
	s := WaveState{Waiting: []Job{{Prompt: 1, MaxNew: 1}}}
	for _, fed := range []int{50, 10, 10, 40} {
		s.Active = append(s.Active, Active{Job: Job{Prompt: fed, MaxNew: 90, Expect: 1}, Fed: fed, New: 1})
	}
	var w Wave
	for tokens, want := range map[int64][]int{114: {}, 113: {2}, 102: {2, 1}, 91: {2, 1, 3},
		10: {2, 1, 3}} {
		m.KVTokens = tokens
		m.Next(s, &w)
		if !slices.Equal(w.Preempt, want) || w.Decode != 4-len(want) ||
			len(want) > 0 && len(w.Admit) > 0 {
			t.Errorf("%d tokens: %+v, want %v preempted", tokens, w, want)
		}
	}
}
