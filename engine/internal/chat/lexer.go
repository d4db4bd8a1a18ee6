package chat

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Token kinds. Operators have their own text as kind.
const (
	tokData       = "data"
	tokBlockBegin = "block_begin"
	tokBlockEnd   = "block_end"
	tokVarBegin   = "variable_begin"
	tokVarEnd     = "variable_end"
	tokName       = "name"
	tokString     = "string"
	tokInteger    = "integer"
	tokFloat      = "float"
	tokEOF        = "eof"
)

type token struct {
	kind string
	text string // decoded text of data, names and strings
	num  any    // value of integer and float tokens
	line int
}

func (t token) describe() string {
	switch t.kind {
	case tokName, tokString:
		return pyQuote(t.text)
	case tokEOF:
		return "end of template"
	}
	return t.kind
}

// lexer splits a template as jinja2.lexer does, with trim_blocks and lstrip_blocks on and line
// statements off.
type lexer struct {
	src    string
	pos    int
	line   int
	tokens []token
	// lineStart: the last match ended in a newline, so text before the next tag starts a line.
	lineStart bool
}

func tokenize(source string) []token {
	l := &lexer{src: normalizeSource(source), line: 1, lineStart: true}
	for l.pos < len(l.src) {
		l.root()
	}
	l.emit(token{kind: tokEOF})
	return l.tokens
}

// normalizeSource makes every line end "\n" and drops one at the end of the text.
func normalizeSource(s string) string {
	s = normalizeNewlines(s)
	return strings.TrimSuffix(s, "\n")
}

func normalizeNewlines(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.ReplaceAll(s, "\r", "\n")
}

func (l *lexer) emit(t token) {
	t.line = l.line
	l.tokens = append(l.tokens, t)
}

// advance moves n bytes on and keeps the line count.
func (l *lexer) advance(n int) {
	if n == 0 {
		return
	}
	text := l.src[l.pos : l.pos+n]
	l.line += strings.Count(text, "\n")
	l.lineStart = text[n-1] == '\n'
	l.pos += n
}

// root reads text up to the next tag and then the tag.
func (l *lexer) root() {
	rest := l.src[l.pos:]
	at := 0
	for {
		i := strings.IndexByte(rest[at:], '{')
		if i < 0 {
			l.emit(token{kind: tokData, text: rest})
			l.advance(len(rest))
			return
		}
		at += i
		if at+1 < len(rest) && strings.IndexByte("{%#", rest[at+1]) >= 0 {
			break
		}
		at++
	}
	l.tag(rest[:at], rest[at:])
}

// tag handles the text before a tag and the tag, which starts with {{, {% or {#.
func (l *lexer) tag(text, tag string) {
	rawLen := matchRawBegin(tag)
	sign := byte(0)
	if len(tag) > 2 && (tag[2] == '-' || tag[2] == '+') {
		sign = tag[2]
	}
	kept := l.stripBefore(text, sign, tag[1] == '{')
	if kept != "" {
		l.emit(token{kind: tokData, text: kept})
	}
	l.advance(len(text))
	size := 2
	if sign != 0 {
		size = 3
	}
	switch {
	case rawLen > 0:
		l.advance(rawLen)
		l.raw()
	case tag[1] == '#':
		l.advance(size)
		l.comment()
	case tag[1] == '%':
		l.emit(token{kind: tokBlockBegin})
		l.advance(size)
		l.expression(tokBlockEnd)
	default:
		l.emit(token{kind: tokVarBegin})
		l.advance(size)
		l.expression(tokVarEnd)
	}
}

// stripBefore applies {%- and lstrip_blocks to the text before a tag.
func (l *lexer) stripBefore(text string, sign byte, isVariable bool) string {
	if sign == '-' {
		return strings.TrimRightFunc(text, isSpace)
	}
	if sign == '+' || isVariable {
		return text
	}
	start := strings.LastIndexByte(text, '\n') + 1
	if start == 0 && !l.lineStart {
		return text
	}
	if strings.TrimLeftFunc(text[start:], isSpace) == "" {
		return text[:start]
	}
	return text
}

// matchRawBegin returns the length of {% raw %} at the start of s, or 0.
func matchRawBegin(s string) int {
	rest, ok := cutTagName(s, "raw")
	if !ok {
		return 0
	}
	if after, ok := strings.CutPrefix(rest, "-%}"); ok {
		return len(s) - len(strings.TrimLeftFunc(after, isSpace))
	}
	if after, ok := strings.CutPrefix(rest, "%}"); ok {
		return len(s) - len(after)
	}
	return 0
}

// cutTagName cuts "{%", a sign, spaces, the name and spaces off s.
func cutTagName(s, name string) (rest string, ok bool) {
	s, ok = strings.CutPrefix(s, "{%")
	if !ok {
		return "", false
	}
	if s != "" && (s[0] == '-' || s[0] == '+') {
		s = s[1:]
	}
	s, ok = strings.CutPrefix(strings.TrimLeftFunc(s, isSpace), name)
	return strings.TrimLeftFunc(s, isSpace), ok
}

