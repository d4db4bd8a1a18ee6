package pack

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/moering/moering/engine/internal/tokenizer"
	"github.com/moering/moering/offload/store"
)

// Token types of GGUF.
const (
	tokenNormal      = 1
	tokenControl     = 3
	tokenUserDefined = 4
	tokenUnused      = 5
)

// tokenizer returns the tokenizer.* keys of a Hugging Face model. The engine reads the tokenizer.json
// that the packed file carries; these keys are for other programs. They are written for byte-level
// BPE whose split pattern has a name in GGUF, after a comparison of both tokenizers; for others the
// file says that it has no vocabulary, which is how other programs take ids alone.
func (p *plan) tokenizer(chatTemplate string) ([]entry, error) {
	var entries []entry
	if chatTemplate != "" {
		entries = append(entries, entry{"tokenizer.chat_template", store.Scalar(chatTemplate)})
	}
	none := append(entries, entry{"tokenizer.ggml.model", store.Scalar("none")})
	text, absent := p.m.Store.SideFile(store.SideTokenizer)
	if absent != nil {
		return none, nil
	}
	config, absent := p.m.Store.SideFile(store.SideTokenizerConfig)
	if absent != nil {
		config = nil
	}
	t, err := tokenizer.FromJSON(text, config)
	if err != nil {
		return nil, err
	}
	v, why := ggufVocab(t, text, p.m.Vocab)
	if why == "" {
		why = compare(t, v)
	}
	if why != "" {
		p.notes["the tokenizer has no form in GGUF metadata that other programs read ("+why+
			"); it is carried as tokenizer.json"]++
		return none, nil
	}
	return append(entries, vocabEntries(v)...), nil
}

// jsonTokenizer is what is looked at of tokenizer.json; FromJSON has checked it.
type jsonTokenizer struct {
	Added []struct {
		ID      int32  `json:"id"`
		Content string `json:"content"`
		Special bool   `json:"special"`
	} `json:"added_tokens"`
	Normalizer   *jsonStage `json:"normalizer"`
	PreTokenizer *jsonStage `json:"pre_tokenizer"`
	Model        struct {
		Vocab        map[string]int32  `json:"vocab"`
		Merges       []json.RawMessage `json:"merges"`
		ByteFallback bool              `json:"byte_fallback"`
		IgnoreMerges bool              `json:"ignore_merges"`
	} `json:"model"`
}

// jsonStage is a normaliser or pre-tokeniser.
type jsonStage struct {
	Type          string      `json:"type"`
	Pretokenizers []jsonStage `json:"pretokenizers"`
	Behavior      string      `json:"behavior"`
	Invert        bool        `json:"invert"`
	Prefix        bool        `json:"add_prefix_space"`
	UseRegex      *bool       `json:"use_regex"`
	Pattern       struct {
		Regex string `json:"Regex"`
	} `json:"pattern"`
}

