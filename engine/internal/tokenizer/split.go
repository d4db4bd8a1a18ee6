package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// splitStage cuts a piece of text, or rewrites it, and passes the parts on with w.piece(stage+1).
// first says that the piece starts the text that is encoded. Implementations are immutable.
type splitStage interface {
	split(w *walker, stage int, text string, first bool)
}

// span is a part of a piece that the pattern matched, or a gap between two matches.
type span struct {
	start, end int
	match      bool
}

// matcher finds the matches of a pattern from left to right; yield is given byte offsets.
type matcher interface {
	each(w *walker, stage int, text string, yield func(start, end int)) error
}

// behavior says what becomes of the matches of a split pattern.
type behavior int

const (
	isolated           behavior = iota // matches and gaps are pieces
	removed                            // only gaps are pieces
	contiguous                         // neighbouring matches are one piece
	mergedWithPrevious                 // a match joins the gap before it
	mergedWithNext                     // a match joins the gap after it
)

func parseBehavior(s string) (behavior, bool) {
	switch s {
	case "Isolated":
		return isolated, true
	case "Removed":
		return removed, true
	case "Contiguous":
		return contiguous, true
	case "MergedWithPrevious":
		return mergedWithPrevious, true
	case "MergedWithNext":
		return mergedWithNext, true
	}
	return 0, false
}

// patternSplit cuts by the matches of a pattern.
type patternSplit struct {
	m        matcher
	behavior behavior
	invert   bool // matches are gaps and gaps are matches
}

func (p patternSplit) split(w *walker, stage int, text string, first bool) {
	if p.behavior == isolated || p.behavior == removed {
		p.direct(w, stage, text, first)
		return
	}
	spans := w.spans[stage][:0]
	prev := 0
	err := p.m.each(w, stage, text, func(start, end int) {
		if prev != start {
			spans = append(spans, span{prev, start, p.invert})
		}
		spans = append(spans, span{start, end, !p.invert})
		prev = end
	})
	if prev != len(text) {
		spans = append(spans, span{prev, len(text), p.invert})
	}
	w.spans[stage] = spans
	if w.err = err; err != nil {
		return
	}
	for i := 0; i < len(spans); {
		n := p.group(spans[i:], i == 0)
		start := spans[i].start
		w.piece(stage+1, text[start:spans[i+n-1].end], first && start == 0)
		i += n
	}
}

// direct is the case in which every span stands alone.
func (p patternSplit) direct(w *walker, stage int, text string, first bool) {
	keepMatch := p.behavior == isolated || p.invert
	keepGap := p.behavior == isolated || !p.invert
	prev := 0
	err := p.m.each(w, stage, text, func(start, end int) {
		if keepGap {
			w.piece(stage+1, text[prev:start], first && prev == 0)
		}
		if keepMatch {
			w.piece(stage+1, text[start:end], first && start == 0)
		}
		prev = end
	})
	if keepGap {
		w.piece(stage+1, text[prev:], first && prev == 0)
	}
	if err != nil {
		w.err = err
	}
}

// group returns how many spans at the start of s make up the next piece.
func (p patternSplit) group(s []span, atStart bool) int {
	n := 1
	switch p.behavior {
	case contiguous:
		for n < len(s) && s[n].match == s[0].match {
			n++
		}
	case mergedWithPrevious:
		// Only the first of several matches joins. A match with nothing before it stands alone.
		if n < len(s) && !s[0].match && s[1].match {
			n = 2
		}
	case mergedWithNext:
		if n < len(s) && s[0].match && !s[1].match {
			n = 2
		}
	}
	return n
}

// regexMatcher matches a regular expression against the piece alone: nothing around it is seen.
type regexMatcher struct{ re *regexp2.Regexp }

func (m regexMatcher) each(w *walker, stage int, text string, yield func(start, end int)) error {
	runes := appendRunes(w.runes[stage][:0], text)
	w.runes[stage] = runes
	return eachMatch(m.re, text, runes, yield)
}

func appendRunes(dst []rune, s string) []rune {
	for _, r := range s {
		dst = append(dst, r)
	}
	return dst
}

// eachMatch yields the matches of re in text, whose runes are given. An empty match right behind
// the match before it is left out, as in Oniguruma.
func eachMatch(re *regexp2.Regexp, text string, runes []rune, yield func(start, end int)) error {
	at, off := 0, 0 // the same place, in runes and in bytes
	prev := -1
	err := re.FindRunesMatches(runes, 0, func(v regexp2.MatchView) bool {
		i, n, _ := v.GroupRange(0)
		if n == 0 && i == prev {
			return true
		}
		off += runesLen(runes[at:i])
		end := off + runesLen(runes[i:i+n])
		yield(off, end)
		at, off, prev = i+n, end, i+n
		return true
	})
	if err != nil {
		return fmt.Errorf("%w: %q on %d bytes: %v", ErrPattern, re.String(), len(text), err)
	}
	return nil
}

