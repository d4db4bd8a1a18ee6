package chat

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// randomTemplates is how many random templates are compared with the reference, where there is one.
const randomTemplates = 1000

// source makes random templates from the constructs the package implements.
type source struct{ *rand.Rand }

func (g source) pick(options ...string) string { return options[g.IntN(len(options))] }

// filtered applies one of the filters.
func (g source) filtered(x string, filters ...string) string {
	return "(" + x + "|" + g.pick(filters...) + ")"
}

// expr makes an expression, mostly one without type errors; n bounds how deep it nests.
func (g source) expr(n int) string {
	switch g.IntN(8) {
	case 0, 1, 2:
		return g.str(n)
	case 3, 4:
		return g.num(n)
	case 5:
		return "(" + g.seq(n) + "|list)"
	case 6:
		return g.seq(n)
	}
	return g.wild(n)
}

// str makes an expression that is text.
func (g source) str(n int) string {
	if n <= 0 {
		return g.pick("s", "e", "u", "x", "'a'", "''", "'ab cd'", `"it's"`, "'<b>&'|safe", `'a\nb\n'`,
			"'żó'", "'A-b (c)'", "words[0]", "people[0].name", "missing|string")
	}
	switch g.IntN(6) {
	case 0:
		return fmt.Sprintf("(%s + %s)", g.str(n-1), g.str(n-1))
	case 1:
		return fmt.Sprintf("(%s ~ %s)", g.expr(n-1), g.expr(n-1))
	case 2:
		return fmt.Sprintf("(%s)%s", g.str(n-1), g.pick("[0]", "[1:]", "[::-1]", "[:-1]", "[-3:]"))
	case 3:
		return fmt.Sprintf("(%s).%s", g.str(n-1), g.pick("strip()", "upper()", "lower()", "title()",
			"replace('a', 'bb')", "lstrip('a ')", "rstrip()", "capitalize()", "zfill(5)", "center(7)",
			"split('a')[0]", "split()|join('+')", "removeprefix('a')", "ljust(4, '.')",
			"rsplit('b', 1)[-1]", "partition(' ')[2]", "splitlines()|join"))
	case 4:
		return g.filtered(g.expr(n-1), "string", "tojson", "trim", "upper", "title", "e", "safe",
			"replace('a', 'b')", "capitalize", "string|indent(2)", "tojson(indent=2)",
			"tojson(ensure_ascii=true)", "default('q')|string", "lower|center(9)")
	}
	return g.filtered(g.seq(n-1), "join", "join(', ')", "map('string')|join('-')", "list|string")
}

// num makes an expression that is a number or a truth value.
func (g source) num(n int) string {
	if n <= 0 {
		return g.pick("n", "z", "neg", "f", "t", "no", "1", "0", "-2", "2.5", "1e16", "true", "7.25")
	}
	switch g.IntN(7) {
	case 0, 1:
		op := g.pick("+", "-", "*", "+", "-", "/", "//", "%", "==", "<", ">=", "and", "or")
		return fmt.Sprintf("(%s %s %s)", g.num(n-1), op, g.num(n-1))
	case 2:
		return fmt.Sprintf("((%s) is %s)", g.expr(n-1), g.test())
	case 3:
		return fmt.Sprintf("(%s %s %s)", g.expr(n-1), g.pick("==", "!=", "and", "or"), g.expr(n-1))
	case 4:
		return g.filtered(g.num(n-1), "abs", "int", "float", "round", "round(1)", "string|int")
	case 5:
		return fmt.Sprintf("(%s %s %s)", g.str(n-1), g.pick("in", "not in", "<", ">"), g.str(n-1))
	}
	return fmt.Sprintf("(%s)", g.pick(g.seq(n-1)+"|list|length", g.str(n-1)+"|length",
		"("+g.str(n-1)+").find('b')", "("+g.str(n-1)+").startswith('a')", "not "+g.expr(n-1),
		"-"+g.num(n-1)))
}

// seq makes an expression that can be iterated.
func (g source) seq(n int) string {
	if n <= 0 {
		return g.pick("l", "d", "words", "people", "[]", "{}", "()", "[1, 'b', none]",
			"{'a': 1, 'b': [2]}", "(1, 'x')", "range(3)", "d.items()", "missing", "[2.5, true]")
	}
	switch g.IntN(5) {
	case 0:
		return fmt.Sprintf("[%s, %s]", g.expr(n-1), g.expr(n-1))
	case 1:
		return fmt.Sprintf("{%s: %s, 'k': %s}", g.str(n-1), g.expr(n-1), g.expr(n-1))
	case 2:
		return "((" + g.seq(n-1) + "|list)" + g.pick("", "[1:]", "[::-1]", " + [1]", "[:2]") + ")"
	case 3:
		return "(" + g.str(n-1) + ")." + g.pick("split()", "split('a')", "split(' ', 1)", "splitlines()",
			"rsplit(none, 1)", "rpartition('b')")
	}
	return g.filtered(g.seq(n-1), "list", "map('string')", "select", "map('string')|sort",
		"reverse", "reject('none')", "select('string')", "batch(2)", "slice(2)", "map('string')|unique",
		"list|map('tojson')", "reject('in', [1, 'a'])")
}

