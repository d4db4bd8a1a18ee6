package tokenizer

import (
	"math"
	"sort"
	"strings"
	"unicode/utf8"
)

// GGUFVocab is the tokenizer.ggml.* metadata of a GGUF file. An id is -1 where the file has none.
type GGUFVocab struct {
	Model  string    // tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)
	Pre    string    // tokenizer.ggml.pre: how a gpt2 vocabulary splits text into words
	Tokens []string  // tokenizer.ggml.tokens: index is id
	Scores []float32 // tokenizer.ggml.scores: for llama, one a token; greater merges first
	Types  []int32   // tokenizer.ggml.token_type: one a token, or none at all
	Merges []string  // tokenizer.ggml.merges: for gpt2, "left right", first merges first

	BOS, EOS, UNK, PAD int32
	EOT                int32 // tokenizer.ggml.eot_token_id: ends a turn
	AddBOS, AddEOS     *bool // nil: the default of the model kind
	AddSpacePrefix     *bool // for llama; nil: yes
}

// Token types of GGUF.
const (
	ggufNormal = iota + 1
	ggufUnknown
	ggufControl
	ggufUserDefined
	ggufUnused
	ggufByte
)

// FromGGUF builds a tokenizer from GGUF metadata. It keeps none of the slices of v.
//
// The reference is llama.cpp, with one difference in a case that no published vocabulary is known
// to have: where two added tokens overlap in a text, the leftmost is taken here, the longest there.
//
// Errors wrap ErrFormat or ErrUnsupported and name the metadata key or the token.
func FromGGUF(v GGUFVocab) (*Tokenizer, error) {
	b := &builder{t: &Tokenizer{ids: map[string]int32{}}, alphabet: newByteAlphabet(),
		plainAdded: true}
	if err := b.ggufTokens(&v); err != nil {
		return nil, err
	}
	var err error
	var addBOS bool // the default of the kind
	switch v.Model {
	case "gpt2":
		addBOS, err = b.ggufBytes(&v)
	case "llama":
		addBOS, err = true, b.ggufScores(&v)
	default:
		err = unsupported("tokenizer.ggml.model %q", v.Model)
	}
	if err != nil {
		return nil, err
	}
	if v.AddBOS != nil {
		addBOS = *v.AddBOS
	}
	addEOS := v.AddEOS != nil && *v.AddEOS
	s := b.t.special
	if addBOS && s.BOS < 0 || addEOS && s.EOS < 0 {
		return nil, formatError("add_bos_token or add_eos_token is set and there is no such token")
	}
	b.t.template = bosTemplate(s, addBOS, addEOS)
	t, err := b.finish()
	if err == nil && t.valid(v.EOT) {
		t.addEnd(v.EOT)
	}
	return t, err
}

func (t *Tokenizer) addEnd(id int32) {
	i := sort.Search(len(t.eogs), func(i int) bool { return t.eogs[i] >= id })
	if i == len(t.eogs) || t.eogs[i] != id {
		t.eogs = append(t.eogs[:i], append([]int32{id}, t.eogs[i:]...)...)
	}
}

// ggufTokens enters tokens, added tokens and special ids.
func (b *builder) ggufTokens(v *GGUFVocab) error {
	n := len(v.Tokens)
	if n == 0 || n > idMax {
		return formatError("tokenizer.ggml.tokens has %d tokens", n)
	}
	if len(v.Types) != 0 && len(v.Types) != n {
		return formatError("tokenizer.ggml.token_type has %d entries for %d tokens", len(v.Types), n)
	}
	t := b.t
	t.tokens = append([]string(nil), v.Tokens...)
	t.has = make([]bool, n)
	t.added.byID = map[int32]addedToken{}
	for i, token := range t.tokens {
		if !isText(token) {
			return formatError("token %d is not UTF-8, or too long", i)
		}
		id := int32(i)
		t.has[i] = true
		t.ids[token] = id
		typ := int32(ggufNormal)
		if len(v.Types) != 0 {
			typ = v.Types[i]
		}
		switch typ {
		case ggufControl, ggufUnknown, ggufUserDefined:
			if token != "" {
				t.added.byID[id] = addedToken{content: token, special: typ != ggufUserDefined}
			}
		case ggufNormal, ggufUnused, ggufByte:
		default:
			return formatError("tokenizer.ggml.token_type %d of token %d", typ, i)
		}
	}
	b.dropShadowed()
	for _, id := range []int32{v.BOS, v.EOS, v.UNK, v.PAD, v.EOT} {
		if id < -1 || int(id) >= n {
			return formatError("a special token has id %d of %d", id, n)
		}
	}
	t.special = Special{BOS: v.BOS, EOS: v.EOS, UNK: v.UNK, PAD: v.PAD}
	return nil
}

