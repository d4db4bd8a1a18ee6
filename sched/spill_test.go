package sched

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Moving pays where it is quicker than computing again, and there is room.
func TestSpillsWhatIsSlowerToComputeAgain(t *testing.T) {
	m := yardstick()
	m.SpillTokens, m.SpillBandwidth = 1<<20, 1e9
	if !m.Spills(1) || !m.Spills(1<<20) {
		t.Error("a row takes 9 ms to compute, and 0.1 ms to move")
	}
	if m.Spills(1<<20+1) || m.Spills(0) {
		t.Error("more than there is room for, or nothing at all, was moved")
	}
	// A token's 49152 bytes, out and in, against 9 ms: they meet at 10.9 MB/s, but for whole pages.
	for bandwidth, want := range map[float64]bool{10.8e6: false, 11.1e6: true} {
		if m.SpillBandwidth = bandwidth; m.Spills(1024) != want {
			t.Errorf("at %.3g bytes/s: %v", bandwidth, !want)
		}
	}
	m.SpillBandwidth = 1e9
	m.PrefillRowSeconds, m.AttendSeconds = 0, 0
	if m.Spills(100) {
		t.Error("computing that costs nothing was avoided")
	}
}

// surprise is a job that knows what its jobs really generate, which the policy does not.
type surprise struct {
	m       WaveModel
	s       WaveState
	w       Wave
	active  []int // jobs
	waiting []int
	real    []int // tokens that a job generates
	made    []int
	limit   int
	ended   int
	used    int64 // tokens that ended jobs generated

	seconds, moving float64
	prefill         int
	preempted       int
	spilled, most   int64 // tokens
}

// believe is what the policy expects of a job, relative to what it had made when it joined.
func (p *surprise) believe(job, before int) int {
	return Expect(p.limit, p.made[job], p.ended, p.used, int64(p.ended*p.limit)) - before
}

// pass chooses a pass and applies it, and returns the tokens in the KV cache.
func (p *surprise) pass() (held int64) {
	for i, job := range p.active {
		a := &p.s.Active[i]
		a.Expect = p.believe(job, p.made[job]-a.New)
	}
	for i, job := range p.waiting {
		p.s.Waiting[i].Expect = p.believe(job, p.made[job])
	}
	p.m.Next(p.s, &p.w)
	p.seconds += p.w.Seconds
	p.prefill += p.w.Prefill
	var back []Job
	var backs []int
	for _, i := range p.w.Preempt {
		a := p.s.Active[i]
		m := p.m
		m.SpillTokens -= p.spilled
		spills := m.Spills(a.tokens())
		if spills {
			p.spilled += m.pages(a.tokens())
			p.most = max(p.most, p.spilled)
			p.moving += m.SpillSeconds(a.tokens())
		}
		back, backs = append(back, a.Preempted(spills)), append(backs, p.active[i])
		p.active[i] = -1
		p.preempted++
	}
	for range p.w.Admit {
		j := p.s.Waiting[0]
		p.spilled -= p.m.pages(j.Spilled)
		p.s.Active = append(p.s.Active, Active{Job: j, Fed: j.Spilled})
		p.active = append(p.active, p.waiting[0])
		p.s.Waiting, p.waiting = p.s.Waiting[1:], p.waiting[1:]
	}
	rows := append(slices.Clone(p.w.Rows), p.w.Admit...)
	p.s.Waiting, p.waiting = append(back, p.s.Waiting...), append(backs, p.waiting...)
	active, jobs := p.s.Active[:0], p.active[:0]
	for i, a := range p.s.Active {
		job := p.active[i]
		if job < 0 {
			continue
		}
		a.Fed = min(a.Fed+rows[i], a.Prompt)
		if rows[i] > 0 && a.Fed == a.Prompt {
			a.New++
			p.made[job]++
		}
		held += p.m.pages(a.tokens())
		if p.made[job] == p.real[job] {
			p.ended++
			p.used += int64(p.real[job])
			continue
		}
		active, jobs = append(active, a), append(jobs, job)
	}
	p.s.Active, p.active = active, jobs
	return held
}

// Where jobs generate a fraction of what they may, and some all of it, expecting the fraction has more
// of them in flight; moving those that must leave is quicker than computing them again; and neither
// memory is ever more than full.
func TestExpectingAndMovingShortenAJob(t *testing.T) {
	const jobs, limit = 256, 400
	run := func(optimistic bool, spill int64) *surprise {
		rng := rand.New(rand.NewPCG(4, 4))
		p := &surprise{m: yardstick(), limit: limit, made: make([]int, jobs)}
		p.m.KVTokens, p.m.Optimistic = 8192, optimistic
		p.m.SpillTokens, p.m.SpillBandwidth = spill, 1e9
		total := 0
		for i := range jobs {
			n := 10 + rng.IntN(60)
			if rng.IntN(6) == 0 {
				n = limit
			}
			p.real, p.waiting, total = append(p.real, n), append(p.waiting, i), total+n
			p.s.Waiting = append(p.s.Waiting, Job{Prompt: 100 + rng.IntN(60), MaxNew: limit})
		}
		for p.ended < jobs {
			if held := p.pass(); held > p.m.KVTokens || p.most > spill || p.w.Decode+p.w.Prefill == 0 {
				t.Fatalf("%d tokens held, %d moved out; %+v", held, p.spilled, p.w)
			}
		}
		if p.spilled != 0 {
			t.Errorf("%d tokens were never moved in", p.spilled)
		}
		p.seconds += p.moving
		return p
	}
	limits, again, few, moved := run(false, 0), run(true, 0), run(true, 1000), run(true, 1<<20)
	t.Logf("by limits %.0f s; computed again %.0f s, %d times; moved %.0f s, %d times, moving %.1f s",
		limits.seconds, again.seconds, again.preempted, moved.seconds, moved.preempted, moved.moving)
	if again.seconds > 0.9*limits.seconds || moved.seconds > again.seconds || moved.preempted == 0 ||
		few.most == 0 {
		t.Errorf("by limits %.0f s; computed again %.0f s; moved %.0f s, %d times", limits.seconds,
			again.seconds, moved.seconds, moved.preempted)
	}
	// One that is moved in feeds its last token as the rest of its prompt, and computes nothing again.
	if moved.prefill > limits.prefill+moved.preempted || again.prefill <= limits.prefill+again.preempted {
		t.Errorf("%d prompt rows; by limits %d; computed again %d", moved.prefill, limits.prefill,
			again.prefill)
	}
}

// What finished jobs used tells about the others, with a margin, within what is known of each.
func TestExpect(t *testing.T) {
	for _, c := range []struct {
		limit, made, finished int
		generated, allowed    int64
		want                  int
	}{
		{100, 0, 15, 150, 1500, 100}, // too few have finished
		{100, 0, 16, 160, 1600, 13},
		{100, 50, 16, 160, 1600, 51}, // it has made more already
		{100, 100, 16, 160, 1600, 100},
		{100, 0, 16, 1600, 1600, 100},
		{8, 0, 100, 10, 1000, 1},
		{100, 0, 16, 0, 0, 100}, // embeddings generate nothing
	} {
		if got := Expect(c.limit, c.made, c.finished, c.generated, c.allowed); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
