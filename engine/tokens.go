package engine

import (
	"fmt"
	"slices"

	"github.com/moering/moering/engine/internal/tokenizer"
)

// TokenInfo describes an entry of the vocabulary.
type TokenInfo struct {
	ID      int32
	Spelled string // as the vocabulary has it: "Ġthe", "<|im_end|>"
	Bytes   []byte // what it adds to a text away from its start; maybe a part of a character
	Special bool   // not text: a mark such as a turn's end
	End     bool   // generation ends with it unless Sampling.IgnoreEOS
}

// Token looks up an id; false where the model has no tokenizer or the vocabulary no such token.
func (e *Engine) Token(id int32) (TokenInfo, bool) {
	if e.tok == nil {
		return TokenInfo{}, false
	}
	spelled, ok := e.tok.Token(id)
	if !ok {
		return TokenInfo{}, false
	}
	return TokenInfo{ID: id, Spelled: spelled, Bytes: e.tok.Bytes(id), Special: e.tok.IsSpecial(id),
		End: e.ends[id]}, true
}

// FindToken returns the id of a token as the vocabulary spells it.
func (e *Engine) FindToken(spelled string) (int32, bool) {
	if e.tok == nil {
		return 0, false
	}
	return e.tok.ID(spelled)
}

// EndTokens returns the ids that end a generation, ascending.
func (e *Engine) EndTokens() []int32 {
	var ids []int32
	for id, end := range e.ends {
		if end {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// DecodeText is Decode without the special tokens.
func (e *Engine) DecodeText(ids []int32) string {
	if e.tok == nil {
		return ""
	}
	return e.tok.Decode(ids, true)
}

// EncodeText is Encode with its two halves apart: add puts the model's own begin token in front,
// parse recognises special tokens in the text.
func (e *Engine) EncodeText(text string, add, parse bool) ([]int32, error) {
	if e.tok == nil {
		return nil, fmt.Errorf("%w: model %s has no tokenizer; give token ids", ErrUnsupported,
			e.info.Path)
	}
	ids, err := e.tok.Encode(text, tokenizer.EncodeOptions{AddSpecial: add, ParseSpecial: parse})
	return ids, mapError(err)
}
