package quant

import (
	"encoding/binary"
	"math"
)

// The K formats store a super-block of 256 elements: sub-blocks with small integer scales (and
// minima), and half-precision factors for those. The search here is our own: for each sub-block a
// few candidate steps, each refined by a least-squares fit to the codes it gives; then, with the
// shared factor fixed, the integer scales beside the nearest one are tried as well.

// stepCandidates are the ranges tried for a sub-block, as a share of its full range: a smaller step
// clips the extremes and serves the middle better.
var stepCandidates = [...]float64{1, 0.97, 0.94, 0.91, 0.87, 0.83}

// affine is a sub-block's quantisation x = scale*q - minimum, with both not negative.
type affine struct{ scale, minimum float64 }

func encodeQ4_K(b []byte, x []float32) bool {
	var codes [256]byte
	if !encodeAffine(b, &codes, x, 15) {
		return false
	}
	packNibbles(b[16:144], &codes)
	return true
}

func encodeQ5_K(b []byte, x []float32) bool {
	var codes [256]byte
	if !encodeAffine(b, &codes, x, 31) {
		return false
	}
	clear(b[16:48])
	for e, q := range codes {
		b[16+e%32] |= q >> 4 << (e / 32)
	}
	packNibbles(b[48:176], &codes)
	return true
}

// packNibbles stores the low nibbles, two runs of 32 elements in each 32 bytes.
func packNibbles(b []byte, codes *[256]byte) {
	for i := range b {
		from := i/32*64 + i%32
		b[i] = codes[from]&15 | codes[from+32]<<4
	}
}

// encodeAffine chooses scales and minima for eight sub-blocks of 32, writes the 16 bytes that Q4_K
// and Q5_K begin with, and returns the codes, each at most top.
func encodeAffine(b []byte, codes *[256]byte, x []float32, top int) bool {
	if _, finite := largest(x); !finite {
		return false
	}
	var fits [8]affine
	var scaleTop, minimumTop float64
	for j := range fits {
		fits[j] = fitAffine(x[32*j:32*j+32], float64(top))
		scaleTop = max(scaleTop, fits[j].scale)
		minimumTop = max(minimumTop, fits[j].minimum)
	}
	if scaleTop/63 > scaleMax || minimumTop/63 > scaleMax {
		return false
	}
	d, dmin := putHalf(b, scaleTop/63), putHalf(b[2:], minimumTop/63)
	var scales, minima [8]byte
	for j := range fits {
		run := x[32*j : 32*j+32]
		scales[j], minima[j] = nearestAffine(run, fits[j], d, dmin, float64(top), 63)
		codeAffine(codes[32*j:32*j+32], run, d*float64(scales[j]), dmin*float64(minima[j]), top)
	}
	packScales(b[4:16], &scales, &minima)
	return true
}

// putHalf stores v as a half-precision number and returns what was stored.
func putHalf(b []byte, v float64) float64 {
	h := F32ToF16(float32(v))
	binary.LittleEndian.PutUint16(b, h)
	return float64(F16ToF32(h))
}

// packScales is the inverse of scaleMin.
func packScales(p []byte, scales, minima *[8]byte) {
	for j := range 4 {
		p[j] = scales[j] | scales[4+j]>>4<<6
		p[4+j] = minima[j] | minima[4+j]>>4<<6
		p[8+j] = scales[4+j]&15 | minima[4+j]<<4
	}
}

// fitAffine finds scale and minimum for one sub-block as real numbers.
func fitAffine(x []float32, top float64) affine {
	low, high := 0.0, 0.0 // the minimum is not negative, so zero is always inside the range
	for _, v := range x {
		low, high = min(low, float64(v)), max(high, float64(v))
	}
	if low == high {
		return affine{}
	}
	best, bestError := affine{}, math.Inf(1)
	for _, share := range stepCandidates {
		middle, reach := (low+high)/2, (high-low)/2*share
		fit := affine{2 * reach / top, max(0, reach-middle)}
		for range 2 {
			if e := errorAffine(x, fit.scale, fit.minimum, top); e < bestError {
				best, bestError = fit, e
			}
			fit = refitAffine(x, fit, top)
		}
	}
	return best
}

