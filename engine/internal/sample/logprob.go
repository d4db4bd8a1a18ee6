package sample

import "math"

// TokenProb is a token and the natural log of its probability at temperature 1.
type TokenProb struct {
	ID      int32
	LogProb float32
}

// LogSumExp is the log of the sum of exponentials of the logits: log-probabilities are logits less
// this. It is -Inf for no logits, and NaN where a logit is.
func LogSumExp(logits []float32) float64 {
	best := math.Inf(-1)
	for _, v := range logits {
		best = max(best, float64(v))
	}
	if math.IsInf(best, -1) {
		return best
	}
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v) - best)
	}
	return best + math.Log(sum)
}

// LogProb is the natural log of the probability of token id, an index of logits, at temperature 1.
func LogProb(logits []float32, id int32) float64 {
	return float64(logits[id]) - LogSumExp(logits)
}

// Top appends the n most likely tokens to dst, best first, among equals the lower id first; all of
// them where there are fewer.
func Top(dst []TokenProb, logits []float32, n int) []TokenProb {
	n = min(n, len(logits))
	if n <= 0 {
		return dst
	}
	base := len(dst)
	for i, v := range logits {
		if len(dst)-base == n {
			if !(v > dst[len(dst)-1].LogProb) {
				continue
			}
			dst = dst[:len(dst)-1]
		}
		dst = append(dst, TokenProb{int32(i), v})
		for j := len(dst) - 1; j > base && v > dst[j-1].LogProb; j-- {
			dst[j], dst[j-1] = dst[j-1], dst[j]
		}
	}
	norm := LogSumExp(logits)
	for i := range dst[base:] {
		dst[base+i].LogProb = float32(float64(dst[base+i].LogProb) - norm)
	}
	return dst
}
