package chat

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// str is Python's str().
func (r *run) str(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case markup:
		return string(x)
	case *undefined:
		return ""
	}
	return r.repr(v)
}

// repr is Python's repr().
func (r *run) repr(v any) string {
	var out output
	r.writeRepr(&out, v)
	return out.String()
}

func (r *run) writeRepr(w *output, v any) {
	defer r.descend()()
	switch x := v.(type) {
	case none:
		r.write(w, "None")
	case bool:
		r.write(w, pyBool(x))
	case int64:
		r.write(w, strconv.FormatInt(x, 10))
	case *big.Int:
		r.write(w, x.String())
	case float64:
		r.write(w, pyFloat(x))
	case string:
		r.write(w, pyQuote(x))
	case markup:
		r.write(w, "Markup("+pyQuote(string(x))+")")
	case *undefined:
		r.write(w, "Undefined")
	case *list:
		r.writeItems(w, "[", x.items, "]")
	case *tuple:
		end := ")"
		if len(x.items) == 1 {
			end = ",)"
		}
		r.writeItems(w, "(", x.items, end)
	case *dict:
		r.writeDict(w, x)
	case *dictView:
		r.writeItems(w, "dict_"+x.kind+"([", r.collect(x), "])")
	case *namespace:
		r.write(w, "<Namespace ")
		r.writeDict(w, x.attrs)
		r.write(w, ">")
	default:
		r.write(w, r.describe(v))
	}
}

// describe is the repr of the values that have a fixed one; others would print their address.
func (r *run) describe(v any) string {
	switch x := v.(type) {
	case *rangeValue:
		if x.step == 1 {
			return fmt.Sprintf("range(%d, %d)", x.start, x.stop)
		}
		return fmt.Sprintf("range(%d, %d, %d)", x.start, x.stop, x.step)
	case *loopContext:
		return fmt.Sprintf("<LoopContext %d/%d>", x.index0+1, x.length())
	case *macro:
		if x.def.name == "" {
			return "<Macro anonymous>"
		}
		return "<Macro " + pyQuote(x.def.name) + ">"
	}
	fail(ErrUnsupported, "printing a %s", typeName(v))
	return ""
}

func (r *run) writeItems(w *output, open string, items []any, end string) {
	r.write(w, open)
	for i, item := range items {
		if i > 0 {
			r.write(w, ", ")
		}
		r.writeRepr(w, item)
	}
	r.write(w, end)
}

func (r *run) writeDict(w *output, d *dict) {
	r.write(w, "{")
	for i, key := range d.keys {
		if i > 0 {
			r.write(w, ", ")
		}
		r.writeRepr(w, key)
		r.write(w, ": ")
		r.writeRepr(w, d.vals[i])
	}
	r.write(w, "}")
}