// refitAffine solves the least-squares problem for the codes that fit gives.
func refitAffine(x []float32, fit affine, top float64) affine {
	n := float64(len(x))
	var q1, q2, x1, xq float64
	for _, v := range x {
		q := quantise((float64(v)+fit.minimum)/fit.scale, 0, top)
		q1, q2, x1, xq = q1+q, q2+q*q, x1+float64(v), xq+q*float64(v)
	}
	if det := n*q2 - q1*q1; det > 0 {
		scale := (n*xq - q1*x1) / det
		minimum := (scale*q1 - x1) / n
		if scale > 0 && minimum >= 0 {
			return affine{scale, minimum}
		}
	}
	if q2 > 0 && xq > 0 {
		return affine{xq / q2, 0}
	}
	return fit
}

// nearestAffine chooses the scale and minimum of least error near the fit; both are at most limit.
func nearestAffine(x []float32, fit affine, d, dmin, top float64, limit int) (scale, minimum byte) {
	bestError := math.Inf(1)
	s0, m0 := nearest(fit.scale, d), nearest(fit.minimum, dmin)
	for s := max(0, s0-1); s <= min(limit, s0+1); s++ {
		for m := max(0, m0-1); m <= min(limit, m0+1); m++ {
			if e := errorAffine(x, d*float64(s), dmin*float64(m), top); e < bestError {
				bestError, scale, minimum = e, byte(s), byte(m)
			}
		}
	}
	return scale, minimum
}

// nearest returns v/unit rounded; 0 for a unit of zero.
func nearest(v, unit float64) int {
	if unit == 0 {
		return 0
	}
	return int(math.RoundToEven(min(v/unit, 127)))
}

func errorAffine(x []float32, scale, minimum, top float64) float64 {
	sum, id := 0.0, reciprocal(scale)
	for _, v := range x {
		q := quantise((float64(v)+minimum)*id, 0, top)
		e := scale*q - minimum - float64(v)
		sum += e * e
	}
	return sum
}

func codeAffine(codes []byte, x []float32, scale, minimum float64, top int) {
	id := reciprocal(scale)
	for i, v := range x {
		codes[i] = byte(quantise((float64(v)+minimum)*id, 0, float64(top)))
	}
}

func reciprocal(v float64) float64 {
	if v == 0 {
		return 0
	}
	return 1 / v
}

// quantise returns the code nearest to v in low .. high, both whole numbers of small magnitude.
func quantise(v, low, high float64) float64 {
	v += 0.5 - low
	if !(v > 0) {
		return low
	}
	if v > high-low {
		return high
	}
	return float64(int32(v)) + low
}

// encodeQ6_K: sixteen sub-blocks of 16 with signed eight-bit scales and codes -32 .. 31.
func encodeQ6_K(b []byte, x []float32) bool {
	if _, finite := largest(x); !finite {
		return false
	}
	var fits [16]float64
	top := 0.0
	for s := range fits {
		fits[s] = fitSymmetric(x[16*s:16*s+16], 32)
		top = max(top, math.Abs(fits[s]))
	}
	if top/127 > scaleMax {
		return false
	}
	clear(b[:192])
	d := putHalf(b[208:], top/127)
	for s := range fits {
		run := x[16*s : 16*s+16]
		scale := nearestSymmetric(run, fits[s], d, 32, 128)
		b[192+s] = byte(int8(scale))
		id := reciprocal(d * float64(scale))
		for i, v := range run {
			q := byte(int(quantise(float64(v)*id, -32, 31)) + 32)
			b[s/8*64+s%4*16+i] |= q & 15 << (s / 4 % 2 * 4)
			b[128+s/8*32+s%2*16+i] |= q >> 4 << (s / 2 % 4 * 2)
		}
	}
	return true
}

