package chat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// fromJSON reads one JSON text into values as Python's json.loads does: objects keep their order,
// the last of equal keys wins at the place of the first, 1 is an int and 1.0 a float.
func fromJSON(data []byte) any {
	if !utf8.Valid(data) {
		fail(ErrTemplate, "JSON is not UTF-8")
	}
	checkSurrogates(data)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v := readValue(dec, 0)
	if _, err := dec.Token(); err != io.EOF {
		fail(ErrTemplate, "data after the JSON value")
	}
	return v
}

func nextToken(dec *json.Decoder) json.Token {
	t, err := dec.Token()
	if err != nil {
		fail(ErrTemplate, "JSON at offset %d: %v", dec.InputOffset(), err)
	}
	return t
}

func readValue(dec *json.Decoder, depth int) any {
	if depth > valueDepthMax {
		fail(ErrLimit, "JSON nested deeper than %d", valueDepthMax)
	}
	switch t := nextToken(dec).(type) {
	case bool:
		return t
	case string:
		return t
	case json.Number:
		return readNumber(string(t))
	case json.Delim:
		if t == '[' {
			l := &list{}
			for dec.More() {
				l.items = append(l.items, readValue(dec, depth+1))
			}
			nextToken(dec)
			return l
		}
		d := newDict()
		for dec.More() {
			key := nextToken(dec).(string)
			d.setString(key, readValue(dec, depth+1))
		}
		nextToken(dec)
		return d
	}
	return none{}
}

func readNumber(s string) any {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			fail(ErrUnsupported, "the JSON number %s", s)
		}
		return finite(f)
	}
	if len(s) > intBitsMax/4 {
		fail(ErrLimit, "a JSON number of %d digits", len(s))
	}
	n, _ := new(big.Int).SetString(s, 10)
	return fromBig(n)
}

// checkSurrogates refuses half of a UTF-16 pair, which Go would replace and Python would keep.
func checkSurrogates(data []byte) {
	for i := 0; i+1 < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		i++
		if data[i] != 'u' {
			continue
		}
		c := hexUnit(data[i+1:])
		i += 4
		if c < 0xD800 || c > 0xDFFF {
			continue
		}
		rest := data[min(i+1, len(data)):]
		low := rune(-1)
		if bytes.HasPrefix(rest, []byte(`\u`)) {
			low = hexUnit(rest[2:])
		}
		if c > 0xDBFF || low < 0xDC00 || low > 0xDFFF {
			fail(ErrUnsupported, "JSON with half of a surrogate pair at offset %d", i)
		}
		i += 6
	}
}

// hexUnit reads the four digits of a \u escape, -1 if they are not there.
func hexUnit(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// jsonWriter is json.dumps.
type jsonWriter struct {
	r         *run
	out       output
	ascii     bool
	sortKeys  bool
	indent    string // one level, used when multiline
	multiline bool
	comma     string // between items
	colon     string // between key and value
	level     int
}

func (r *run) toJSON(v any, a callArgs) string {
	args := bind("tojson", callArgs{append([]any{v}, a.pos...), a.kw}, 1,
		"x", "ensure_ascii", "indent", "separators", "sort_keys")
	w := &jsonWriter{r: r, comma: ", ", colon: ": "}
	w.ascii = args[1] != nil && r.truth(args[1])
	w.sortKeys = args[4] != nil && r.truth(args[4])
	w.setIndent(args[2])
	w.setSeparators(args[3])
	w.value(v)
	return w.out.String()
}

func (w *jsonWriter) setIndent(v any) {
	if v == nil || v == any(none{}) {
		return
	}
	w.multiline, w.comma = true, ","
	if s, ok := asString(v); ok {
		w.indent = s
		return
	}
	n := needInt("indent", v)
	if n > rangeMax {
		fail(ErrLimit, "indent of %d", n)
	}
	w.indent = strings.Repeat(" ", int(max(n, 0)))
}

func (w *jsonWriter) setSeparators(v any) {
	if v == nil || v == any(none{}) {
		return
	}
	parts := w.r.unpack(v, 2)
	w.comma = needString("separator", parts[0])
	w.colon = needString("separator", parts[1])
}

func (w *jsonWriter) write(s string) { w.r.write(&w.out, s) }

func (w *jsonWriter) newline() {
	if w.multiline {
		w.write("\n")
		for range w.level {
			w.write(w.indent)
		}
	}
}

func (w *jsonWriter) value(v any) {
	defer w.r.descend()()
	if s, ok := asString(v); ok {
		w.string(s)
		return
	}
	switch x := v.(type) {
	case *list:
		w.items(x.items)
	case *tuple:
		w.items(x.items)
	case *dict:
		w.object(x)
	default:
		s, ok := jsonScalar(v)
		if !ok {
			fail(ErrTemplate, "object of type %s is not JSON serializable", typeName(v))
		}
		w.write(s)
	}
}

// jsonScalar formats null, booleans and numbers.
func jsonScalar(v any) (string, bool) {
	switch x := v.(type) {
	case none:
		return "null", true
	case bool:
		return strconv.FormatBool(x), true
	case int64, *big.Int:
		return fmt.Sprint(x), true
	case float64:
		return pyFloat(x), true
	}
	return "", false
}

func (w *jsonWriter) items(items []any) {
	if len(items) == 0 {
		w.write("[]")
		return
	}
	w.write("[")
	w.level++
	for i, item := range items {
		if i > 0 {
			w.write(w.comma)
		}
		w.newline()
		w.value(item)
	}
	w.level--
	w.newline()
	w.write("]")
}

func (w *jsonWriter) object(d *dict) {
	if len(d.keys) == 0 {
		w.write("{}")
		return
	}
	w.write("{")
	w.level++
	for n, i := range w.keyOrder(d) {
		if n > 0 {
			w.write(w.comma)
		}
		w.newline()
		key, ok := asString(d.keys[i])
		if !ok {
			key, ok = jsonScalar(d.keys[i])
		}
		if !ok {
			fail(ErrTemplate, "JSON keys cannot be %s", typeName(d.keys[i]))
		}
		w.string(key)
		w.write(w.colon)
		w.value(d.vals[i])
	}
	w.level--
	w.newline()
	w.write("}")
}

func (w *jsonWriter) keyOrder(d *dict) []int {
	order := make([]int, len(d.keys))
	for i := range order {
		order[i] = i
	}
	if w.sortKeys {
		slices.SortStableFunc(order, func(i, j int) int {
			return w.r.order("<", d.keys[i], d.keys[j])
		})
	}
	return order
}

func (w *jsonWriter) string(s string) {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		w.char(&b, c)
	}
	b.WriteByte('"')
	w.write(b.String())
}

func (w *jsonWriter) char(b *strings.Builder, c rune) {
	switch {
	case c == '"' || c == '\\':
		b.WriteByte('\\')
		b.WriteRune(c)
	case c == '\n':
		b.WriteString(`\n`)
	case c == '\r':
		b.WriteString(`\r`)
	case c == '\t':
		b.WriteString(`\t`)
	case c == '\b':
		b.WriteString(`\b`)
	case c == '\f':
		b.WriteString(`\f`)
	case c < ' ' || w.ascii && c > '~' && c < 0x10000:
		b.WriteString(`\u` + hexPad(c, 4))
	case w.ascii && c >= 0x10000:
		c -= 0x10000
		b.WriteString(`\u` + hexPad(0xD800+c>>10, 4) + `\u` + hexPad(0xDC00+c&0x3FF, 4))
	default:
		b.WriteRune(c)
	}
}