// The split patterns that have a name in GGUF, as published tokenizer.json files spell them.
const (
	patternQwen2 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|` +
		` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|` +
		` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// splitName returns the name in GGUF of how text is split into words; "" where there is none.
func (t *jsonTokenizer) splitName() string {
	s := t.PreTokenizer
	if s == nil || t.Model.ByteFallback {
		return ""
	}
	plain := func(b jsonStage) bool { return b.Type == "ByteLevel" && !b.Prefix }
	name := ""
	switch {
	case plain(*s) && (s.UseRegex == nil || *s.UseRegex):
		name = "gpt-2"
	case s.Type == "Sequence" && len(s.Pretokenizers) == 2 && plain(s.Pretokenizers[1]) &&
		s.Pretokenizers[1].UseRegex != nil && !*s.Pretokenizers[1].UseRegex:
		split := s.Pretokenizers[0]
		if split.Type != "Split" || split.Behavior != "Isolated" || split.Invert {
			return ""
		}
		name = map[string]string{patternQwen2: "qwen2", patternLlama3: "llama-bpe"}[split.Pattern.Regex]
	}
	// Qwen's normaliser is NFC, which GGUF leaves out; text is in that form as a rule.
	normal := t.Normalizer == nil || name == "qwen2" && t.Normalizer.Type == "NFC"
	if !normal || t.Model.IgnoreMerges != (name == "llama-bpe") {
		return ""
	}
	return name
}

// ggufVocab turns a byte-level BPE into GGUF's form, or says why it cannot.
func ggufVocab(t *tokenizer.Tokenizer, text []byte, size int) (v tokenizer.GGUFVocab, why string) {
	var j jsonTokenizer
	if err := json.Unmarshal(text, &j); err != nil {
		return v, err.Error()
	}
	v.Model, v.Pre = "gpt2", j.splitName()
	if v.Pre == "" {
		return v, "its way to split text into words has no name there"
	}
	if t.Size() > size {
		return v, fmt.Sprintf("it has %d tokens, and the model %d", t.Size(), size)
	}
	v.Tokens, v.Types = make([]string, size), make([]int32, size)
	for id := range v.Tokens {
		token, ok := t.Token(int32(id))
		v.Types[id] = tokenNormal
		if !ok {
			token, v.Types[id] = fmt.Sprintf("[PAD%d]", id), tokenUnused
		}
		v.Tokens[id] = token
	}
	for _, a := range j.Added {
		v.Types[a.ID] = tokenUserDefined
		if a.Special {
			v.Types[a.ID] = tokenControl
		}
	}
	for _, raw := range j.Model.Merges {
		var merge string
		var pair []string
		if json.Unmarshal(raw, &merge) != nil {
			if err := json.Unmarshal(raw, &pair); err != nil {
				return v, err.Error()
			}
			merge = strings.Join(pair, " ")
		}
		if !strings.HasPrefix(merge, "#version") {
			v.Merges = append(v.Merges, merge)
		}
	}
	return v, setSpecial(&v, t)
}

// setSpecial fills in the special tokens, and whether text is put between BOS and EOS.
func setSpecial(v *tokenizer.GGUFVocab, t *tokenizer.Tokenizer) (why string) {
	s := t.Special()
	v.BOS, v.EOS, v.UNK, v.PAD, v.EOT = s.BOS, s.EOS, s.UNK, s.PAD, -1
	body, err1 := t.Encode("a", tokenizer.EncodeOptions{})
	whole, err2 := t.Encode("a", tokenizer.EncodeOptions{AddSpecial: true})
	if err1 != nil || err2 != nil || len(body) == 0 || len(whole) == 0 {
		return "it does not encode a letter"
	}
	first, last := whole[0], whole[len(whole)-1]
	addBOS, addEOS := first != body[0], last != body[len(body)-1]
	if addBOS && v.BOS < 0 {
		v.BOS = first
	}
	if addEOS && v.EOS < 0 {
		v.EOS = last
	}
	v.AddBOS, v.AddEOS = &addBOS, &addEOS
	return ""
}

// samples exercise words, blanks, digits, line ends, scripts and code.
func samples() []string {
	return []string{"Hello, world! It's 12345 o'clock; we'LL see.", "  two  blanks\t\ttabs\r\n\nlines \n",
		"func main() {\n\tfor i := 0; i < 10; i++ { x[i] += 0x7F }\n}\n", "naïve café, Ünïcödé, 東京 и Москва",
		"😀 emoji\u200d, \u00a0 blank, 1,000.50€", "", " ", "\n", "a", "''''s 's 'S"}
}

// compare says where the tokenizer in GGUF's form differs; "" if in nothing that is tried.
func compare(t *tokenizer.Tokenizer, v tokenizer.GGUFVocab) string {
	other, err := tokenizer.FromGGUF(v)
	if err != nil {
		return err.Error()
	}
	for _, text := range samples() {
		for _, o := range []tokenizer.EncodeOptions{{}, {AddSpecial: true, ParseSpecial: true}} {
			a, err1 := t.Encode(text, o)
			b, err2 := other.Encode(text, o)
			if err1 != nil || err2 != nil || !slices.Equal(a, b) {
				return fmt.Sprintf("%q becomes other tokens", text)
			}
		}
	}
	return ""
}

func vocabEntries(v tokenizer.GGUFVocab) []entry {
	const prefix = "tokenizer.ggml."
	entries := []entry{
		{prefix + "model", store.Scalar(v.Model)},
		{prefix + "pre", store.Scalar(v.Pre)},
		{prefix + "tokens", store.Array(v.Tokens)},
		{prefix + "token_type", store.Array(v.Types)},
		{prefix + "merges", store.Array(v.Merges)},
	}
	for _, id := range []struct {
		key string
		id  int32
	}{{"bos_token_id", v.BOS}, {"eos_token_id", v.EOS}, {"unknown_token_id", v.UNK},
		{"padding_token_id", v.PAD}} {
		if id.id >= 0 {
			entries = append(entries, number(prefix+id.key, int(id.id)))
		}
	}
	return append(entries, entry{prefix + "add_bos_token", store.Scalar(*v.AddBOS)},
		entry{prefix + "add_eos_token", store.Scalar(*v.AddEOS)})
}