// raw reads up to and over {% endraw %}.
func (l *lexer) raw() {
	rest := l.src[l.pos:]
	for at := 0; ; at++ {
		i := strings.Index(rest[at:], "{%")
		if i < 0 {
			failAt(ErrTemplate, l.line, "missing end of raw directive")
		}
		at += i
		after, ok := cutTagName(rest[at:], "endraw")
		if !ok {
			continue
		}
		n := blockEndLen(after)
		if n == 0 {
			continue
		}
		sign := rest[at+2]
		if text := l.stripBefore(rest[:at], sign, false); text != "" {
			l.emit(token{kind: tokData, text: text})
		}
		l.advance(len(rest) - len(after) + n)
		return
	}
}

// blockEndLen returns the length of the %} at the start of s with what it swallows, or 0.
func blockEndLen(s string) int { return endLen(s, "%}") }

func endLen(s, end string) int {
	if strings.HasPrefix(s, "+"+end) {
		return 1 + len(end)
	}
	if after, ok := strings.CutPrefix(s, "-"+end); ok {
		return len(s) - len(strings.TrimLeftFunc(after, isSpace))
	}
	if after, ok := strings.CutPrefix(s, end); ok {
		return len(s) - len(strings.TrimPrefix(after, "\n"))
	}
	return 0
}

// comment skips to the end of a comment.
func (l *lexer) comment() {
	rest := l.src[l.pos:]
	i := strings.Index(rest, "#}")
	if i < 0 {
		failAt(ErrTemplate, l.line, "missing end of comment tag")
	}
	if i > 0 && (rest[i-1] == '-' || rest[i-1] == '+') {
		i--
	}
	l.advance(i + endLen(rest[i:], "#}"))
}

// expression reads tokens until the tag ends; the end counts only outside brackets.
func (l *lexer) expression(end string) {
	var open []byte
	for l.pos < len(l.src) {
		rest := l.src[l.pos:]
		if len(open) == 0 {
			if n := l.tagEnd(rest, end); n > 0 {
				l.emit(token{kind: end})
				l.advance(n)
				return
			}
		}
		if n := len(rest) - len(strings.TrimLeftFunc(rest, isSpace)); n > 0 {
			l.advance(n)
			continue
		}
		open = l.token(rest, open)
	}
}

func (l *lexer) tagEnd(rest, end string) int {
	if end == tokBlockEnd {
		return blockEndLen(rest)
	}
	if after, ok := strings.CutPrefix(rest, "-}}"); ok {
		return len(rest) - len(strings.TrimLeftFunc(after, isSpace))
	}
	if strings.HasPrefix(rest, "}}") {
		return 2
	}
	return 0
}

// token reads one token and returns the brackets that are open after it.
func (l *lexer) token(rest string, open []byte) []byte {
	c := rest[0]
	switch {
	case isDigit(c):
		l.number(rest)
	case c == '_' || isLetter(c):
		n := 1
		for n < len(rest) && (rest[n] == '_' || isLetter(rest[n]) || isDigit(rest[n])) {
			n++
		}
		if n < len(rest) && rest[n] >= utf8.RuneSelf {
			failAt(ErrUnsupported, l.line, "name with characters outside ASCII")
		}
		l.emit(token{kind: tokName, text: rest[:n]})
		l.advance(n)
	case c == '\'' || c == '"':
		l.str(rest)
	default:
		return l.operator(rest, open)
	}
	return open
}

// operators, longest first.
var operators = [...]string{"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
	"]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"}

func (l *lexer) operator(rest string, open []byte) []byte {
	for _, op := range operators {
		if !strings.HasPrefix(rest, op) {
			continue
		}
		switch op {
		case "(", "[", "{":
			open = append(open, closing(op[0]))
		case ")", "]", "}":
			if len(open) == 0 || open[len(open)-1] != op[0] {
				failAt(ErrTemplate, l.line, "unexpected %q", op)
			}
			open = open[:len(open)-1]
		}
		l.emit(token{kind: op})
		l.advance(len(op))
		return open
	}
	r, _ := utf8.DecodeRuneInString(rest)
	if r >= utf8.RuneSelf {
		failAt(ErrUnsupported, l.line, "character %q in an expression", r)
	}
	failAt(ErrTemplate, l.line, "unexpected character %q", r)
	return nil
}