func pyBool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// pyFloat is repr of a finite float: the shortest digits that give it back, with an exponent
// outside 1e-4 to 1e16.
func pyFloat(f float64) string {
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exp, _ := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if f != 0 && (exp < -4 || exp >= 16) {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// pyQuote is repr of a str.
func pyQuote(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.WriteByte(quote)
	for _, c := range s {
		writeQuoted(&b, c, quote)
	}
	b.WriteByte(quote)
	return b.String()
}

func writeQuoted(b *strings.Builder, c rune, quote byte) {
	switch {
	case c == rune(quote) || c == '\\':
		b.WriteByte('\\')
		b.WriteRune(c)
	case c == '\n':
		b.WriteString(`\n`)
	case c == '\r':
		b.WriteString(`\r`)
	case c == '\t':
		b.WriteString(`\t`)
	case unicode.IsPrint(c):
		b.WriteRune(c)
	case c < 0x100:
		b.WriteString(`\x` + hexPad(c, 2))
	case c < 0x10000:
		b.WriteString(`\u` + hexPad(c, 4))
	default:
		b.WriteString(`\U` + hexPad(c, 8))
	}
}

func runeCount(s string) int { return utf8.RuneCountInString(s) }

func firstRuneLen(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// isSpace is Python's str.isspace of one character.
func isSpace(c rune) bool {
	return c >= 0x1c && c <= 0x1f || unicode.IsSpace(c)
}

// isLineEnd is what splitlines splits at.
func isLineEnd(c rune) bool {
	return c >= '\n' && c <= '\r' || c >= 0x1c && c <= 0x1e || c == 0x85 || c == 0x2028 || c == 0x2029
}

// escapeHTML is markupsafe.escape of text.
func escapeHTML(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;").
		Replace(s)
}

// percentFormat is the % operator of str, for the plain conversions s, r, d, i, f and %.
func (r *run) percentFormat(origin any, format string, arg any) string {
	if _, ok := origin.(markup); ok {
		fail(ErrUnsupported, "%% formatting of safe text")
	}
	args := []any{arg}
	if t, ok := arg.(*tuple); ok {
		args = t.items
	}
	if d, ok := arg.(*dict); ok && strings.Contains(format, "%(") {
		fail(ErrUnsupported, "%% formatting with a mapping of %d names", len(d.keys))
	}
	var out output
	used := 0
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			j := strings.IndexByte(format[i:], '%')
			if j < 0 {
				j = len(format) - i
			}
			r.write(&out, format[i:i+j])
			i += j - 1
			continue
		}
		spec := format[i+1:]
		n := len(spec) - len(strings.TrimLeft(spec, "-+ #0123456789.*hlL("))
		if n == len(spec) {
			fail(ErrTemplate, "incomplete format")
		}
		i += n + 1
		if spec[n] == '%' && n == 0 {
			r.write(&out, "%")
			continue
		}
		if used == len(args) {
			fail(ErrTemplate, "not enough arguments for format string")
		}
		r.write(&out, r.conversion(spec[:n], spec[n], args[used]))
		used++
	}
	if _, isDict := arg.(*dict); used < len(args) && !isDict && !isSequenceArg(arg) {
		fail(ErrTemplate, "not all arguments converted during string formatting")
	}
	return out.String()
}

// isSequenceArg: Python lets a % list pass unused, as it could be a mapping.
func isSequenceArg(v any) bool {
	switch v.(type) {
	case *list, *undefined, *rangeValue:
		return true
	}
	return false
}

// conversion formats one value for %: width and precision are supported where C and Python agree.
func (r *run) conversion(flags string, verb byte, v any) string {
	if strings.Trim(flags, "-0123456789.") != "" {
		fail(ErrUnsupported, "the format %%%s%c", flags, verb)
	}
	if digits(strings.TrimLeft(flags, "-0"), isDigit) > 3 {
		fail(ErrLimit, "format width %q", flags)
	}
	plain := strings.Trim(flags, "-123456789") == ""
	switch verb {
	case 's':
		if !plain {
			break
		}
		return fmt.Sprintf("%"+flags+"s", r.str(v))
	case 'r':
		if !plain {
			break
		}
		return fmt.Sprintf("%"+flags+"s", r.repr(v))
	case 'd', 'i':
		n, f, isFloat, ok := number(v)
		if !ok {
			fail(ErrTemplate, "%%d format: a number is required, not %s", typeName(v))
		}
		if isFloat {
			n, _ = big.NewFloat(f).Int(nil)
		}
		if strings.Contains(flags, ".") {
			break
		}
		return fmt.Sprintf("%"+flags+"d", n)
	case 'f':
		n, f, isFloat, ok := number(v)
		if !ok {
			fail(ErrTemplate, "%%f format: must be a number, not %s", typeName(v))
		}
		if !isFloat {
			f = bigFloat(n)
		}
		return fmt.Sprintf("%"+flags+"f", f)
	}
	fail(ErrUnsupported, "the format %%%s%c", flags, verb)
	return ""
}

// braceFormat is str.format for {}, {0} and {name} without conversion or format.
func (r *run) braceFormat(format string, a callArgs) string {
	var out output
	auto := 0
	for format != "" {
		i := strings.IndexAny(format, "{}")
		if i < 0 {
			r.write(&out, format)
			break
		}
		r.write(&out, format[:i])
		if strings.HasPrefix(format[i+1:], format[i:i+1]) {
			r.write(&out, format[i:i+1])
			format = format[i+2:]
			continue
		}
		field, rest, ok := strings.Cut(format[i+1:], "}")
		if format[i] == '}' || !ok {
			fail(ErrTemplate, "single brace in format string")
		}
		r.write(&out, r.str(r.formatField(field, &auto, a)))
		format = rest
	}
	return out.String()
}

// formatField finds what a field of braceFormat stands for; auto is -1 once fields are numbered.
func (r *run) formatField(field string, auto *int, a callArgs) any {
	i, err := strconv.Atoi(field)
	switch {
	case strings.ContainsAny(field, "!:.[]{ +-_") || len(field) > 9:
		fail(ErrUnsupported, "the format field {%s}", field)
	case field == "" && *auto >= 0:
		i = *auto
		*auto++
	case field != "" && err == nil && *auto <= 0:
		*auto = -1
	case field == "" || err == nil:
		fail(ErrTemplate, "cannot mix numbered and unnumbered format fields")
	default:
		for _, k := range a.kw {
			if k.name == field {
				return k.val
			}
		}
		fail(ErrTemplate, "no argument for format field %q", field)
	}
	if i >= len(a.pos) {
		fail(ErrTemplate, "no argument for format field %d", i)
	}
	return a.pos[i]
}
