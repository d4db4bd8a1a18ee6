package tokenizer

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// The patterns of tokenizer.json are written for Oniguruma (Ruby syntax); regexp2 speaks .NET. Both
// are backtracking engines with the same meaning for the syntax that split patterns use, and with
// different meanings beyond it. translate lets through what is the same, rewrites what is known to
// differ, and refuses the rest.
//
// Bounds on what a pattern from a model file may cost: memory of the backtracking stack, in ints,
// and time for one match.
const (
	backtrackStackMax = 16 << 20
	matchTimeMax      = 10 * time.Second
)

func compilePattern(pattern string) (*regexp2.Regexp, error) {
	translated, err := translate(pattern)
	if err != nil {
		return nil, err
	}
	re, err := regexp2.Compile(translated,
		regexp2.OptionMaxBacktrackingStackSize(backtrackStackMax))
	if err != nil {
		return nil, unsupported("pattern %q: %v", pattern, err)
	}
	if !trustedPattern(pattern) {
		// Only for patterns that we have not seen before: the clock behind it is a goroutine.
		re.MatchTimeout = matchTimeMax
	}
	return re, nil
}

type translator struct {
	in   string
	i    int
	out  strings.Builder
	fold []bool // a stack: the innermost group ignores case
	last byte   // previous literal letter of a group that ignores case, lower case
	atom bool   // something is there that a quantifier could apply to
}

func translate(pattern string) (string, error) {
	t := &translator{in: pattern, fold: []bool{false}}
	for t.i < len(t.in) {
		if err := t.next(); err != nil {
			return "", unsupported("pattern %q at byte %d: %v", pattern, t.i, err)
		}
	}
	return t.out.String(), nil
}

func (t *translator) folding() bool { return t.fold[len(t.fold)-1] }

func (t *translator) next() error {
	c := t.in[t.i]
	if t.folding() && c < utf8.RuneSelf && unicode.IsLetter(rune(c)) {
		return t.foldedLetter(c)
	}
	t.last = 0
	switch c {
	case '\\':
		return t.escape(false)
	case '[':
		return t.class()
	case '(':
		return t.group()
	case ')':
		return t.closeGroup()
	case '*', '+', '?', '{':
		return t.quantifier()
	case '^':
		return t.anchor(`(?:\A|(?<=\n)(?!\z))`)
	case '$':
		return t.anchor(`(?=\n|\z)`)
	case '|':
		t.atom = false
		return t.copy(1)
	case ']', '}':
		return fmt.Errorf("%q outside of a class or a quantifier", c)
	}
	return t.literal()
}

func (t *translator) copy(n int) error {
	t.out.WriteString(t.in[t.i : t.i+n])
	t.i += n
	return nil
}

// anchor writes what Oniguruma means by ^ and $: the edges of a line.
func (t *translator) anchor(s string) error {
	t.out.WriteString(s)
	t.i++
	t.atom = false
	return nil
}

func (t *translator) literal() error {
	r, n := utf8.DecodeRuneInString(t.in[t.i:])
	if r == utf8.RuneError && n <= 1 {
		return fmt.Errorf("not UTF-8")
	}
	if t.folding() && unicode.IsLetter(r) {
		return fmt.Errorf("letter %q in a group that ignores case", r)
	}
	t.atom = true
	return t.copy(n)
}

// foldedLetter writes every character that folds to an ASCII letter: s and S, and the long s too,
// which Oniguruma matches with "'s" and .NET does not. Two letters that one character may fold to
// (as ß folds to ss) would need more than a class.
func (t *translator) foldedLetter(c byte) error {
	c |= 0x20
	switch string([]byte{t.last, c}) {
	case "ss", "st", "ff", "fi", "fl":
		return fmt.Errorf("letters %q that ignore case", string([]byte{t.last, c}))
	}
	t.last = c
	t.out.WriteByte('[')
	t.orbit(rune(c))
	t.out.WriteByte(']')
	t.i++
	t.atom = true
	return nil
}

func (t *translator) orbit(r rune) {
	t.out.WriteRune(r)
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		t.out.WriteRune(f)
	}
}

func (t *translator) group() error {
	rest := t.in[t.i:]
	if len(t.fold) > groupDepthMax {
		return fmt.Errorf("more than %d nested groups", groupDepthMax)
	}
	t.atom = false
	for _, open := range []string{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"} {
		if strings.HasPrefix(rest, open) {
			t.fold = append(t.fold, t.folding())
			return t.copy(len(open))
		}
	}
	if strings.HasPrefix(rest, "(?i:") {
		t.fold = append(t.fold, true)
		t.out.WriteString("(?:")
		t.i += len("(?i:")
		return nil
	}
	if strings.HasPrefix(rest, "(?") {
		return fmt.Errorf("group %q", rest[:min(len(rest), 4)])
	}
	t.fold = append(t.fold, t.folding())
	return t.copy(1)
}

const groupDepthMax = 64

func (t *translator) closeGroup() error {
	if len(t.fold) == 1 {
		return fmt.Errorf("unmatched )")
	}
	t.fold = t.fold[:len(t.fold)-1]
	t.atom = true
	return t.copy(1)
}

