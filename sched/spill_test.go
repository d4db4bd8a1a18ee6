package sched

import (
	"math/rand/v2"
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

// Where requests generate a tenth of what they may, expecting that has more of them in flight, and
// moving those that must leave is quicker than computing them again.
func TestExpectingAndMovingShortenAJob(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	jobs := make([]Job, 256)
	for i := range jobs {
		jobs[i] = Job{Prompt: 100 + rng.IntN(60), MaxNew: 400, Expect: 20 + rng.IntN(60)}
		if i%8 == 0 { // these run to the end
			jobs[i].Expect = 400
		}
	}
	m := yardstick()
	m.KVTokens = 8192
	limits := Forecast(m, jobs)
	m.Optimistic = true
	again := Forecast(m, jobs)
	m.SpillTokens, m.SpillBandwidth = 1<<20, 1e9
	moved := Forecast(m, jobs)
	if again.Seconds > 0.8*limits.Seconds {
		t.Errorf("by limits %.1f s, by what is expected %.1f s", limits.Seconds, again.Seconds)
	}
	if moved.Preemptions > 0 && (moved.SpillSeconds <= 0 || moved.Seconds > again.Seconds) {
		t.Errorf("moved %.1f s, computed again %.1f s", moved.Seconds, again.Seconds)
	}
	if moved.DecodeTokens != limits.DecodeTokens || moved.PrefillTokens > again.PrefillTokens {
		t.Errorf("%+v, by limits %+v", moved, limits)
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