// dropShadowed leaves of added tokens that are spelled alike the one with the greatest id, which is
// the one that a look-up by text finds. Padding tokens are such.
func (b *builder) dropShadowed() {
	for id, a := range b.t.added.byID {
		if b.t.ids[a.content] != id {
			delete(b.t.added.byID, id)
		}
	}
}

// ggufBytes is byte-level BPE.
func (b *builder) ggufBytes(v *GGUFVocab) (addBOS bool, err error) {
	stages, llama3, err := ggufSplit(v.Pre)
	if err != nil {
		return false, err
	}
	m := &bpe{unk: -1, alphabet: b.alphabet, vocab: b.vocabCopy(), ignoreMerges: llama3}
	m.byteLevel = true
	b.t.model = m
	b.t.split = append(stages, byteLevelSplit{})
	b.t.decode = []func() decodeStage{
		func() decodeStage { return unspellStage{b.alphabet} }, newLossyStage}
	pairs := make([]mergePair, len(v.Merges))
	for i, s := range v.Merges {
		// A blank inside a token is spelled otherwise, so that the only one separates.
		left, right, ok := strings.Cut(s, " ")
		if !ok || strings.Contains(right, " ") {
			return false, formatError("tokenizer.ggml.merges, entry %d: %q", i, s)
		}
		pairs[i] = mergePair{left, right}
	}
	return llama3, m.setMerges(pairs)
}

func (b *builder) vocabCopy() map[string]int32 {
	vocab := make(map[string]int32, len(b.t.ids))
	for s, id := range b.t.ids {
		vocab[s] = id
	}
	return vocab
}

// ggufSplit returns the split stages that tokenizer.ggml.pre names. llama3: a word that is a token
// needs no merges, and a BOS token is the default.
func ggufSplit(pre string) (stages []splitStage, llama3 bool, err error) {
	var patterns []string
	switch pre {
	case "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2":
		patterns, llama3 = []string{patternLlama3}, true
	case "smaug-bpe", "dbrx", "chatglm-bpe", "glm4":
		patterns = []string{patternLlama3}
	case "gpt-2", "phi-2", "mpt", "olmo", "jais":
		patterns = []string{patternGPT2}
	case "qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan":
		patterns = []string{patternQwen}
	case "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b":
		patterns = []string{patternDigit, patternGPT2}
	case "deepseek-llm":
		patterns = []string{patternNewline, patternDeepSeekLetters, patternDeepSeekPunct,
			patternSpaceAtEnd, patternCJK, patternDigit}
	case "deepseek-coder":
		patterns = []string{patternNewline, patternSpaceLetters, patternSpacePunct, patternCJK,
			patternDigit}
	case "deepseek-v3":
		patterns = []string{patternDigits3, patternCJKKana, patternDeepSeek3}
	case "default":
		patterns = []string{patternDefaultPunct, patternGPT2, patternDefaultDigits,
			patternThreeDigits}
	default:
		return nil, false, unsupported("tokenizer.ggml.pre %q", pre)
	}
	for _, p := range patterns {
		m, err := newMatcher(p)
		if err != nil {
			return nil, false, err
		}
		stages = append(stages, patternSplit{m: m})
	}
	return stages, llama3, nil
}

