package quant

import (
	"encoding/binary"
	"math"
)

// The IQ4 formats have sixteen values that lie closer near zero, times a scale. The search is
// that of encode_k.go: candidates, each refined by a least-squares fit to the codes that it
// gives.

// encodeIQ4NL: blocks of 32 with a half-precision scale.
func encodeIQ4NL(b []byte, x []float32) bool {
	if _, finite := largest(x); !finite {
		return false
	}
	fit := fitTable(x)
	if fit > scaleMax || fit < -scaleMax {
		return false
	}
	codeTable(b[2:18], x, putHalf(b, fit))
	return true
}

// encodeIQ4XS: eight sub-blocks of 32 with signed six-bit scales.
func encodeIQ4XS(b []byte, x []float32) bool {
	const limit = 32
	if _, finite := largest(x); !finite {
		return false
	}
	var fits [8]float64
	top := 0.0
	for j := range fits {
		fits[j] = fitTable(x[32*j : 32*j+32])
		top = max(top, math.Abs(fits[j]))
	}
	if top/(limit-1) > scaleMax {
		return false
	}
	clear(b[:8])
	d := putHalf(b, top/(limit-1))
	var high uint16
	for j := range fits {
		run := x[32*j : 32*j+32]
		scale := nearestTable(run, fits[j], d, limit)
		six := scale + limit
		b[4+j/2] |= byte(six&15) << (j % 2 * 4)
		high |= uint16(six>>4) << (2 * j)
		codeTable(b[8+16*j:][:16], run, d*float64(scale))
	}
	binary.LittleEndian.PutUint16(b[2:], high)
	return true
}

// fitTable finds the scale of one block of 32 as a real number, with the value of largest magnitude
// at either end of the table.
func fitTable(x []float32) float64 {
	extreme, _ := largest(x)
	if extreme == 0 {
		return 0
	}
	best, bestError := 0.0, math.Inf(1)
	for _, end := range [...]float32{kvaluesIQ4[0], kvaluesIQ4[15]} {
		for _, share := range stepCandidates {
			scale := float64(extreme) / float64(end) * share
			for range 2 {
				e, k2, xk := tryTable(x, scale)
				if e < bestError {
					best, bestError = scale, e
				}
				if xk == 0 { // no value of the table is 0, and k2 never
					break
				}
				scale = xk / k2
			}
		}
	}
	return best
}

// nearestTable is nearestSymmetric for the table.
func nearestTable(x []float32, fit, d float64, limit int) int {
	if d == 0 {
		return 0
	}
	best, bestError := 0, math.Inf(1)
	middle := int(math.RoundToEven(quantise(fit/d, float64(1-limit), float64(limit-1))))
	for s := max(-limit, middle-1); s <= min(limit-1, middle+1); s++ {
		if e, _, _ := tryTable(x, d*float64(s)); e < bestError {
			best, bestError = s, e
		}
	}
	return best
}

// tryTable returns the squared error of a scale, and the sums of the least-squares problem for the
// codes that it gives: of squares of table values, and of their products with x.
func tryTable(x []float32, scale float64) (squares, k2, xk float64) {
	id := reciprocal(scale)
	for _, v := range x {
		k := float64(kvaluesIQ4[nearestIQ4(float64(v)*id)])
		e := scale*k - float64(v)
		squares, k2, xk = squares+e*e, k2+k*k, xk+k*float64(v)
	}
	return squares, k2, xk
}

// codeTable stores codes, element i beside element 16+i.
func codeTable(b []byte, x []float32, scale float64) {
	id := reciprocal(scale)
	for i := range b[:16] {
		b[i] = nearestIQ4(float64(x[i])*id) | nearestIQ4(float64(x[16+i])*id)<<4
	}
}

// middlesIQ4 are the middles between neighbouring values of the table, which ascends.
var middlesIQ4 = [15]float64{
	-115.5, -93.5, -74, -57, -42, -28.5, -16, -4.5, 7, 19, 31.5, 45.5, 61, 79, 101,
}

// nearestIQ4 returns the code of the nearest value of the table.
func nearestIQ4(v float64) (code byte) {
	for step := byte(8); step > 0; step /= 2 {
		if v > middlesIQ4[code+step-1] {
			code += step
		}
	}
	return code
}
