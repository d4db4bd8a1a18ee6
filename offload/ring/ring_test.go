package ring

import (
	"math/rand/v2"
	"testing"
)

type counts []int

func (c counts) Use(g int)            { c[g]++ }
func (c counts) Better(a, b int) bool { return c[a] > c[b] }

// A leased section is never claimed, a group is in one section at most, and moored sections stay
// within their number, whatever the traffic.
func TestRandomTraffic(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		groups, sections := 1+rng.IntN(20), 1+rng.IntN(8)
		r := New(sections, rng.IntN(sections+1), groups, make(counts, groups))
		leased := map[int]int{} // section → group
		for range 500 {
			g := rng.IntN(groups)
			r.Use(g)
			i, ok := r.Find(g)
			if i == None {
				if i = r.Claim(g); i == None {
					if len(leased) < sections {
						t.Fatalf("seed %d: no section, %d of %d leased", seed, len(leased), sections)
					}
				} else if held, bad := leased[i]; bad {
					t.Fatalf("seed %d: section %d of group %d was claimed", seed, i, held)
				} else if r.Ready(i); r.moored > r.mooredMax {
					t.Fatalf("seed %d: %d moored", seed, r.moored)
				} else {
					ok = true
				}
			}
			if _, held := leased[i]; ok && !held && i != None {
				r.Lease(i)
				leased[i] = g
			}
			for i, g := range leased {
				if at, _ := r.Find(g); at != i {
					t.Fatalf("seed %d: group %d moved", seed, g)
				}
				if rng.IntN(2) == 0 {
					r.Release(i)
					delete(leased, i)
				}
			}
			if r.Leased() != len(leased) {
				t.Fatalf("seed %d: %d leases, want %d", seed, r.Leased(), len(leased))
			}
		}
	}
}

// Without reuse the hand goes round robin.
func TestRoundRobin(t *testing.T) {
	r := New(3, 0, 9, make(counts, 9))
	for g := range 9 {
		if i := r.Claim(g); i != g%3 {
			t.Fatalf("group %d in section %d", g, i)
		} else {
			r.Ready(i)
		}
	}
}
