package tokenizer

import (
	"sort"
	"strings"
	"unicode/utf8"
)

// finish fills the tables that are derived from the others.
func (b *builder) finish() (*Tokenizer, error) {
	t := b.t
	if err := b.tries(); err != nil {
		return nil, err
	}
	b.decodeTables()
	b.modelTables()
	t.model.breakAtMeta = t.model.mayBreakAtMeta()
	t.skip = make([]bool, len(t.tokens))
	for id, a := range t.added.byID {
		// The reference compares the form that it decodes to with the form in the file.
		t.skip[id] = a.special && t.tokens[id] == a.content
	}
	t.eogs = b.endTokens()
	return t, nil
}

// tries builds the sets of added tokens, one for each kind of text. A token that is matched in
// normalised text is decoded to its normalised form too.
func (b *builder) tries() error {
	ids := make([]int32, 0, len(b.t.added.byID))
	for id := range b.t.added.byID {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for _, id := range ids {
		a := b.t.added.byID[id]
		set, form := &b.t.added.raw, a.content
		if a.normalized {
			set = &b.t.added.normalized
			for _, n := range b.t.normalize {
				var err error
				if form, err = n(form); err != nil {
					return err
				}
			}
			b.t.tokens[id] = form
		}
		if !set.add(form, id) {
			return formatError("added token %q is empty or the same as another, once normalised",
				a.content)
		}
	}
	return nil
}

// decodeTables fills what the decoder is fed with, and the bytes of each token.
func (b *builder) decodeTables() {
	t := b.t
	t.feed = t.tokens
	t.bytes = make([]string, len(t.tokens))
	unspells := false
	if len(t.decode) > 0 {
		_, unspells = t.decode[0]().(unspellStage)
	}
	for id, token := range t.tokens {
		_, added := t.added.byID[int32(id)]
		t.bytes[id] = b.tokenBytes(token, unspells, added)
	}
	if unspells {
		// Unspelling is the same for a token every time: do it once.
		t.decode = t.decode[1:]
		t.feed = t.bytes
	}
}

func (b *builder) tokenBytes(token string, unspells, added bool) string {
	if added && b.plainAdded {
		return token
	}
	if unspells {
		return unspell(b.alphabet, token)
	}
	if v, ok := byteToken(token); ok && b.t.model.byteFallback {
		return string([]byte{v})
	}
	if added {
		return token
	}
	return strings.ReplaceAll(token, metaspace, " ")
}

// modelTables turns the vocabulary of the model into what merging looks things up in.
func (b *builder) modelTables() {
	m := b.t.model
	m.size = int32(len(b.t.tokens))
	if id, ok := m.vocab[m.unkName]; ok {
		m.unk = id
	}
	for i := range m.fallback {
		m.fallback[i] = -1
	}
	for token, id := range m.vocab {
		if len(token) != 6 {
			continue
		}
		// The reference looks bytes up in upper case only.
		if v, ok := byteToken(token); ok && strings.ToUpper(token[3:5]) == token[3:5] {
			m.fallback[v] = id
		}
	}
	for i := range m.ascii {
		m.ascii[i] = -1
		if id, ok := m.vocab[string(rune(i))]; ok {
			m.ascii[i] = id
		}
	}
	if m.byteLevel {
		m.toBytes()
	}
}

// toBytes rewrites the vocabulary from the byte alphabet to bytes. Tokens with another character in
// them are unreachable by merging.
func (m *bpe) toBytes() {
	raw := make(map[string]int32, len(m.vocab))
	for token, id := range m.vocab {
		if s, ok := m.alphabet.decode(token); ok {
			raw[s] = id
		}
	}
	m.vocab = raw
	for i := range m.bytes {
		m.bytes[i] = -1
		if id, ok := raw[string([]byte{byte(i)})]; ok {
			m.bytes[i] = id
		}
	}
}

// mayBreakAtMeta reports whether cutting a text before each metaspace that follows something else
// leaves the result of merging as it is: no merge makes a token across such a place, and the
// metaspace is itself a token, so that no run of unknown characters crosses it.
func (m *bpe) mayBreakAtMeta() bool {
	if _, ok := m.vocab[metaspace]; !ok || m.ignoreMerges || m.byteLevel {
		return false
	}
	made := make(map[int32]bool, len(m.merges))
	for _, v := range m.merges {
		made[int32(uint32(v))] = true
	}
	for token, id := range m.vocab {
		if token != "" && made[id] && metaBreak(token) != len(token) {
			return false
		}
	}
	return true
}

// isEndToken knows the spellings by which published chat models end a turn or a text.
func isEndToken(s string) bool {
	switch s {
	case "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>",
		"<|return|>", "<|call|>", "<end_of_turn>", "<|endofturn|>", "<turn|>", "<EOT>", "<|EOT|>",
		"</s>", "<|eos|>", "[e~[",
		"<\uff5cend\u2581of\u2581sentence\uff5c>":
		return true
	}
	return false
}

func (b *builder) endTokens() []int32 {
	var ids []int32
	for id, a := range b.t.added.byID {
		if id == b.t.special.EOS || a.special && isEndToken(a.content) {
			ids = append(ids, id)
		}
	}
	if e := b.t.special.EOS; e >= 0 {
		if _, ok := b.t.added.byID[e]; !ok {
			ids = append(ids, e)
		}
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	return ids
}

// isText reports whether a token is UTF-8 and short enough to be one.
func isText(s string) bool { return utf8.ValidString(s) && len(s) <= tokenBytesMax }

// tokenBytesMax bounds one token of a vocabulary.
const tokenBytesMax = 1 << 16
