// Package tokenizer turns text into token ids and back.
//
// It reads two descriptions of a tokenizer: the tokenizer.json (with tokenizer_config.json) of a
// Hugging Face model directory, and the tokenizer.ggml.* metadata of a GGUF file. Both become the
// same pipeline: added tokens are cut out of the text, what is left is normalised, split into
// words, and each word is merged by byte-pair encoding. The reference for every step is the Hugging
// Face tokenizers library; a component or an option that is not supported is an error that names
// it, never a different result. docs/decisions/0003-own-tokenizer.md says why the code is our own.
//
// Character classes come from Go's unicode tables (Unicode 15.0 in Go 1.26), those of the reference
// from other tables, some newer and some older. A character that is in one table and not in the
// other, which can only be one that was assigned lately, may be split differently from the
// reference. It still encodes to bytes that decode to the same text.
package tokenizer

import (
	"fmt"
	"sync"
)

// Tokenizer encodes and decodes. It is immutable apart from a bounded cache, and safe for
// concurrent use by several goroutines.
type Tokenizer struct {
	tokens []string         // id → token as the vocabulary spells it; "" where there is none
	has    []bool           // id → there is such a token
	ids    map[string]int32 // the inverse; an added token wins over the model's
	bytes  []string         // id → the bytes that the token stands for
	feed   []string         // id → what the first decode stage is given
	skip   []bool           // id → left out of a decode that skips special tokens

	added     addedTokens
	normalize []normalizer
	split     []splitStage
	model     *bpe
	template  []templatePiece
	decode    []func() decodeStage

	special Special
	eogs    []int32
	scratch sync.Pool // *walker
}

// Special holds the ids of the tokens with a part to play, -1 where the model has none.
type Special struct {
	BOS, EOS, UNK, PAD int32
}

// EncodeOptions says how text becomes ids. The zero value encodes the text and nothing else.
type EncodeOptions struct {
	AddSpecial   bool // add what the model's template puts around a text, such as a BOS token
	ParseSpecial bool // special tokens spelled in the text become their ids, not their letters
}

// Encode returns the ids of text. Bytes that are not UTF-8 are read as U+FFFD, one for each
// maximal ill-formed part. Time is close to linear in the length of the text, whatever it holds.
//
// Added tokens that are not special are recognised whether or not ParseSpecial is set.
//
// An error means that a split pattern of the model gave up on the text (ErrPattern), or that the
// text has a character for which the vocabulary has neither token nor substitute (ErrFormat).
func (t *Tokenizer) Encode(text string, opts EncodeOptions) ([]int32, error) {
	w, _ := t.scratch.Get().(*walker)
	if w == nil {
		w = newWalker(t)
	}
	defer t.scratch.Put(w)
	body, err := w.encode(repairUTF8(text), opts.ParseSpecial)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return t.applyTemplate(body, opts.AddSpecial), nil
}

// applyTemplate returns a fresh slice with the ids of the model's template around body.
func (t *Tokenizer) applyTemplate(body []int32, addSpecial bool) []int32 {
	out := make([]int32, 0, len(body)+len(t.template))
	for _, p := range t.template {
		switch {
		case p.sequence:
			out = append(out, body...)
		case addSpecial:
			out = append(out, p.ids...)
		}
	}
	return out
}

// templatePiece is either the place of the text or a few special ids.
type templatePiece struct {
	sequence bool
	ids      []int32
}

// Size returns the length of the id space: one more than the greatest id.
func (t *Tokenizer) Size() int { return len(t.tokens) }

// ID returns the id of a token as the vocabulary spells it, for example "Ġthe" or "<|im_end|>".
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// Token returns the token of an id as the vocabulary spells it.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if !t.valid(id) {
		return "", false
	}
	return t.tokens[id], true
}

// Bytes returns a copy of the bytes that a token adds to a text, away from the start of it: a
// token of half a character has half a character's bytes. It is nil for an id with no token.
func (t *Tokenizer) Bytes(id int32) []byte {
	if !t.valid(id) {
		return nil
	}
	return []byte(t.bytes[id])
}

// IsSpecial reports whether decoding with skipSpecial leaves the token out.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.valid(id) && t.skip[id] }

// Special returns the ids of the model's special tokens.
func (t *Tokenizer) Special() Special { return t.special }

// EOGs returns the ids that end a generation, ascending: EOS, and the special tokens by which chat
// models end a turn. The slice is the caller's.
func (t *Tokenizer) EOGs() []int32 { return append([]int32(nil), t.eogs...) }

func (t *Tokenizer) valid(id int32) bool {
	return id >= 0 && int(id) < len(t.tokens) && t.has[id]
}
