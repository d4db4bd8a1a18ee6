package tokenizer

import (
	"encoding/json"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// This file turns the components of tokenizer.json into the stages of the pipeline.

// builder gathers the stages.
type builder struct {
	t        *Tokenizer
	alphabet *byteAlphabet
	// shrinks: a normaliser may take away the start of a text, and with it the answer to whether a
	// piece "starts the text", which the reference decides by offsets into the original.
	shrinks bool
	// fused: the decode stages so far cut tokens up, so that a later one sees parts of them.
	fused bool
	// plainAdded: added tokens are decoded as they are spelled. The Hugging Face reference puts them
	// through the decoder like all others, where DeepSeek's added token "ø" turns into a broken byte.
	plainAdded bool
}

func (b *builder) normalizer(raw json.RawMessage, depth int) error {
	kind, o, err := parseComponent("normalizer", raw)
	if o == nil || err != nil {
		return err
	}
	var n normalizer
	switch kind {
	case "Sequence":
		return o.sequence("normalizers", depth, func(p json.RawMessage) error {
			return b.normalizer(p, depth+1)
		})
	case "NFC":
		n = unicodeForm(norm.NFC)
	case "NFD":
		n = unicodeForm(norm.NFD)
	case "NFKC":
		n = unicodeForm(norm.NFKC)
	case "NFKD":
		n = unicodeForm(norm.NFKD)
	case "Lowercase":
		n = lowercase
	case "StripAccents":
		n, b.shrinks = stripMarks, true
	case "Strip":
		left := o.flag("strip_left", true)
		n = stripBlanks(left, o.flag("strip_right", true))
		b.shrinks = b.shrinks || left
	case "Prepend":
		n = prepend(o.str("prepend"))
	case "Replace":
		r := replacer{m: o.pattern("pattern"), by: o.str("content")}
		n = r.apply
		b.shrinks = b.shrinks || r.by == ""
	default:
		return unsupported("%s", o.what)
	}
	b.t.normalize = append(b.t.normalize, n)
	return o.finish()
}

// preTokenizer appends split stages. last says that no other stage follows.
func (b *builder) preTokenizer(raw json.RawMessage, depth int) error {
	kind, o, err := parseComponent("pre_tokenizer", raw)
	if o == nil || err != nil {
		return err
	}
	if kind == "Sequence" {
		return o.sequence("pretokenizers", depth, func(p json.RawMessage) error {
			return b.preTokenizer(p, depth+1)
		})
	}
	stage, err := b.splitStage(kind, o)
	if err != nil {
		return err
	}
	b.t.split = append(b.t.split, stage)
	return o.finish()
}

func (b *builder) splitStage(kind string, o *options) (splitStage, error) {
	switch kind {
	case "ByteLevel":
		return b.byteLevel(o)
	case "Split":
		p := patternSplit{m: o.pattern("pattern"), invert: o.flag("invert", false)}
		p.behavior = o.behavior(o.str("behavior"))
		return p, o.err
	case "Digits":
		p := patternSplit{m: runeMatcher(unicode.IsNumber), behavior: contiguous}
		if o.flag("individual_digits", false) {
			p.behavior = isolated
		}
		return p, o.err
	case "Punctuation":
		name := "Isolated"
		o.get("behavior", &name)
		return patternSplit{m: runeMatcher(isPunctuation), behavior: o.behavior(name)}, o.err
	case "Whitespace":
		return patternSplit{m: wordMatcher{}, behavior: removed, invert: true}, nil
	case "WhitespaceSplit":
		return patternSplit{m: runeMatcher(unicode.IsSpace), behavior: removed}, nil
	case "Metaspace":
		return b.metaspace(o)
	}
	return nil, unsupported("%s", o.what)
}

func (o *options) behavior(name string) behavior {
	v, ok := parseBehavior(name)
	if !ok {
		o.fail(unsupported("%s, behavior %q", o.what, name))
	}
	return v
}

func (b *builder) byteLevel(o *options) (splitStage, error) {
	s := byteLevelSplit{prefixSpace: o.flag("add_prefix_space", true)}
	s.spell = b.alphabet
	if o.flag("use_regex", true) {
		m, err := newMatcher(patternGPT2)
		if err != nil {
			return nil, err
		}
		s.words = &patternSplit{m: m}
	}
	o.ignore("trim_offsets") // moves offsets only, and there are none here
	return s, o.err
}

func (b *builder) metaspace(o *options) (splitStage, error) {
	m := metaspaceSplit{mark: o.char("replacement"), cut: o.flag("split", true)}
	m.prefix = o.prefixScheme()
	if m.prefix == prefixFirst && (b.shrinks || b.rewrites()) {
		return nil, unsupported("%s, prepend_scheme first behind a component that "+
			"moves the start of the text", o.what)
	}
	return m, o.err
}

// rewrites reports whether a split stage so far changes the text and not only cuts it.
func (b *builder) rewrites() bool {
	for _, s := range b.t.split {
		if _, ok := s.(patternSplit); !ok {
			return true
		}
	}
	return false
}

// prefixScheme reads prepend_scheme, and add_prefix_space, which came before it.
func (o *options) prefixScheme() prefixScheme {
	name := "always"
	o.get("prepend_scheme", &name)
	v, ok := parsePrefixScheme(name)
	if !ok {
		o.fail(unsupported("%s, prepend_scheme %q", o.what, name))
	}
	if !o.flag("add_prefix_space", true) && v != prefixNever {
		o.fail(formatError("%s: add_prefix_space contradicts prepend_scheme", o.what))
	}
	o.ignore("str_rep")
	return v
}

// finishSplit lets a byte-level stage at the end leave the bytes as they are.
func (b *builder) finishSplit() {
	n := len(b.t.split)
	if n == 0 {
		return
	}
	if s, ok := b.t.split[n-1].(byteLevelSplit); ok && !b.spelled(n-1) {
		s.spell = nil
		b.t.split[n-1] = s
		b.t.model.byteLevel = true
	}
}

// spelled reports whether one of the first n stages spells bytes already.
func (b *builder) spelled(n int) bool {
	for _, s := range b.t.split[:n] {
		if _, ok := s.(byteLevelSplit); ok {
			return true
		}
	}
	return false
}

func (b *builder) postProcessor(raw json.RawMessage, depth int) error {
	kind, o, err := parseComponent("post_processor", raw)
	if o == nil || err != nil {
		return err
	}
	switch kind {
	case "Sequence":
		return o.sequence("processors", depth, func(p json.RawMessage) error {
			return b.postProcessor(p, depth+1)
		})
	case "ByteLevel":
		return nil // moves offsets only
	case "TemplateProcessing":
		return b.templateProcessing(o)
	}
	return unsupported("%s", o.what)
}

type jsonPiece struct {
	Sequence *struct {
		ID string `json:"id"`
	}
	SpecialToken *struct {
		ID string `json:"id"`
	}
}

type jsonSpecial struct {
	IDs []int32 `json:"ids"`
}

func (b *builder) templateProcessing(o *options) error {
	if b.t.template != nil {
		return unsupported("%s: more than one", o.what)
	}
	var pieces []jsonPiece
	specials := map[string]jsonSpecial{}
	o.need("single", &pieces)
	o.get("special_tokens", &specials)
	o.ignore("pair") // for two texts; there is no call for that
	if o.err != nil {
		return o.err
	}
	b.t.template = []templatePiece{}
	for _, p := range pieces {
		piece, err := templatePieceOf(o.what, p, specials)
		if err != nil {
			return err
		}
		b.t.template = append(b.t.template, piece)
	}
	return o.finish()
}

func templatePieceOf(what string, p jsonPiece, specials map[string]jsonSpecial,
) (templatePiece, error) {
	switch {
	case p.Sequence != nil && p.SpecialToken == nil && p.Sequence.ID == "A":
		return templatePiece{sequence: true}, nil
	case p.SpecialToken != nil && p.Sequence == nil:
		s, ok := specials[p.SpecialToken.ID]
		if !ok {
			return templatePiece{}, formatError("%s: no special token %q", what, p.SpecialToken.ID)
		}
		return templatePiece{ids: s.IDs}, nil
	}
	return templatePiece{}, formatError("%s: a piece is neither text A nor a special token", what)
}

func (b *builder) decoder(raw json.RawMessage, depth int) error {
	kind, o, err := parseComponent("decoder", raw)
	if o == nil || err != nil {
		return err
	}
	if kind == "Sequence" {
		return o.sequence("decoders", depth, func(p json.RawMessage) error {
			return b.decoder(p, depth+1)
		})
	}
	stage, err := b.decodeStage(kind, o)
	if err != nil {
		return err
	}
	b.t.decode = append(b.t.decode, stage)
	return o.finish()
}

func (b *builder) decodeStage(kind string, o *options) (func() decodeStage, error) {
	wasFused := b.fused
	switch kind {
	case "ByteLevel":
		o.ignore("add_prefix_space", "trim_offsets", "use_regex")
		if wasFused {
			return nil, unsupported("%s behind a decoder that fuses tokens", o.what)
		}
		b.fused = true
		b.t.decode = append(b.t.decode, func() decodeStage { return unspellStage{b.alphabet} })
		return newLossyStage, nil
	case "ByteFallback":
		if wasFused {
			return nil, unsupported("%s behind a decoder that fuses tokens", o.what)
		}
		b.fused = true
		return newByteFallbackStage, nil
	case "Fuse":
		b.fused = true
		return func() decodeStage { return &fuseStage{} }, nil
	case "Strip":
		content := o.char("content")
		var start, stop int
		o.need("start", &start)
		o.need("stop", &stop)
		if stop != 0 || start < 0 {
			return nil, unsupported("%s, start %d stop %d", o.what, start, stop)
		}
		return func() decodeStage { return &stripStage{content: content, start: start} }, o.err
	case "Replace":
		return b.replaceStage(o)
	case "Metaspace":
		mark, scheme := o.char("replacement"), o.prefixScheme()
		o.ignore("split")
		return func() decodeStage {
			return &metaspaceStage{mark: mark, prefix: scheme != prefixNever}
		}, o.err
	}
	return nil, unsupported("%s", o.what)
}

func (b *builder) replaceStage(o *options) (func() decodeStage, error) {
	m := o.pattern("pattern")
	to := o.str("content")
	if o.err != nil {
		return nil, o.err
	}
	from, ok := m.(stringMatcher)
	if !ok {
		return nil, unsupported("%s, a pattern that is a regular expression", o.what)
	}
	if b.fused && utf8.RuneCountInString(string(from)) > 1 {
		return nil, unsupported("%s, a pattern of several characters behind a decoder that "+
			"fuses tokens", o.what)
	}
	return func() decodeStage { return replaceStage{string(from), to} }, nil
}
