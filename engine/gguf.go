package engine

import (
	"fmt"

	"github.com/moering/moering/engine/internal/tokenizer"
	"github.com/moering/moering/offload/store"
)

// ggufTokenizer makes the tokenizer that a GGUF file carries; nil where it carries none.
func ggufTokenizer(m *store.Metadata) (*tokenizer.Tokenizer, error) {
	const prefix = "tokenizer.ggml."
	if !m.Has(prefix + "tokens") {
		return nil, nil
	}
	v := tokenizer.GGUFVocab{BOS: -1, EOS: -1, UNK: -1, PAD: -1, EOT: -1}
	var err error
	get := func(key string, read func(string) error) {
		if err == nil && m.Has(prefix+key) {
			err = read(prefix + key)
		}
	}
	text := func(to *string) func(string) error {
		return func(k string) (err error) { *to, err = m.String(k); return }
	}
	list := func(to *[]string) func(string) error {
		return func(k string) (err error) { *to, err = m.Strings(k); return }
	}
	id := func(to *int32) func(string) error {
		return func(k string) error {
			n, err := m.Int(k)
			if err == nil && (n < -1 || n > 1<<30) {
				err = fmt.Errorf("%w: metadata key %s is %d", ErrFormat, k, n)
			}
			*to = int32(n)
			return err
		}
	}
	flag := func(to **bool) func(string) error {
		return func(k string) error { b, err := m.Bool(k); *to = &b; return err }
	}
	get("model", text(&v.Model))
	get("pre", text(&v.Pre))
	get("tokens", list(&v.Tokens))
	get("merges", list(&v.Merges))
	get("scores", func(k string) error {
		scores, err := m.Floats(k)
		for _, s := range scores {
			v.Scores = append(v.Scores, float32(s))
		}
		return err
	})
	get("token_type", func(k string) error {
		types, err := m.Ints(k)
		for _, t := range types {
			v.Types = append(v.Types, int32(t))
		}
		return err
	})
	get("bos_token_id", id(&v.BOS))
	get("eos_token_id", id(&v.EOS))
	get("unknown_token_id", id(&v.UNK))
	get("padding_token_id", id(&v.PAD))
	get("eot_token_id", id(&v.EOT))
	get("add_bos_token", flag(&v.AddBOS))
	get("add_eos_token", flag(&v.AddEOS))
	get("add_space_prefix", flag(&v.AddSpacePrefix))
	if err != nil {
		return nil, err
	}
	return tokenizer.FromGGUF(v)
}