// quantifier copies one quantifier, lazy or not. Possessive ones, and a reluctant {n}?, which Ruby
// reads as optional, are refused.
func (t *translator) quantifier() error {
	if !t.atom {
		return fmt.Errorf("quantifier with nothing to repeat")
	}
	n, exact := 1, false
	if t.in[t.i] == '{' {
		if n, exact = countLen(t.in[t.i:]); n == 0 {
			return fmt.Errorf("malformed {n,m}")
		}
	}
	if t.i+n < len(t.in) {
		switch t.in[t.i+n] {
		case '+', '*', '{':
			return fmt.Errorf("quantifier after a quantifier")
		case '?':
			if exact {
				return fmt.Errorf("{n}?")
			}
			n++
		}
	}
	t.atom = false
	return t.copy(n)
}

// countLen returns the length of the {n}, {n,} or {n,m} that s starts with, 0 if it is none.
func countLen(s string) (n int, exact bool) {
	digits := 0
	exact = true
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9' && digits < 4: // Oniguruma allows counts to 100000
			digits++
		case c == ',' && exact && digits > 0:
			exact, digits = false, 0
		case c == '}' && (digits > 0 || !exact):
			return i + 1, exact
		default:
			return 0, false
		}
	}
	return 0, false
}

// escape copies an escape that both engines read alike.
func (t *translator) escape(inClass bool) error {
	if t.i+1 >= len(t.in) {
		return fmt.Errorf("trailing backslash")
	}
	t.atom = true
	switch c := t.in[t.i+1]; {
	case strings.IndexByte("sSdDnrtfv", c) >= 0:
		return t.copy(2)
	case c == 'p' || c == 'P':
		return t.property()
	case c == 'x' || c == 'u':
		return t.codePoint()
	case !inClass && (c == 'A' || c == 'z'):
		t.atom = false
		return t.copy(2)
	case c < utf8.RuneSelf && !unicode.IsLetter(rune(c)) && !unicode.IsDigit(rune(c)) && c > ' ':
		return t.copy(2)
	default:
		return fmt.Errorf(`escape \%c`, c)
	}
}

// property copies \p{Name} for a general category or a script.
func (t *translator) property() error {
	rest := t.in[t.i+2:]
	end := strings.IndexByte(rest, '}')
	if end < 2 || rest[0] != '{' {
		return fmt.Errorf("malformed property")
	}
	name := rest[1:end]
	_, category := unicode.Categories[name]
	_, script := unicode.Scripts[name]
	// Categories with unassigned characters or surrogates are not the same in all engines, and
	// names such as LC are not known to all.
	if (!category || len(name) > 2 || name[0] == 'C' || name == "LC") && !script {
		return fmt.Errorf("property %q", name)
	}
	return t.copy(2 + end + 1)
}

// codePoint writes the character of \x{H...} or \uHHHH, escaped.
func (t *translator) codePoint() error {
	digits, skip := "", 0
	rest := t.in[t.i:]
	switch {
	case strings.HasPrefix(rest, `\x{`):
		end := strings.IndexByte(rest, '}')
		if end < 4 || end > 9 {
			return fmt.Errorf(`malformed \x{...}`)
		}
		digits, skip = rest[3:end], end+1
	case strings.HasPrefix(rest, `\u`) && len(rest) >= 6:
		digits, skip = rest[2:6], 6
	default:
		return fmt.Errorf("escape %q", rest[:2]) // \xHH is a byte to Oniguruma
	}
	var r rune
	for i := range len(digits) {
		d, ok := hexDigit(digits[i])
		if !ok {
			return fmt.Errorf("malformed code point %q", digits)
		}
		r = r<<4 | rune(d)
	}
	if !utf8.ValidRune(r) {
		return fmt.Errorf("code point %q", digits)
	}
	if r < utf8.RuneSelf {
		fmt.Fprintf(&t.out, `\x%02X`, r)
	} else {
		t.out.WriteRune(r)
	}
	t.i += skip
	return nil
}

// class copies a character class. Nested classes, POSIX brackets and intersections are Oniguruma's
// alone.
func (t *translator) class() error {
	t.out.WriteByte('[')
	t.i++
	if t.i < len(t.in) && t.in[t.i] == '^' {
		_ = t.copy(1)
	}
	for first := true; ; first = false {
		if t.i >= len(t.in) {
			return fmt.Errorf("unterminated class")
		}
		switch c := t.in[t.i]; {
		case c == ']' && first:
			return fmt.Errorf("empty class")
		case c == ']':
			t.atom = true
			return t.copy(1)
		case c == '[' || c == '&' && strings.HasPrefix(t.in[t.i:], "&&"):
			return fmt.Errorf("%q in a class", c)
		case c == '\\':
			if err := t.escape(true); err != nil {
				return err
			}
		default:
			if err := t.classLiteral(); err != nil {
				return err
			}
		}
	}
}

func (t *translator) classLiteral() error {
	r, n := utf8.DecodeRuneInString(t.in[t.i:])
	if r == utf8.RuneError && n <= 1 {
		return fmt.Errorf("not UTF-8")
	}
	if !t.folding() {
		return t.copy(n)
	}
	if r == '-' || r >= utf8.RuneSelf {
		return fmt.Errorf("%q in a class that ignores case", r)
	}
	if !unicode.IsLetter(r) {
		return t.copy(n)
	}
	t.orbit(unicode.ToLower(r))
	t.i += n
	return nil
}