func runesLen(rs []rune) int {
	n := 0
	for _, r := range rs {
		if r < utf8.RuneSelf {
			n++
		} else {
			n += utf8.RuneLen(r)
		}
	}
	return n
}

// stringMatcher matches a string that is not empty.
type stringMatcher string

func (m stringMatcher) each(_ *walker, _ int, text string, yield func(start, end int)) error {
	for at := 0; ; {
		i := strings.Index(text[at:], string(m))
		if i < 0 {
			return nil
		}
		yield(at+i, at+i+len(m))
		at += i + len(m)
	}
}

// runeMatcher matches single characters.
type runeMatcher func(rune) bool

func (m runeMatcher) each(_ *walker, _ int, text string, yield func(start, end int)) error {
	for i, r := range text {
		if m(r) {
			yield(i, i+utf8.RuneLen(r))
		}
	}
	return nil
}

func isPunctuation(r rune) bool {
	return unicode.IsPunct(r) || r < utf8.RuneSelf && unicode.IsSymbol(r)
}

// wordMatcher matches \w+|[^\w\s]+.
type wordMatcher struct{}

func (wordMatcher) each(_ *walker, _ int, text string, yield func(start, end int)) error {
	class := func(r rune) int {
		switch {
		case isWord(r):
			return 1
		case unicode.IsSpace(r):
			return 0
		}
		return 2
	}
	start, current := 0, 0
	for i, r := range text {
		c := class(r)
		if c == current {
			continue
		}
		if current != 0 {
			yield(start, i)
		}
		start, current = i, c
	}
	if current != 0 {
		yield(start, len(text))
	}
	return nil
}

// byteLevelSplit is the last stage of a byte-level pipeline: the model reads bytes as they are. In
// any other place the bytes are spelled in the byte alphabet for the stages behind it.
type byteLevelSplit struct {
	prefixSpace bool
	words       *patternSplit // nil: do not cut
	spell       *byteAlphabet // nil: do not spell
}

func (b byteLevelSplit) split(w *walker, stage int, text string, first bool) {
	if b.prefixSpace && text[0] != ' ' {
		text = " " + text
	}
	if b.words == nil {
		b.pass(w, stage, text, first)
		return
	}
	prev := 0
	err := b.words.m.each(w, stage, text, func(start, end int) {
		b.pass(w, stage, text[prev:start], first && prev == 0)
		b.pass(w, stage, text[start:end], first && start == 0)
		prev = end
	})
	b.pass(w, stage, text[prev:], first && prev == 0)
	if err != nil {
		w.err = err
	}
}

func (b byteLevelSplit) pass(w *walker, stage int, text string, first bool) {
	if b.spell != nil {
		text = b.spell.encode(text)
	}
	w.piece(stage+1, text, first)
}

// metaspaceSplit writes blanks as a visible character, and cuts before each.
type metaspaceSplit struct {
	mark   string
	prefix prefixScheme
	cut    bool
}

// prefixScheme says which pieces are given a mark in front, if they have none.
type prefixScheme int

const (
	prefixAlways prefixScheme = iota
	prefixFirst               // the piece that starts the text
	prefixNever
)

func parsePrefixScheme(s string) (prefixScheme, bool) {
	switch s {
	case "always":
		return prefixAlways, true
	case "first":
		return prefixFirst, true
	case "never":
		return prefixNever, true
	}
	return 0, false
}

func (m metaspaceSplit) split(w *walker, stage int, text string, first bool) {
	text = strings.ReplaceAll(text, " ", m.mark)
	add := m.prefix == prefixAlways || m.prefix == prefixFirst && first
	if add && !strings.HasPrefix(text, m.mark) {
		text = m.mark + text
	}
	if !m.cut {
		w.piece(stage+1, text, first)
		return
	}
	// A mark joins what follows it; of several marks only the last does.
	start := 0
	for start < len(text) {
		end := start
		if strings.HasPrefix(text[start:], m.mark) {
			end += len(m.mark)
		}
		if n := strings.Index(text[end:], m.mark); n >= 0 {
			end += n
		} else {
			end = len(text)
		}
		w.piece(stage+1, text[start:end], first && start == 0)
		start = end
	}
}
