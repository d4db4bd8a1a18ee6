package engine

import (
	"errors"
	"fmt"

	"github.com/moering/moering/engine/internal/batch"
	"github.com/moering/moering/engine/internal/sample"
)

// measure finds out what a request needs, and whether the model can answer it.
func (p *batchJob) measure(r *batch.Request) (s batchShape, bad *batch.Error) {
	for _, in := range batchInputs(r) {
		ids, bad := p.asks.batchTokens(r, in)
		if bad != nil {
			return s, bad
		}
		limit, bad := p.newTokens(r, len(ids))
		if bad != nil {
			return s, bad
		}
		s.prompt += int32(len(ids))
		s.new = int32(limit)
		s.most = max(s.most, int32(len(ids)+limit))
	}
	if r.Kind != batch.Embedding {
		if _, err := batchSampling(r).sampler(); err != nil {
			return s, batch.Refuse(batch.CodeValue, "", "%v", err)
		}
	}
	return s, nil
}

// batchInputs is the prompts of a request: one, but for embeddings.
func batchInputs(r *batch.Request) []batch.Text {
	if r.Kind == batch.Chat {
		return []batch.Text{{}}
	}
	return r.Inputs
}

// newTokens is the most that a request may generate after a prompt.
func (p *batchJob) newTokens(r *batch.Request, prompt int) (int, *batch.Error) {
	param := map[batch.Kind]string{batch.Chat: "messages", batch.Completion: "prompt",
		batch.Embedding: "input"}[r.Kind]
	if r.Kind == batch.Embedding {
		if prompt > p.limit {
			return 0, batch.Refuse(batch.CodeContext, param, "%d tokens; the context is %d", prompt,
				p.limit)
		}
		return 0, nil
	}
	room := p.limit - prompt
	if room < 1 || r.Params.MaxTokens > room {
		return 0, batch.Refuse(batch.CodeContext, param, "%d tokens and up to %d more; the context is %d",
			prompt, max(r.Params.MaxTokens, 1), p.limit)
	}
	if r.Params.MaxTokens > 0 {
		return r.Params.MaxTokens, nil
	}
	return min(room, p.o.MaxTokens), nil
}

// batchTokens turns one input of a request into ids.
func (e *Engine) batchTokens(r *batch.Request, in batch.Text) ([]int32, *batch.Error) {
	ids, err := in.Tokens, error(nil)
	switch {
	case r.Kind == batch.Chat:
		messages := make([]Message, len(r.Messages))
		for i, m := range r.Messages {
			messages[i] = Message{Role: m.Role, Content: m.Content}
		}
		ids, err = e.EncodeChat(messages)
	case in.Tokens == nil:
		ids, err = e.Encode(in.Text, true)
	}
	if err != nil {
		code := batch.CodeValue
		if errors.Is(err, ErrUnsupported) {
			code = batch.CodeModelCannot
		}
		return nil, batch.Refuse(code, "", "%v", err)
	}
	if len(ids) == 0 {
		return nil, batch.Refuse(batch.CodeValue, "", "the prompt has no tokens")
	}
	for _, id := range ids {
		if id < 0 || int(id) >= e.model.Vocab {
			return nil, batch.Refuse(batch.CodeValue, "", "token id %d is outside the vocabulary of %d",
				id, e.model.Vocab)
		}
	}
	return ids, nil
}

func batchSampling(r *batch.Request) Sampling {
	p := r.Params
	return Sampling{Temperature: float32(p.Temperature), TopK: p.TopK, TopP: float32(p.TopP),
		MinP: float32(p.MinP), RepetitionPenalty: float32(p.RepetitionPenalty), Seed: p.Seed,
		Stop: p.Stop, LogProbs: p.LogProbs, IgnoreEOS: p.IgnoreEOS}
}

// batchToken describes a generated token for the answer.
func (e *Engine) batchToken(logits []float32, id int32, alternatives int) batch.Token {
	t := batch.Token{Bytes: e.tokenBytes(id), LogProb: sample.LogProb(logits, id)}
	for _, p := range sample.Top(nil, logits, alternatives) {
		t.Top = append(t.Top, batch.TokenProb{Bytes: e.tokenBytes(p.ID), LogProb: float64(p.LogProb)})
	}
	return t
}

func (e *Engine) tokenBytes(id int32) []byte {
	if e.tok == nil {
		return fmt.Append(nil, id)
	}
	return e.tok.Bytes(id)
}