// wild makes an expression of any kind, type errors included.
func (g source) wild(n int) string {
	if n <= 0 {
		return g.pick("nil", "missing", "namespace(a=1)", "big", "none", g.str(0), g.num(0), g.seq(0))
	}
	switch g.IntN(6) {
	case 0:
		return g.expr(n-1) + " " + g.pick("+", "*", "%", "<", "in", "~") + " " + g.expr(n-1)
	case 1:
		return fmt.Sprintf("(%s if %s else %s)", g.expr(n-1), g.expr(n-1), g.expr(n-1))
	case 2:
		return fmt.Sprintf("(%s)%s", g.expr(n-1), g.pick("[0]", "[1:]", "['a']", "['items']", "[n]",
			".a", ".name", ".items", "[5]", "[none:1]", "[true]", ".get('a')", ".items()", ".append(1)"))
	case 3:
		return g.filtered(g.expr(n-1), "first", "last", "default(0)", "d('q', true)", "min", "max",
			"sum", "dictsort", "items|list", "sort", "map(attribute='name')|list", "format(1, 2)",
			"selectattr('age', 'gt', 3)|list", "length", "default("+g.expr(n-1)+")")
	case 4:
		return fmt.Sprintf("(%s, %s)", g.expr(n-1), g.expr(n-1))
	}
	return g.filtered(g.seq(n-1), "first", "last", "list|max", "list|sort|first", "sum")
}

func (g source) test() string {
	return g.pick("defined", "undefined", "none", "string", "mapping", "iterable", "sequence",
		"number", "integer", "float", "boolean", "true", "false", "not string", "in [1, 'a']", "eq 1",
		"ne(none)", "callable", "lower", "escaped", "not none")
}

// body makes statements.
func (g source) body(n int) string {
	var b strings.Builder
	for range 1 + g.IntN(3) {
		b.WriteString(g.statement(n))
		b.WriteString(g.pick("", "\n", " ", "\n  ", "t\n", "  \n\n"))
	}
	return b.String()
}

func (g source) statement(n int) string {
	open, end := g.pick("{%", "{%-", "{%+"), g.pick("%}", "-%}", "%}", "+%}")
	tag := func(format string, args ...any) string {
		return open + " " + fmt.Sprintf(format, args...) + " " + end
	}
	if n <= 0 || g.IntN(3) == 0 {
		return g.pick("{{", "{{-") + " " + g.expr(2) + " " + g.pick("}}", "-}}")
	}
	name := g.pick("x", "y", "n", "l", "i")
	switch g.IntN(9) {
	case 0:
		return tag("if %s", g.expr(2)) + g.body(n-1) + tag("else") + g.body(n-1) + tag("endif")
	case 1, 2:
		iter := g.pick("l", "words", "d", "people", "range(3)", "'ab'", g.expr(2))
		return tag("for %s in %s%s", name, iter, g.pick("", "", " if loop is not defined", " if "+name)) +
			g.pick("", "{{ loop.index }}", "{{ loop.last }}", "{{ loop.previtem }}", "{{ loop.length }}") +
			g.body(n-1) + g.pick("", tag("continue"), tag("if %s", name)+tag("break")+tag("endif")) +
			g.pick("", tag("else")+g.body(n-1)) + tag("endfor")
	case 3:
		return tag("set %s = %s", name, g.expr(2))
	case 4:
		return tag("set %s%s", name, g.pick("", "|trim", "|upper")) + g.body(n-1) + tag("endset")
	case 5:
		m := g.pick("m1", "m2")
		return tag("macro %s(%s, q=%s)", m, name, g.expr(1)) + g.body(n-1) + "{{ q }}" +
			tag("endmacro") + "{{ " + m + "(" + g.pick("", "1", "l, 2", "q=x", g.expr(1)) + ") }}"
	case 6:
		return tag("with %s = %s", name, g.expr(2)) + g.body(n-1) + tag("endwith")
	case 7:
		return tag("filter %s", g.pick("upper", "trim", "length|string", "replace('a', 'b')")) +
			g.body(n-1) + tag("endfilter")
	}
	return tag("generation") + g.body(n-1) + tag("endgeneration") + g.pick("", "{#- c -#}",
		" {# c #} ")
}

func TestRandomTemplatesAgreeWithTheReference(t *testing.T) {
	ref := startReference(t)
	var file struct{ Variables any }
	readJSON(t, "testdata/snippets.json", &file)
	delete(file.Variables.(map[string]any), "big") // Go's any would round it
	data := mustMarshal(t, file.Variables)
	vars := variables(t, data)
	seed := uint64(1)
	g := source{rand.New(rand.NewPCG(seed, 0))}
	counts := map[string]int{}
	for range randomTemplates {
		text := g.body(2)
		want := ref.ask(t, map[string]any{"template": text, "variables": rawJSON(data)})
		got, err := renderSource(text, vars)
		switch {
		case errors.Is(err, ErrUnsupported) || errors.Is(err, ErrLimit):
			counts["not implemented"]++
		case errors.Is(err, ErrTemplate) && want == nil:
			counts["refused"]++
		case err == nil && want != nil && got == *want:
			counts["equal"]++
		default:
			t.Errorf("seed %d: %q\n got %q, %v\nwant %s", seed, text, got, err, show(want))
		}
	}
	t.Log(counts)
}
