package sched

// What a sequence has in the KV cache can be moved out, to host memory or to a file, when its place
// is needed, and be moved in again in place of being computed again.

// SpillSeconds is the time to move a sequence of so many tokens out and in again.
func (m WaveModel) SpillSeconds(tokens int) float64 {
	if m.SpillBandwidth <= 0 {
		return 0
	}
	return 2 * float64(m.pages(tokens)*m.KVTokenBytes) / m.SpillBandwidth
}

// RecomputeSeconds is the time to compute the keys and values of so many tokens again, as rows of
// passes that run anyway: cores that wait for the disk are no reason to waste rows, since prompts
// wait for them.
func (m WaveModel) RecomputeSeconds(tokens int) float64 {
	n := float64(tokens)
	return n*m.PrefillRowSeconds + n*(n-1)/2*m.AttendSeconds
}

// Spills reports whether a sequence of so many tokens that gives its KV back is moved out: there is
// room for it, and moving it out and in takes less time than computing it again.
func (m WaveModel) Spills(tokens int) bool {
	return tokens > 0 && m.pages(tokens) <= m.SpillTokens &&
		m.SpillSeconds(tokens) < m.RecomputeSeconds(tokens)
}

// expectMargin is what is expected beyond what finished jobs used: too much is memory that lies
// idle, too little a sequence that has to leave.
const expectMargin = 1.25

// expectAfter is how many finished jobs say something about others.
const expectAfter = 16

// Expect is how many tokens a job likely generates that may generate limit of them and has made some,
// where finished jobs made generated of the allowed they might have. As long as few have finished it
// is the limit.
func Expect(limit, made, finished int, generated, allowed int64) int {
	if finished < expectAfter || allowed <= 0 {
		return limit
	}
	n := int(expectMargin*float64(generated)/float64(allowed)*float64(limit)) + 1
	return min(max(n, made+1), limit)
}
