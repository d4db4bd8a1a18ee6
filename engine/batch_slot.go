package engine

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/moering/moering/engine/internal/batch"
	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/engine/internal/sample"
	"github.com/moering/moering/sched"
)

// batchSlot is a request that waits for its first pass, or is in flight. Of several inputs, which
// only embeddings have, one is computed after the other.
type batchSlot struct {
	index   int
	request *batch.Request
	inputs  [][]int32
	input   int // under way

	tokens  []int32 // of the input under way, and what was generated after it
	prompt  int     // of tokens, what is fed without sampling; a saved beginning is among it
	fed     int     // of these, without what was generated before the request was preempted
	seen    int     // tokens that this run has computed, though memory may have been given away since
	limit   int     // the most tokens to generate, a saved beginning included
	seq     *kv.Sequence
	shared  int         // tokens at the beginning that another sequence computed
	spilled *kv.Spilled // what lies outside the KV cache while it waits again
	from    *prefix     // that sequence
	prefix  *prefix     // what others may share of this one

	sampler *sample.Sampler
	text    *detokenizer
	out     strings.Builder
	answer  batch.Response
	sum     []float64 // of hidden states
	made    int       // tokens generated, saved ones included
	done    bool
	refused *batch.Error
	begun   time.Time
	hashes  []uint64 // of the prompt's pages, each with all before it
}

// newBatchSlot reads a request and prepares it. saved are the tokens that an earlier run generated.
func (d *batchDriver) newBatchSlot(i int) (*batchSlot, error) {
	r, err := d.job.Request(i)
	if err != nil {
		return nil, err
	}
	s := &batchSlot{index: i, request: r, limit: int(d.shapes[i].new)}
	for _, in := range batchInputs(r) {
		ids, bad := d.engine.batchTokens(r, in)
		if s.refused == nil {
			s.refused = bad
		}
		s.inputs = append(s.inputs, ids)
		s.answer.PromptTokens += len(ids)
	}
	if s.refused != nil {
		return s, nil
	}
	if r.Kind != batch.Embedding {
		o := batchSampling(r)
		if s.sampler, err = o.sampler(); err != nil {
			s.refused = batch.Refuse(batch.CodeValue, "", "%v", err)
			return s, nil
		}
		s.sampler.Share(&d.scratch)
		s.text = newDetokenizer(d.engine, o.Stop)
	}
	s.begin(d)
	s.restore(d.job.Partial(i))
	if s.sampler != nil { // embeddings need the states of all their tokens
		s.hashes = pageHashes(s.tokens[:s.prompt])
	}
	return s, nil
}

// begin makes the input under way the tokens to feed.
func (s *batchSlot) begin(d *batchDriver) {
	ids := s.inputs[s.input]
	s.tokens = make([]int32, len(ids), len(ids)+s.limit)
	copy(s.tokens, ids)
	s.prompt, s.fed, s.seen = len(ids), len(ids), 0
	if s.request.Kind == batch.Embedding {
		s.sum = make([]float64, d.engine.model.Dim)
	}
}

// save is what a later run needs to go on after the tokens made so far.
func (s *batchSlot) save() []byte {
	if s.made == 0 || s.done || s.request.Params.LogProbs > 0 { // those would be lost
		return nil
	}
	var b []byte
	for _, id := range s.tokens[len(s.tokens)-s.made:] {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return b
}

// restore feeds the tokens that an earlier run made, in place of making them again: they become a
// part of the prompt, and the sampler is where it would be.
func (s *batchSlot) restore(saved []byte) {
	n := len(saved) / 4
	if n == 0 || n >= s.limit || s.sampler == nil {
		return
	}
	for i := range n {
		id := int32(binary.LittleEndian.Uint32(saved[4*i:]))
		text, _ := s.text.push(id)
		s.out.WriteString(text)
		s.tokens = append(s.tokens, id)
	}
	s.sampler.Skip(n)
	s.made, s.prompt, s.fed = n, s.prompt+n, s.fed+n
}

// length is the most positions that the sequence takes: its last token is not fed.
func (s *batchSlot) length() (n int) {
	for _, in := range s.inputs {
		n = max(n, len(in)+max(s.limit-1, 0))
	}
	return n
}

// wasSaved is how many tokens of the prompt are a restored beginning.
func (s *batchSlot) wasSaved() int { return s.prompt - len(s.inputs[s.input]) }

// shape is the slot as the arithmetic of waves sees it.
func (s *batchSlot) shape() sched.Active {
	a := sched.Active{Job: sched.Job{Prompt: s.prompt - s.shared, Cached: s.shared,
		MaxNew: s.limit - s.wasSaved()}, New: s.made - s.wasSaved()}
	if s.seq != nil {
		a.Fed = min(s.seq.Len, s.prompt) - s.shared
	} else if s.spilled != nil {
		a.Spilled = max(s.spilled.Len-s.shared, 0)
	}
	return a
}

// step takes the logits after the last token and makes the next one.
func (s *batchSlot) step(e *Engine, logits []float32) {
	id, err := s.sampler.Sample(logits, s.tokens)
	if err != nil {
		s.done, s.refused = true, batch.Refuse(batch.CodeServer, "", "%v", err)
		return
	}
	s.made++
	o := &s.request.Params
	finish, ended := "", e.ends[id] && !o.IgnoreEOS
	switch {
	case ended:
		finish = "stop"
	case s.made >= s.limit:
		finish = "length"
	}
	if !ended {
		if s.request.Tops >= 0 {
			s.answer.Tokens = append(s.answer.Tokens, e.batchToken(logits, id, o.LogProbs))
		}
		text, stopped := s.text.push(id)
		s.out.WriteString(text)
		if stopped {
			s.end("stop")
			return
		}
	}
	if finish != "" {
		s.out.WriteString(s.text.flush())
		s.end(finish)
		return
	}
	s.tokens = append(s.tokens, id)
}

func (s *batchSlot) end(finish string) {
	s.done = true
	s.answer.Text, s.answer.Finish, s.answer.NewTokens = s.out.String(), finish, s.made
}

// add takes the hidden state of one token of an input: embeddings are the mean over all of them.
func (s *batchSlot) add(state []float32) {
	for i, v := range state {
		s.sum[i] += float64(v)
	}
}

// pooled ends an input of embeddings, and begins the next if there is one.
func (s *batchSlot) pooled(d *batchDriver) {
	out := make([]float32, len(s.sum))
	for i, v := range s.sum {
		out[i] = float32(v / float64(s.prompt))
	}
	s.answer.Embeddings = append(s.answer.Embeddings, out)
	if s.input++; s.input == len(s.inputs) {
		s.done = true
		return
	}
	s.seq.Len = 0 // its pages have room for the longest input
	if d.spill.on() {
		s.seq.Truncate(0) // others may have them
	}
	s.begin(d)
}