// fitSymmetric finds the scale of one sub-block with codes -reach .. reach-1. It is negative
// where the value of largest magnitude is positive, since the lowest code reaches further than
// the highest.
func fitSymmetric(x []float32, reach float64) float64 {
	extreme, _ := largest(x)
	if extreme == 0 {
		return 0
	}
	best, bestError := 0.0, math.Inf(1)
	for _, share := range stepCandidates {
		scale := float64(extreme) / -reach * share
		for range 2 {
			if e := errorSymmetric(x, scale, reach); e < bestError {
				best, bestError = scale, e
			}
			var q2, xq float64
			for _, v := range x {
				q := quantise(float64(v)/scale, -reach, reach-1)
				q2, xq = q2+q*q, xq+q*float64(v)
			}
			if q2 == 0 || xq == 0 {
				break
			}
			scale = xq / q2
		}
	}
	return best
}

// nearestSymmetric chooses the scale of least error near the fit, in -limit .. limit-1.
func nearestSymmetric(x []float32, fit, d, reach float64, limit int) int {
	if d == 0 {
		return 0
	}
	best, bestError := 0, math.Inf(1)
	middle := int(math.RoundToEven(quantise(fit/d, float64(1-limit), float64(limit-1))))
	for s := max(-limit, middle-1); s <= min(limit-1, middle+1); s++ {
		if e := errorSymmetric(x, d*float64(s), reach); e < bestError {
			best, bestError = s, e
		}
	}
	return best
}

func errorSymmetric(x []float32, scale, reach float64) float64 {
	sum, id := 0.0, reciprocal(scale)
	for _, v := range x {
		e := scale*quantise(float64(v)*id, -reach, reach-1) - float64(v)
		sum += e * e
	}
	return sum
}

// encodeQ2_K: sixteen sub-blocks of 16 with four-bit scales and minima.
func encodeQ2_K(b []byte, x []float32) bool {
	const top, limit = 3, 15
	if _, finite := largest(x); !finite {
		return false
	}
	var fits [16]affine
	var scaleTop, minimumTop float64
	for s := range fits {
		fits[s] = fitAffine(x[16*s:16*s+16], top)
		scaleTop, minimumTop = max(scaleTop, fits[s].scale), max(minimumTop, fits[s].minimum)
	}
	if scaleTop/limit > scaleMax || minimumTop/limit > scaleMax {
		return false
	}
	clear(b[16:80])
	d, dmin := putHalf(b[80:], scaleTop/limit), putHalf(b[82:], minimumTop/limit)
	for s := range fits {
		run := x[16*s : 16*s+16]
		scale, minimum := nearestAffine(run, fits[s], d, dmin, top, limit)
		b[s] = scale | minimum<<4
		var codes [16]byte
		codeAffine(codes[:], run, d*float64(scale), dmin*float64(minimum), top)
		for i, q := range codes {
			b[16+s/8*32+s%2*16+i] |= q << (s / 2 % 4 * 2)
		}
	}
	return true
}

// encodeQ3_K: sixteen sub-blocks of 16 with signed six-bit scales and codes -4 .. 3.
func encodeQ3_K(b []byte, x []float32) bool {
	const reach, limit = 4, 32
	if _, finite := largest(x); !finite {
		return false
	}
	var fits [16]float64
	top := 0.0
	for s := range fits {
		fits[s] = fitSymmetric(x[16*s:16*s+16], reach)
		top = max(top, math.Abs(fits[s]))
	}
	if top/(limit-1) > scaleMax {
		return false
	}
	clear(b[:108])
	d := putHalf(b[108:], top/(limit-1))
	for s := range fits {
		run := x[16*s : 16*s+16]
		scale := nearestSymmetric(run, fits[s], d, reach, limit)
		six := byte(scale + limit)
		b[96+s%8] |= six & 15 << (s / 8 * 4)
		b[104+s%4] |= six >> 4 << (s / 4 * 2)
		id := reciprocal(d * float64(scale))
		for i, v := range run {
			q := byte(int(quantise(float64(v)*id, -reach, reach-1)) + reach)
			b[32+s/8*32+s%2*16+i] |= q & 3 << (s / 2 % 4 * 2)
			b[s%2*16+i] |= q >> 2 << (s / 2)
		}
	}
	return true
}
