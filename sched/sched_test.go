package sched

import "testing"

// Every budget from the least on fits and is not exceeded; dense weights come before the caches.
func TestPlaceNeverExceedsItsBudget(t *testing.T) {
	for _, layers := range []int64{0, 1, 2, 7} {
		dense := int64(0)
		for budget := int64(0); budget < 4000; budget += 7 {
			d := Demand{Budget: budget, Fixed: 300, KVToken: 3, KVTokensMin: 10, KVTokensWant: 200,
				Section: 50, Groups: 40, DenseSection: 60, Layers: layers}
			p := Place(d)
			if p.Least != 300+30+2*50+60*min(DenseRing, layers) || p.Fits != (budget >= p.Least) {
				t.Fatalf("budget %d: %+v", budget, p)
			}
			if !p.Fits {
				continue
			}
			used := d.Fixed + p.KVTokens*d.KVToken + (p.Ring+p.Cache)*d.Section + p.Dense*60
			if used > budget || p.Ring < 2 || p.KVTokens < 10 || p.Ring+p.Cache > 40 {
				t.Fatalf("budget %d: used %d, %+v", budget, used, p)
			}
			if p.Dense < min(DenseRing, layers) || p.Dense < dense || p.Dense > layers ||
				p.Dense < layers && (p.Cache > 1 || p.KVTokens > 20+10) {
				t.Fatalf("budget %d, %d layers, %d before: %+v", budget, layers, dense, p)
			}
			dense = p.Dense
		}
		if dense != layers {
			t.Errorf("%d of %d layers stay at the end", dense, layers)
		}
	}
}

// The host keeps dense weights only where the device has no room for them, and experts with the rest.
func TestPlaceHostNeverExceedsItsBudget(t *testing.T) {
	for _, streams := range []bool{false, true} {
		d := HostDemand{Fixed: 100, Section: 50, Groups: 40, DenseSection: 60, Layers: 9,
			DenseStreams: streams}
		for d.Budget = 0; d.Budget < 4000; d.Budget += 7 {
			p := PlaceHost(d)
			if p.Least != 100+HostRing*50+DenseRing*60 || p.Fits != (d.Budget >= p.Least) {
				t.Fatalf("budget %d: %+v", d.Budget, p)
			}
			if used := 100 + p.Sections*50 + p.Dense*60; p.Fits && (used > d.Budget ||
				p.Sections < HostRing || p.Sections > 40 || p.Dense < DenseRing || p.Dense > 9) {
				t.Fatalf("budget %d: used %d, %+v", d.Budget, used, p)
			}
			if p.Fits && !streams && p.Dense != DenseRing {
				t.Fatalf("budget %d: %+v keeps what the device has", d.Budget, p)
			}
		}
		if p := PlaceHost(d); streams && p.Dense != 9 || p.Sections != 40 {
			t.Errorf("with room for all: %+v", p)
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
