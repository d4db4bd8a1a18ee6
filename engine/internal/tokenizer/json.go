package tokenizer

import (
	"encoding/json"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// idMax bounds the ids of a vocabulary: the tables are as long as the greatest id.
const idMax = 1<<22 - 1

// FromJSON reads a tokenizer.json, and the tokenizer_config.json beside it if there is one (nil
// else). The result does what the reference does after loading the same two files, with the
// following taken from the second: which tokens are BOS, EOS, UNK and PAD, more added tokens, and
// add_bos_token and add_eos_token, which replace the template of the first.
//
// Errors wrap ErrFormat or ErrUnsupported and name the component and the option.
func FromJSON(tokenizerJSON, tokenizerConfigJSON []byte) (*Tokenizer, error) {
	if !utf8.Valid(tokenizerJSON) || !utf8.Valid(tokenizerConfigJSON) {
		return nil, formatError("tokenizer.json or tokenizer_config.json is not UTF-8")
	}
	var f tokenizerFile
	if err := json.Unmarshal(tokenizerJSON, &f); err != nil {
		return nil, formatError("tokenizer.json: %v", err)
	}
	if f.Version != "" && f.Version != "1.0" {
		return nil, unsupported("tokenizer.json version %q", f.Version)
	}
	config, err := parseConfig(tokenizerConfigJSON)
	if err != nil {
		return nil, err
	}
	b := &builder{t: &Tokenizer{ids: map[string]int32{}}, alphabet: newByteAlphabet()}
	if err := b.model(f.Model); err != nil {
		return nil, err
	}
	if err := b.pipeline(&f); err != nil {
		return nil, err
	}
	if err := b.addTokens(f.AddedTokens, config); err != nil {
		return nil, err
	}
	if err := b.configure(config); err != nil {
		return nil, err
	}
	return b.finish()
}

// tokenizerFile is tokenizer.json. Truncation and padding are for batches of fixed length, which
// are not made here: prompts are never cut silently.
type tokenizerFile struct {
	Version       string          `json:"version"`
	AddedTokens   []jsonAdded     `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

type jsonAdded struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized *bool  `json:"normalized"`
	Special    bool   `json:"special"`
}

func (a jsonAdded) token() addedToken {
	normalized := !a.Special
	if a.Normalized != nil {
		normalized = *a.Normalized
	}
	return addedToken{content: a.Content, special: a.Special, singleWord: a.SingleWord,
		lstrip: a.LStrip, rstrip: a.RStrip, normalized: normalized}
}

func (b *builder) pipeline(f *tokenizerFile) error {
	if err := b.normalizer(f.Normalizer, 0); err != nil {
		return err
	}
	if err := b.preTokenizer(f.PreTokenizer, 0); err != nil {
		return err
	}
	b.finishSplit()
	if err := b.postProcessor(f.PostProcessor, 0); err != nil {
		return err
	}
	if b.t.template == nil {
		b.t.template = []templatePiece{{sequence: true}}
	}
	if isNull(f.Decoder) {
		b.t.decode = append(b.t.decode, newJoinStage)
	}
	return b.decoder(f.Decoder, 0)
}

// model reads the model component into b.t.model. Its vocabulary is spelled as in the file; finish
// turns it into bytes if that is what the split stages leave.
func (b *builder) model(raw json.RawMessage) error {
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return formatError("model: %v", err)
	}
	if kind.Type != "BPE" && kind.Type != "" { // files from before 0.10 do not say
		return unsupported("model %s", kind.Type)
	}
	o := &options{what: "model BPE"}
	if err := json.Unmarshal(raw, &o.fields); err != nil {
		return formatError("model: %v", err)
	}
	o.ignore("type")
	m := &bpe{unk: -1, alphabet: b.alphabet}
	o.need("vocab", &m.vocab)
	var merges []json.RawMessage
	o.need("merges", &merges)
	o.get("unk_token", &m.unkName)
	m.fuseUnk = o.flag("fuse_unk", false)
	m.byteFallback = o.flag("byte_fallback", false)
	m.ignoreMerges = o.flag("ignore_merges", false)
	o.refuse("dropout", "0", "0.0")
	o.refuse("continuing_subword_prefix", `""`)
	o.refuse("end_of_word_suffix", `""`)
	if err := o.finish(); err != nil {
		return err
	}
	b.t.model = m
	for token, id := range m.vocab {
		if err := b.place(token, id); err != nil {
			return err
		}
	}
	pairs, err := parseMerges(merges)
	if err != nil {
		return err
	}
	return m.setMerges(pairs)
}

// refuse fails if a field has another value than null or the given neutral ones.
func (o *options) refuse(key string, neutral ...string) {
	raw := strings.TrimSpace(string(o.fields[key]))
	for _, n := range neutral {
		if raw == n {
			o.ignore(key)
		}
	}
}

// place enters a token of the model into the tables by id.
func (b *builder) place(token string, id int32) error {
	if id < 0 || id > idMax {
		return formatError("token %q has id %d", token, id)
	}
	t := b.t
	if n := int(id) + 1; n > len(t.tokens) {
		t.tokens = append(t.tokens, make([]string, n-len(t.tokens))...)
		t.has = append(t.has, make([]bool, n-len(t.has))...)
	}
	if t.has[id] && t.tokens[id] != token {
		return formatError("tokens %q and %q have the same id %d", t.tokens[id], token, id)
	}
	t.tokens[id], t.has[id], t.ids[token] = token, true, id
	return nil
}

type mergePair struct{ left, right string }

// parseMerges reads both spellings, "a b" and ["a", "b"], but not a mixture.
func parseMerges(raw []json.RawMessage) ([]mergePair, error) {
	pairs := make([]mergePair, 0, len(raw))
	for i, r := range raw {
		var p []string
		if isString := len(r) > 0 && r[0] == '"'; isString {
			var s string
			if err := json.Unmarshal(r, &s); err != nil {
				return nil, formatError("merge %d: %v", i, err)
			}
			if strings.HasPrefix(s, "#version") {
				continue
			}
			p = strings.Split(s, " ")
		} else if err := json.Unmarshal(r, &p); err != nil {
			return nil, formatError("merge %d: %v", i, err)
		}
		if len(p) != 2 {
			return nil, formatError("merge %d has %d parts", i, len(p))
		}
		pairs = append(pairs, mergePair{p[0], p[1]})
	}
	return pairs, nil
}

// setMerges fills m.merges; the rank of a merge is its place. Of equal merges the last one counts.
func (m *bpe) setMerges(pairs []mergePair) error {
	m.merges = make(map[uint64]uint64, len(pairs))
	for rank, p := range pairs {
		a, ok1 := m.vocab[p.left]
		b, ok2 := m.vocab[p.right]
		both, ok3 := m.vocab[p.left+p.right]
		if !ok1 || !ok2 || !ok3 {
			return formatError("merge %d, of %q and %q: not all of the three are in the vocabulary",
				rank, p.left, p.right)
		}
		m.merges[pairKey(a, b)] = uint64(rank)<<32 | uint64(uint32(both))
	}
	return nil
}

// addTokens enters the added tokens of tokenizer.json, and then those of the configuration.
func (b *builder) addTokens(added []jsonAdded, c *configFile) error {
	b.t.added.byID = map[int32]addedToken{}
	base := len(b.t.model.vocab)
	next := int32(base)
	for _, a := range added {
		if err := b.addToken(a.token(), a.ID, &next); err != nil {
			return err
		}
	}
	for id := range b.t.added.byID {
		next = max(next, id+1)
	}
	for _, id := range c.sortedIDs() {
		if err := b.addToken(c.added[id].token(), id, &next); err != nil {
			return err
		}
	}
	return nil
}

// addToken enters one. Like the reference it takes the id of a token that is there already, and
// else the next free one; a file that says otherwise is refused.
func (b *builder) addToken(tok addedToken, id int32, next *int32) error {
	if tok.content == "" {
		return nil
	}
	want, ok := b.t.ids[tok.content]
	if !ok {
		want = *next
		*next++
	}
	if want != id {
		return formatError("added token %q has id %d and should have %d", tok.content, id, want)
	}
	b.t.added.byID[id] = tok
	return b.place(tok.content, id)
}

// configFile is what is used of tokenizer_config.json.
type configFile struct {
	AddBOS *bool                `json:"add_bos_token"`
	AddEOS *bool                `json:"add_eos_token"`
	BOS    configToken          `json:"bos_token"`
	EOS    configToken          `json:"eos_token"`
	UNK    configToken          `json:"unk_token"`
	PAD    configToken          `json:"pad_token"`
	Added  map[string]jsonAdded `json:"added_tokens_decoder"`
	added  map[int32]jsonAdded
}

// configToken is a token spelled as a string, or as an object with flags.
type configToken string

func (c *configToken) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, (*string)(c))
	}
	var o struct {
		Content string `json:"content"`
	}
	err := json.Unmarshal(raw, &o)
	*c = configToken(o.Content)
	return err
}

func parseConfig(raw []byte) (*configFile, error) {
	c := &configFile{added: map[int32]jsonAdded{}}
	if isNull(raw) {
		return c, nil
	}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, formatError("tokenizer_config.json: %v", err)
	}
	for key, a := range c.Added {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil {
			return nil, formatError("tokenizer_config.json: added token id %q", key)
		}
		c.added[int32(id)] = a
	}
	return c, nil
}

func (c *configFile) sortedIDs() []int32 {
	ids := make([]int32, 0, len(c.added))
	for id := range c.added {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	return ids
}

// configure applies the configuration: the special tokens and the template.
func (b *builder) configure(c *configFile) error {
	b.t.special = Special{BOS: b.special(c.BOS), EOS: b.special(c.EOS), UNK: b.special(c.UNK),
		PAD: b.special(c.PAD)}
	if b.t.special.UNK < 0 {
		b.t.special.UNK = b.lookup(b.t.model.unkName)
	}
	if c.AddBOS == nil && c.AddEOS == nil {
		return nil
	}
	addBOS := c.AddBOS != nil && *c.AddBOS && c.BOS != ""
	addEOS := c.AddEOS != nil && *c.AddEOS && c.EOS != ""
	if addBOS && b.t.special.BOS < 0 || addEOS && b.t.special.EOS < 0 {
		return formatError("bos_token %q or eos_token %q is not in the vocabulary", c.BOS, c.EOS)
	}
	b.t.template = bosTemplate(b.t.special, addBOS, addEOS)
	return nil
}

func bosTemplate(s Special, addBOS, addEOS bool) []templatePiece {
	var t []templatePiece
	if addBOS {
		t = append(t, templatePiece{ids: []int32{s.BOS}})
	}
	t = append(t, templatePiece{sequence: true})
	if addEOS {
		t = append(t, templatePiece{ids: []int32{s.EOS}})
	}
	return t
}

func (b *builder) lookup(token string) int32 {
	if id, ok := b.t.ids[token]; ok && token != "" {
		return id
	}
	return -1
}

// special returns the id of a token that the configuration names, and makes it an added token, as
// the reference does. A token that is not in the vocabulary is none: it has no row in the model.
func (b *builder) special(c configToken) int32 {
	id := b.lookup(string(c))
	if id < 0 {
		return -1
	}
	if _, ok := b.t.added.byID[id]; !ok {
		b.t.added.byID[id] = addedToken{content: string(c), special: true}
	}
	return id
}
