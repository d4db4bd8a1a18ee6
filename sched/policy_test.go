package sched

import (
	"math/rand/v2"
	"testing"
)

// layered returns a policy over layers of experts each.
func layered(t *testing.T, name string, layers, experts int) Policy {
	t.Helper()
	o := PolicyOptions{Groups: layers * experts, LayerOf: make([]int32, layers*experts)}
	for g := range o.LayerOf {
		o.LayerOf[g] = int32(g / experts)
	}
	p, err := o.New(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPoliciesSayWhatTheyNeed(t *testing.T) {
	for _, name := range []string{"reuse", "stale", "static", "belady", "x"} {
		if _, err := NewPolicy(name, 3); err == nil {
			t.Errorf("policy %s works without more", name)
		}
	}
	if p, err := NewPolicy("", 3); err != nil {
		t.Error(err)
	} else if _, ok := p.(*lfu); !ok {
		t.Errorf("without layers the default is %T", p)
	}
	if p := layered(t, "", 2, 2); p == nil {
		t.Error("no default")
	} else if _, ok := p.(*reuse); !ok {
		t.Errorf("with layers the default is %T", p)
	}
}

// Of equals that stand nearer in the way of the pass, and of what was used and what was not.
func TestReuseRanksByTheNextUse(t *testing.T) {
	p := layered(t, "reuse", 3, 4)
	p.Use(0) // layer 0
	if !p.Better(0, 1) {
		t.Error("what was just used ranks below what never was")
	}
	p.Use(4) // layer 1
	if !p.Better(8, 5) || !p.Better(8, 1) || !p.Better(1, 5) {
		t.Error("of what was never used, the next layer's is not first, and this layer's last")
	}
	for range 50 { // group 0 in every pass, 1 in every second
		p.Use(0)
		p.Use(4)
		p.Use(0)
		p.Use(1)
		p.Use(4)
	}
	if !p.Better(0, 1) || !p.Better(1, 2) {
		t.Error("what is used more often ranks lower")
	}
}

// What predicts best gets the weight: short spans where experts stay for a few tokens, long ones
// where each has its share for ever.
func TestReuseLearnsTheSpanThatCounts(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 14))
	sticky := layered(t, "reuse", 1, 16).(*reuse)
	g := 0
	for range 20000 {
		if rng.IntN(4) == 0 {
			g = rng.IntN(16)
		}
		sticky.Use(g)
	}
	steady := layered(t, "reuse", 1, 16).(*reuse)
	for range 20000 {
		steady.Use(min(int(rng.ExpFloat64()*3), 15))
	}
	if w := sticky.weights; w[0] < 2*w[2] {
		t.Errorf("experts that stay: weights %.2f", w)
	}
	if w := steady.weights; w[2] < 2*w[0] {
		t.Errorf("experts with a share: weights %.2f", w)
	}
}

// What the pass is about to reach is worth most; of the rest what this pass used; the oldest least.
func TestStaleRanksByTheWayThroughTheLayers(t *testing.T) {
	p := layered(t, "stale", 3, 3)
	for _, g := range []int{0, 3, 6, 1, 4} { // two passes, the second in layer 1
		p.Use(g)
	}
	order := []int{6, 8, 4, 3, 5} // ahead and used, ahead and never, this pass, the last one, never
	for i, a := range order {
		for j, b := range order {
			if p.Better(a, b) != (i < j) {
				t.Errorf("%d better than %d: %v", a, b, p.Better(a, b))
			}
		}
	}
}

// The sketch never counts too little until it ages, ages by half, and touches no counter that is
// above the estimate.
func TestTinyLFUCountsAndForgets(t *testing.T) {
	p := newTinyLFU(PolicyOptions{Groups: 4000, Places: 100})
	rng, count := rand.New(rand.NewPCG(15, 15)), map[int]int{}
	for range p.sample - 1 {
		g := int(rng.ExpFloat64() * 300)
		p.Use(g)
		count[g]++
	}
	exact := 0
	for g, n := range count {
		if e := int(p.estimate(g)); e < min(n, sketchMost) {
			t.Fatalf("group %d: estimate %d of %d uses", g, e, n)
		} else if e == min(n, sketchMost) {
			exact++
		}
	}
	// 1000 uses in 4 rows of 512 counters; without conservative updates 83 % are exact.
	if exact < len(count)*90/100 {
		t.Errorf("%d of %d estimates are exact", exact, len(count))
	}
	before := p.estimate(0)
	p.Use(4000 - 1)
	if after := p.estimate(0); after != before/2 {
		t.Errorf("estimate %d, %d before ageing", after, before)
	}
}

// Counts are halved, so that a new favourite overtakes an old one in the end.
func TestLFUForgets(t *testing.T) {
	p := &lfu{counts: make([]uint32, 8)}
	for range 400 {
		p.Use(0)
	}
	n := 0
	for ; !p.Better(1, 0); n++ {
		p.Use(1)
	}
	if n > 64 {
		t.Errorf("it takes %d uses to overtake", n)
	}
}
