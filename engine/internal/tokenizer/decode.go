package tokenizer

import "strings"

// decodeStage is one step of a decoder, written for a stream: it is given tokens in order, and
// passes on text as soon as no later token can change it. begin is false where text goes on with
// the token of the call before (stages that fuse tokens, or wait for the rest of a character, cut
// them up). flush ends the stream.
type decodeStage interface {
	token(begin bool, text string, next func(begin bool, text string))
	flush(next func(begin bool, text string))
}

// Stream decodes token by token. It is used by one goroutine at a time.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	stages      []decodeStage
	emit        []func(begin bool, text string) // emit[i] feeds stage i; the last one fills out
	out         []byte
}

// NewStream returns a decoder for one sequence. skipSpecial leaves special tokens out.
func (t *Tokenizer) NewStream(skipSpecial bool) *Stream {
	s := &Stream{t: t, skipSpecial: skipSpecial}
	s.stages = make([]decodeStage, len(t.decode))
	s.emit = make([]func(bool, string), len(t.decode)+1)
	s.emit[len(t.decode)] = func(_ bool, text string) { s.out = append(s.out, text...) }
	for i := len(t.decode) - 1; i >= 0; i-- {
		stage, next := t.decode[i](), s.emit[i+1]
		s.stages[i] = stage
		s.emit[i] = func(begin bool, text string) { stage.token(begin, text, next) }
	}
	return s
}

// Push returns the text that token id completes. It is UTF-8 and never ends inside a character: up
// to 3 bytes of one are held back until it is whole or known to be broken, and then a broken one
// comes out as U+FFFD. Ids without a token add nothing.
func (s *Stream) Push(id int32) string {
	if !s.t.valid(id) || s.skipSpecial && s.t.skip[id] {
		return ""
	}
	s.out = s.out[:0]
	s.emit[0](true, s.t.feed[id])
	return string(s.out)
}

// Flush returns what is held back and ends the sequence. What Push and Flush return, put together,
// is what Decode returns for the same ids.
func (s *Stream) Flush() string {
	s.out = s.out[:0]
	for i, stage := range s.stages {
		stage.flush(s.emit[i+1])
	}
	return string(s.out)
}

// Decode returns the text of ids. skipSpecial leaves special tokens out. Ids without a token add
// nothing.
//
// The text is that of the reference, but for a run of byte-fallback tokens ("<0xE4>") that is not
// UTF-8 as a whole: the reference makes every byte of the run a U+FFFD, also those of its good
// characters, which no stream could do. Here good characters stay, and each other byte is a U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	var b strings.Builder
	s := t.NewStream(skipSpecial)
	for _, id := range ids {
		b.WriteString(s.Push(id))
	}
	b.WriteString(s.Flush())
	return b.String()
}

// lossyStage fuses the bytes of all tokens into one text; ill-formed parts become U+FFFD.
type lossyStage struct {
	held  string // at most 3 bytes
	begun bool
	buf   []byte
}

func newLossyStage() decodeStage { return &lossyStage{} }

func (l *lossyStage) token(_ bool, text string, next func(bool, string)) {
	l.pass(l.held+text, false, next)
}

func (l *lossyStage) flush(next func(bool, string)) { l.pass(l.held, true, next) }

func (l *lossyStage) pass(text string, final bool, next func(bool, string)) {
	l.buf, l.held = appendRepaired(l.buf[:0], text, final)
	if len(l.buf) > 0 {
		next(!l.begun, string(l.buf))
		l.begun = true
	}
}

// unspellStage turns the byte alphabet back into bytes, token by token. A token with any other
// character in it stays as it is.
type unspellStage struct{ alphabet *byteAlphabet }

func (u unspellStage) token(begin bool, text string, next func(bool, string)) {
	next(begin, unspell(u.alphabet, text))
}

func (unspellStage) flush(func(bool, string)) {}

func unspell(a *byteAlphabet, text string) string {
	if raw, ok := a.decode(text); ok {
		return raw
	}
	return text
}

// byteFallbackStage joins the bytes of tokens such as "<0xE4>" into characters.
type byteFallbackStage struct {
	held  []byte // the start of a character: at most 3 bytes
	inRun bool
}

func newByteFallbackStage() decodeStage { return &byteFallbackStage{} }

func (f *byteFallbackStage) token(begin bool, text string, next func(bool, string)) {
	if b, ok := byteToken(text); ok {
		f.held = append(f.held, b)
		f.drain(false, next)
		return
	}
	f.drain(true, next)
	f.inRun = false
	next(begin, text)
}

func (f *byteFallbackStage) flush(next func(bool, string)) { f.drain(true, next) }

// drain passes on the characters that are whole and a U+FFFD for each byte that is part of none.
func (f *byteFallbackStage) drain(final bool, next func(bool, string)) {
	out, rest := "", string(f.held)
	for rest != "" {
		n := validPrefix(rest)
		out, rest = out+rest[:n], rest[n:]
		if rest == "" || !final && isPartial(rest) {
			break
		}
		n = badLen(rest)
		out, rest = out+strings.Repeat(replacement, n), rest[n:]
	}
	f.held = append(f.held[:0], rest...)
	if out != "" {
		next(!f.inRun, out)
		f.inRun = true
	}
}

// fuseStage makes one token of all.
type fuseStage struct{ begun bool }

func (f *fuseStage) token(_ bool, text string, next func(bool, string)) {
	next(!f.begun, text)
	f.begun = true
}

func (*fuseStage) flush(func(bool, string)) {}

// stripStage cuts up to start characters content from the front of each token.
type stripStage struct {
	content string
	start   int
	left    int
}

func (s *stripStage) token(begin bool, text string, next func(bool, string)) {
	if begin {
		s.left = s.start
	}
	for s.left > 0 && text != "" {
		if !strings.HasPrefix(text, s.content) {
			s.left = 0
			break
		}
		text = text[len(s.content):]
		s.left--
	}
	next(begin, text)
}

func (*stripStage) flush(func(bool, string)) {}

// replaceStage replaces a string in each token. Behind a stage that cuts tokens up the string is a
// single character (the parser sees to it).
type replaceStage struct{ from, to string }

func (s replaceStage) token(begin bool, text string, next func(bool, string)) {
	next(begin, strings.ReplaceAll(text, s.from, s.to))
}

func (replaceStage) flush(func(bool, string)) {}

// metaspaceStage turns the visible blank into a blank. The first token, of which it was prefixed,
// has it removed.
type metaspaceStage struct {
	mark   string
	prefix bool
	begun  bool
	first  bool
}

func (m *metaspaceStage) token(begin bool, text string, next func(bool, string)) {
	if begin {
		m.first = !m.begun
		m.begun = true
	}
	by := " "
	if m.first && m.prefix {
		by = ""
	}
	next(begin, strings.ReplaceAll(text, m.mark, by))
}

func (*metaspaceStage) flush(func(bool, string)) {}

// joinStage is what the reference does where a tokenizer has no decoder: tokens, blanks between.
type joinStage struct{ begun bool }

func newJoinStage() decodeStage { return &joinStage{} }

func (j *joinStage) token(_ bool, text string, next func(bool, string)) {
	if j.begun {
		text = " " + text
	}
	next(!j.begun, text)
	j.begun = true
}

func (*joinStage) flush(func(bool, string)) {}