func closing(open byte) byte {
	switch open {
	case '(':
		return ')'
	case '[':
		return ']'
	}
	return '}'
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// digits returns the length of digits of a base at the start of s, single underscores between.
func digits(s string, valid func(byte) bool) int {
	n := 0
	for n < len(s) && (valid(s[n]) || s[n] == '_' && n > 0 && n+1 < len(s) && valid(s[n+1])) {
		n++
	}
	return n
}

// number reads an integer or a float.
func (l *lexer) number(rest string) {
	afterDot := l.pos > 0 && l.src[l.pos-1] == '.'
	if n := floatLen(rest); n > 0 && !afterDot {
		f, err := strconv.ParseFloat(strings.ReplaceAll(rest[:n], "_", ""), 64)
		if err != nil || math.IsInf(f, 0) {
			failAt(ErrUnsupported, l.line, "float %s", rest[:n])
		}
		l.emit(token{kind: tokFloat, num: f})
		l.advance(n)
		return
	}
	n := integerLen(rest)
	if n > intBitsMax {
		failAt(ErrLimit, l.line, "integer of %d digits", n)
	}
	v, ok := new(big.Int).SetString(strings.ReplaceAll(rest[:n], "_", ""), 0)
	if !ok {
		failAt(ErrTemplate, l.line, "integer %s", rest[:n])
	}
	l.emit(token{kind: tokInteger, num: fromBig(v)})
	l.advance(n)
}

func floatLen(s string) int {
	n := digits(s, isDigit)
	fraction := 0
	if n < len(s) && s[n] == '.' {
		if d := digits(s[n+1:], isDigit); d > 0 {
			fraction = 1 + d
		}
	}
	n += fraction
	if n < len(s) && s[n]|0x20 == 'e' {
		e := n + 1
		if e < len(s) && (s[e] == '+' || s[e] == '-') {
			e++
		}
		if d := digits(s[e:], isDigit); d > 0 {
			return e + d
		}
	}
	if fraction == 0 {
		return 0
	}
	return n
}

func integerLen(s string) int {
	if s[0] != '0' {
		return digits(s, isDigit)
	}
	if len(s) > 2 {
		valid := func(byte) bool { return false }
		switch s[1] | 0x20 {
		case 'b':
			valid = func(c byte) bool { return c == '0' || c == '1' }
		case 'o':
			valid = func(c byte) bool { return c >= '0' && c <= '7' }
		case 'x':
			valid = isHex
		}
		skip := 2
		if s[2] == '_' {
			skip = 3
		}
		if n := digits(s[skip:], valid); n > 0 {
			return skip + n
		}
	}
	return digits(s, func(c byte) bool { return c == '0' })
}

func isHex(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

// str reads a string literal.
func (l *lexer) str(rest string) {
	quote := rest[0]
	for n := 1; n < len(rest); n++ {
		switch rest[n] {
		case '\\':
			n++
		case quote:
			l.emit(token{kind: tokString, text: l.unescape(rest[1:n])})
			l.advance(n + 1)
			return
		}
	}
	failAt(ErrTemplate, l.line, "string without an end")
}

// unescape decodes as the reference does: characters outside ASCII become \x, \u or \U escapes
// first, so a backslash before one of them turns it into text. Then the escapes are decoded.
func (l *lexer) unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var ascii strings.Builder
	for _, c := range s {
		switch {
		case c < utf8.RuneSelf:
			ascii.WriteRune(c)
		case c < 0x100:
			ascii.WriteString(`\x` + hexPad(c, 2))
		case c < 0x10000:
			ascii.WriteString(`\u` + hexPad(c, 4))
		default:
			ascii.WriteString(`\U` + hexPad(c, 8))
		}
	}
	s = ascii.String()
	var out strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' || i+1 == len(s) {
			out.WriteByte(s[i])
			i++
			continue
		}
		i += l.escape(&out, s[i+1:]) + 1
	}
	return out.String()
}

// simpleEscapes maps the letter after a backslash to what it stands for.
const simpleEscapes = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v"

// escape decodes one escape whose backslash is already read; it returns the bytes used.
func (l *lexer) escape(out *strings.Builder, s string) int {
	for i := 0; i < len(simpleEscapes); i += 2 {
		if s[0] == simpleEscapes[i] {
			out.WriteByte(simpleEscapes[i+1])
			return 1
		}
	}
	width, base := 0, 16
	skip := 1
	switch s[0] {
	case '\n':
		return 1
	case 'x':
		width = 2
	case 'u':
		width = 4
	case 'U':
		width = 8
	case 'N':
		failAt(ErrUnsupported, l.line, `\N escape in a string`)
	case '0', '1', '2', '3', '4', '5', '6', '7':
		base, skip = 8, 0
		for width < 3 && width < len(s) && s[width] >= '0' && s[width] <= '7' {
			width++
		}
	default:
		out.WriteByte('\\')
		return 0
	}
	if len(s) < skip+width {
		failAt(ErrTemplate, l.line, "truncated \\%c escape", s[0])
	}
	c, err := strconv.ParseUint(s[skip:skip+width], base, 32)
	if err != nil || c > utf8.MaxRune {
		failAt(ErrTemplate, l.line, "bad \\%c escape", s[0])
	}
	if c >= 0xD800 && c < 0xE000 {
		failAt(ErrUnsupported, l.line, "lone surrogate \\%s in a string", s[:skip+width])
	}
	out.WriteRune(rune(c))
	return skip + width
}

func hexPad(c rune, width int) string {
	h := strconv.FormatInt(int64(c), 16)
	return strings.Repeat("0", max(0, width-len(h))) + h
}
