package sched

import "testing"

func TestPlaceNeverExceedsItsBudget(t *testing.T) {
	for budget := int64(0); budget < 4000; budget += 7 {
		d := Demand{Budget: budget, Fixed: 300, KVToken: 3, KVTokensMin: 10, KVTokensWant: 200,
			Section: 50, Groups: 40}
		p := Place(d)
		if p.Fits != (budget >= p.Least) {
			t.Fatalf("budget %d: %+v", budget, p)
		}
		used := d.Fixed + p.KVTokens*d.KVToken + (p.Ring+p.Cache)*d.Section
		if p.Fits && (used > budget || p.Ring < 2 || p.KVTokens < 10 || p.Ring+p.Cache > 40) {
			t.Fatalf("budget %d: used %d, %+v", budget, used, p)
		}
	}
}

func TestPolicies(t *testing.T) {
	f, err := NewPolicy("", 3)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewPolicy("lru", 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Policy{f, r} {
		p.Use(0)
		p.Use(0)
		p.Use(1)
	}
	if !f.Better(0, 1) || f.Better(1, 0) || f.Better(2, 2) || r.Better(0, 1) || !r.Better(1, 0) {
		t.Error("a policy ranks wrongly")
	}
	if _, err := NewPolicy("x", 1); err == nil {
		t.Error("policy x exists")
	}
}