// ggufScores is SentencePiece BPE: two neighbours merge if together they are a token, the token of
// greatest score first. As a merge table: every way to cut a token in two, ranked by score.
func (b *builder) ggufScores(v *GGUFVocab) error {
	if len(v.Scores) != len(v.Tokens) {
		return formatError("tokenizer.ggml.scores has %d entries for %d tokens", len(v.Scores),
			len(v.Tokens))
	}
	m := &bpe{unk: -1, alphabet: b.alphabet, vocab: b.vocabCopy(), byteFallback: true,
		lateFallback: true}
	b.t.model = m
	ranks, err := scoreRanks(v.Scores)
	if err != nil {
		return err
	}
	if err := m.cutMerges(ranks, int32(len(v.Tokens))); err != nil {
		return err
	}
	if err := b.ggufByteTokens(v); err != nil {
		return err
	}
	prefix := v.AddSpacePrefix == nil || *v.AddSpacePrefix
	replace := replacer{m: stringMatcher(" "), by: metaspace}
	b.t.normalize = []normalizer{replace.apply}
	b.t.decode = []func() decodeStage{
		func() decodeStage { return replaceStage{metaspace, " "} },
		newByteFallbackStage,
		func() decodeStage { return &fuseStage{} },
	}
	if prefix {
		b.t.normalize = []normalizer{prepend(metaspace), replace.apply}
		b.t.decode = append(b.t.decode, func() decodeStage {
			return &stripStage{content: " ", start: 1}
		})
	}
	return nil
}

// ggufByteTokens checks that every byte has a token: a character that is none becomes its bytes.
func (b *builder) ggufByteTokens(v *GGUFVocab) error {
	const digits = "0123456789ABCDEF"
	for i := range 256 {
		name := "<0x" + string([]byte{digits[i>>4], digits[i&15]}) + ">"
		if _, ok := b.t.ids[name]; !ok {
			return unsupported("tokenizer.ggml.model %q without a token %s", v.Model, name)
		}
	}
	return nil
}

// scoreRanks numbers the distinct scores, greatest first.
func scoreRanks(scores []float32) ([]uint32, error) {
	order := make([]int, len(scores))
	for i, s := range scores {
		if math.IsNaN(float64(s)) {
			return nil, formatError("tokenizer.ggml.scores: token %d has no number", i)
		}
		order[i] = i
	}
	sort.Slice(order, func(i, j int) bool { return scores[order[i]] > scores[order[j]] })
	ranks := make([]uint32, len(scores))
	rank := uint32(0)
	for i, id := range order {
		if i > 0 && scores[id] != scores[order[i-1]] {
			rank++
		}
		ranks[id] = rank
	}
	return ranks, nil
}

// cutMerges fills m.merges with every cut of every token into two that are tokens or characters. A
// character that is no token has an id from size on, so that it can take part in merges.
func (m *bpe) cutMerges(ranks []uint32, size int32) error {
	chars := make(map[string]int32)
	work := 0
	for token := range m.vocab {
		work += len(token) * len(token)
		for i, r := range token {
			c := token[i : i+utf8.RuneLen(r)]
			if _, ok := m.vocab[c]; !ok && chars[c] == 0 { // size > 0
				chars[c] = size + int32(len(chars))
			}
		}
	}
	if work > cutWorkMax {
		return unsupported("tokenizer.ggml.tokens: too many, or too long, for their cuts")
	}
	m.merges = make(map[uint64]uint64, 2*len(m.vocab))
	symbol := func(s string) (int32, bool) {
		if id, ok := m.vocab[s]; ok {
			return id, true
		}
		id, ok := chars[s]
		return id, ok
	}
	for token, id := range m.vocab {
		for i := range token {
			a, ok1 := symbol(token[:i])
			b, ok2 := symbol(token[i:])
			if i > 0 && ok1 && ok2 {
				m.merges[pairKey(a, b)] = uint64(ranks[id])<<32 | uint64(uint32(id))
			}
		}
	}
	for c, id := range chars {
		m.vocab[c] = id
	}
	return nil
}

// cutWorkMax bounds the bytes that are looked at in cutting every token of a SentencePiece
// vocabulary in every place. Published ones need a hundredth of it.
const cutWorkMax = 1 << 28
