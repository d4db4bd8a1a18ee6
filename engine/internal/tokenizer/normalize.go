package tokenizer

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// normalizer rewrites a stretch of text between added tokens. It must be safe for concurrent use.
type normalizer func(string) (string, error)

// graphemeJoiner is what x/text inserts after every 30th combining mark in a row, to make a text
// stream-safe (UAX 15, section 13). The reference does not.
const graphemeJoiner = "\u034F"

// unicodeForm returns the normalisation form f. Code points that are unassigned in the tables of
// x/text are left alone; forms of assigned ones never change (UAX 15, section 3).
func unicodeForm(f norm.Form) normalizer {
	return func(s string) (string, error) {
		if isASCII(s) || f.IsNormalString(s) {
			return s, nil
		}
		out := f.String(s)
		if strings.Count(out, graphemeJoiner) != strings.Count(s, graphemeJoiner) {
			out = normalizeLong(f, s)
		}
		return out, nil
	}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// normalizeLong normalises s with no bound on the number of combining marks in a row: decompose,
// order by combining class, compose (UAX 15; The Unicode Standard, 3.11).
func normalizeLong(f norm.Form, s string) string {
	decomposed := norm.NFD
	if f == norm.NFKC || f == norm.NFKD {
		decomposed = norm.NFKD
	}
	var rs []rune
	for _, r := range s {
		rs = append(rs, []rune(decomposed.String(string(r)))...)
	}
	orderMarks(rs)
	if f == norm.NFC || f == norm.NFKC {
		rs = compose(rs)
	}
	return string(rs)
}

func combiningClass(r rune) uint8 { return norm.NFD.PropertiesString(string(r)).CCC() }

// orderMarks sorts each run of characters of non-zero combining class; equals keep their order.
func orderMarks(rs []rune) {
	for i := 0; i < len(rs); i++ {
		j := i
		for j < len(rs) && combiningClass(rs[j]) != 0 {
			j++
		}
		slices.SortStableFunc(rs[i:j], func(a, b rune) int {
			return int(combiningClass(a)) - int(combiningClass(b))
		})
		i = j
	}
}

// compose joins each starter with the marks behind it that are not blocked. It reuses rs.
func compose(rs []rune) []rune {
	out := rs[:0]
	starter := -1
	lastClass := uint8(0)
	for _, r := range rs {
		class := combiningClass(r)
		blocked := starter >= 0 && len(out)-1 > starter && lastClass >= class
		if starter >= 0 && !blocked {
			if c, ok := composePair(out[starter], r); ok {
				out[starter] = c
				continue
			}
		}
		out = append(out, r)
		lastClass = class
		if class == 0 {
			starter = len(out) - 1
		}
	}
	return out
}

func composePair(a, b rune) (rune, bool) {
	pair := string(a) + string(b)
	// The two are canonically ordered and decomposed already, but for what was composed before.
	rs := []rune(norm.NFC.String(pair))
	return rs[0], len(rs) == 1
}

// lowercase maps characters one by one, without regard to what is around them. U+0130 is the one
// character whose lower case is two (SpecialCasing.txt).
func lowercase(s string) (string, error) {
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		if r == '\u0130' {
			b.WriteString("i\u0307")
			continue
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String(), nil
}

func stripMarks(s string) (string, error) {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
			return -1
		}
		return r
	}, s), nil
}

func stripBlanks(left, right bool) normalizer {
	return func(s string) (string, error) {
		if left {
			s = strings.TrimLeftFunc(s, unicode.IsSpace)
		}
		if right {
			s = strings.TrimRightFunc(s, unicode.IsSpace)
		}
		return s, nil
	}
}

func prepend(prefix string) normalizer {
	return func(s string) (string, error) {
		if s == "" {
			return s, nil
		}
		return prefix + s, nil
	}
}

// replacer replaces the matches of a pattern by a string, which has no special characters.
type replacer struct {
	m  matcher
	by string
}

func (r replacer) apply(s string) (string, error) {
	if lit, ok := r.m.(stringMatcher); ok {
		return strings.ReplaceAll(s, string(lit), r.by), nil
	}
	var b strings.Builder
	prev := 0
	w := walker{runes: make([][]rune, 1)}
	err := r.m.each(&w, 0, s, func(start, end int) {
		b.WriteString(s[prev:start])
		b.WriteString(r.by)
		prev = end
	})
	b.WriteString(s[prev:])
	return b.String(), err
}
