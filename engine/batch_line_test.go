package engine

import (
	"math"
	"testing"
)

func TestLineIsThatOfThePasses(t *testing.T) {
	at := func(rows int) probed { return probed{rows: rows, compute: 0.5 + 0.005*float64(rows)} }
	full, half, decode := at(2048), at(1024), at(255)
	if pass, row := line(full, half, decode); math.Abs(pass-0.5) > 1e-9 || math.Abs(row-0.005) > 1e-12 {
		t.Errorf("%v s a pass, %v s a row", pass, row)
	}
	half.compute *= 1.7 // something else ran
	pass, row := line(full, half, decode)
	if s := pass + 1000*row; s < 5.5 || s > 5.5*1.35 {
		t.Errorf("a disturbed pass: %v s for 1000 rows, undisturbed 5.5 s", s)
	}
	full.compute = decode.compute / 2 // a line would fall
	if pass, row := line(full, decode); pass != 0 || row <= 0 {
		t.Errorf("%v s a pass, %v s a row", pass, row)
	}
	if pass, row := line(probed{}); pass != 0 || row != 0 {
		t.Errorf("nothing measured: %v, %v", pass, row)
	}
}
