package invariants

import "testing"

func TestPoisonFillsOnlyInInvariantBuilds(t *testing.T) {
	for n := range 70 {
		b := make([]byte, n+1)
		Poison(b[:n])
		for i, v := range b {
			if want := On && i < n; (v == PoisonByte) != want {
				t.Fatalf("length %d, byte %d: %#x", n, i, v)
			}
		}
	}
}

func TestCloseCheckerPanicsOnSecondCloseInInvariantBuilds(t *testing.T) {
	var c CloseChecker
	c.AssertNotClosed()
	c.Close()
	for name, f := range map[string]func(){"close": c.Close, "use": c.AssertNotClosed} {
		if panics(f) != On {
			t.Errorf("%s after close: panics is %v, invariant build is %v", name, !On, On)
		}
	}
}

func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}
