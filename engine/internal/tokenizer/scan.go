package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Some published tokenizers apply five or six patterns one behind the other, each a class of
// characters and little more. A loop over the text finds the same matches ten times as fast as the
// regular expression does; a test holds the two together.

// scanner returns the loop for a pattern that has one.
func scanner(pattern string) (matcher, bool) {
	body := func(p string) string {
		return p[strings.Index(p, "[")+1 : strings.LastIndex(p, "]")]
	}
	switch pattern {
	case patternNewline:
		return runMatcher{class: newClass("\r\n"), max: 1}, true
	case patternDigit:
		return runMatcher{class: newTableClass(unicode.N), max: 1}, true
	case patternDigits3:
		return runMatcher{class: newTableClass(unicode.N), max: 3}, true
	case patternDefaultDigits:
		return runMatcher{class: newTableClass(unicode.N)}, true
	case patternCJK, patternCJKKana:
		return runMatcher{class: newClass(body(pattern))}, true
	case patternDeepSeekLetters, patternDeepSeekPunct:
		return runMatcher{class: newClass(body(pattern)), space: true}, true
	case patternSpaceLetters:
		return runMatcher{class: newTableClass(unicode.L), space: true}, true
	case patternSpacePunct:
		return runMatcher{class: newTableClass(unicode.P), space: true}, true
	case patternSpaceAtEnd:
		return spaceAtEnd{}, true
	}
	return nil, false
}

// charClass is a set of characters.
type charClass struct {
	ascii  [utf8.RuneSelf]bool
	ranges []runeRange // ascending, without overlap
	table  *unicode.RangeTable
}

type runeRange struct{ lo, hi rune }

// newClass parses the inside of a character class that has no escapes: characters, and ranges of
// them with a hyphen.
func newClass(body string) *charClass {
	c := &charClass{}
	rs := []rune(body)
	for i := 0; i < len(rs); i++ {
		r := runeRange{rs[i], rs[i]}
		if i+2 < len(rs) && rs[i+1] == '-' {
			r.hi = rs[i+2]
			i += 2
		}
		c.ranges = append(c.ranges, r)
		for a := r.lo; a <= min(r.hi, utf8.RuneSelf-1); a++ {
			c.ascii[a] = true
		}
	}
	slices.SortFunc(c.ranges, func(a, b runeRange) int { return int(a.lo - b.lo) })
	return c
}

func newTableClass(t *unicode.RangeTable) *charClass {
	c := &charClass{table: t}
	for a := range rune(utf8.RuneSelf) {
		c.ascii[a] = unicode.Is(t, a)
	}
	return c
}

func (c *charClass) has(r rune) bool {
	if r < utf8.RuneSelf {
		return c.ascii[r]
	}
	if c.table != nil {
		return unicode.Is(c.table, r)
	}
	_, ok := slices.BinarySearchFunc(c.ranges, r, func(g runeRange, r rune) int {
		switch {
		case g.hi < r:
			return -1
		case g.lo > r:
			return 1
		}
		return 0
	})
	return ok
}

// runMatcher matches [class]{1,max}, and with space set \s?[class]+.
type runMatcher struct {
	class *charClass
	max   int // 0: no bound
	space bool
}

func (m runMatcher) each(_ *walker, _ int, text string, yield func(start, end int)) error {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		body := i
		if m.space && unicode.IsSpace(r) && m.startsAt(text, i+n) {
			body = i + n
		} else if !m.class.has(r) {
			i += n
			continue
		}
		end := m.run(text, body)
		yield(i, end)
		i = end
	}
	return nil
}

func (m runMatcher) startsAt(text string, i int) bool {
	r, n := utf8.DecodeRuneInString(text[i:])
	return n > 0 && m.class.has(r)
}

func (m runMatcher) run(text string, i int) int {
	for count := 0; i < len(text) && (m.max == 0 || count < m.max); count++ {
		r, n := utf8.DecodeRuneInString(text[i:])
		if !m.class.has(r) {
			break
		}
		i += n
	}
	return i
}

// spaceAtEnd matches \s+$ where $ is the end of a line: in a run of blanks, all of it at the end of
// the text, else what comes before its last newline.
type spaceAtEnd struct{}

func (spaceAtEnd) each(_ *walker, _ int, text string, yield func(start, end int)) error {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if !unicode.IsSpace(r) {
			i += n
			continue
		}
		end := len(text) - len(strings.TrimLeftFunc(text[i:], unicode.IsSpace))
		match := end
		if end != len(text) {
			match = i + strings.LastIndexByte(text[i:end], '\n')
		}
		if match > i {
			yield(i, match)
		}
		i = end
	}
	return nil
}
