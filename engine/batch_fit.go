package engine

import (
	"github.com/moering/moering/engine/internal/kv"
)

// batchSequencesMax bounds the sequences that a job has in flight unless the options say otherwise:
// beyond it, passes are as long as computing them wants anyway.
const batchSequencesMax = 1024

// fit fills in what the options leave open from what the requests need: a context for the longest of
// them, and places for as many sequences as there are requests.
func (p *batchJob) fit(o Options) Options {
	longest, n := 1, 0
	for i, s := range p.shapes {
		if !p.job.Refused(i) {
			longest, n = max(longest, int(s.most)), n+1
		}
	}
	if o.Context == 0 {
		o.Context = min(kv.Pages(longest)*kv.PageTokens, contextMax)
	}
	if o.Sequences == 0 {
		o.Sequences = max(min(n, batchSequencesMax), 1) + min(n, prefixesHeld)
	}
	return o
}
