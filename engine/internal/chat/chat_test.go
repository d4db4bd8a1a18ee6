package chat

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func mustJSON(t *testing.T, s string) Value {
	t.Helper()
	v, err := FromJSON([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mustParse(t *testing.T, source string) *Template {
	t.Helper()
	tmpl, err := Parse("test", source)
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

func TestErrorsNameTemplateLineAndConstruct(t *testing.T) {
	for _, c := range []struct {
		source string
		kind   error
		line   int
		text   string
	}{
		{"a\nb {{ x|wordwrap }}", ErrUnsupported, 2, "wordwrap"},
		{"\n\n{% include 'x' %}", ErrUnsupported, 3, "include"},
		{"{% if true %}\n{{ x|nope }}{% endif %}", ErrTemplate, 2, "nope"},
		{"\n{{ 'a'.encode() }}", ErrUnsupported, 2, "encode"},
		{"{{ 1 }}\n{{ x.y }}", ErrTemplate, 2, "x"},
		{"\n\n\n{{ raise_exception('roles must alternate') }}", ErrTemplate, 4, "roles must alternate"},
		{"{% for a in b %}\n", ErrTemplate, 1, "endfor"},
	} {
		_, err := renderSource(c.source, nil)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, c.kind) {
			t.Errorf("%q: %v; want %v", c.source, err, c.kind)
			continue
		}
		if e.Template != "test" || e.Line != c.line || !strings.Contains(e.Error(), c.text) {
			t.Errorf("%q: %v; want line %d and %q", c.source, err, c.line, c.text)
		}
	}
}

func TestRunawayTemplatesEndInALimit(t *testing.T) {
	grow := "{% set n = namespace(x='a', l=[1]) %}{% for i in range(1000) %}"
	var names strings.Builder
	for i := range namesMax + 1 {
		fmt.Fprintf(&names, "{%% set a%d = 1 %%}", i)
	}
	for _, c := range []struct{ source, limit string }{
		{strings.Repeat("{% for i in range(10000) %}", 2) + strings.Repeat("{% endfor %}", 2),
			"loop passes"},
		{grow + "{% set n.x = n.x + n.x %}{% endfor %}", "a string of more"},
		{grow + "{% set n.l = n.l + n.l %}{% endfor %}", "units of work"},
		{grow + "{% set n.l = [n.l] %}{% endfor %}{{ n.l }}", "values nested"},
		{grow + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l == n.l }}", "values nested"},
		{"{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}" +
			"{% endfor %}{{ n.l }}", "output of more"},
		{"{% set n = namespace(x=1) %}{% set n.x = [n] %}{{ n }}", "values nested"},
		{grow + "{% set n.l = n.l|map('string') %}{% endfor %}{{ n.l|list }}", "values nested"},
		{"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested calls"},
		{"{% for a in [1] recursive %}{{ loop([a]) }}{% endfor %}", "nested calls"},
		{"{{ 'ab' * 1000000000000 }}", "repeating"},
		{"{{ [1] * 1000000 }}", "units of work"},
		{"{{ ('a' * 100000).replace('', 'b' * 100000) }}", "a string of more"},
		{"{{ 2 ** 100000 }}", "bits"},
		{"{{ range(10000)|join('a' * 10000) }}", "output of more"},
		{"{{ [1]|batch(100000000000, 0)|list }}", "units of work"},
		{"{{ 'a'|center(10000000000) }}", "width"},
		{"{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}", "output of more"},
		{"{{ " + strings.Repeat("(", 10000), "nested constructs"},
		{"{{ 1" + strings.Repeat("+1", 10000) + " }}", "operators in a row"},
		{"{{ a" + strings.Repeat(".a", 10000) + " }}", "operators in a row"},
		{strings.Repeat("{% if a %}", 10000), "nested constructs"},
		{strings.Repeat("a", sourceBytesMax+1), "a template of"},
		{"{{ 1" + strings.Repeat("0", 20000) + " }}", "digits"},
		{names.String(), "names in one scope"},
	} {
		tmpl, err := Parse("test", c.source)
		if err == nil {
			tmpl.limits = limits{work: 1 << 22, output: 1 << 20, iterations: 50_000}
			_, err = tmpl.Render(nil, nil)
		}
		if !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), c.limit) {
			t.Errorf("%.80q: %v; want the limit of %q", c.source, err, c.limit)
		}
	}
}

func TestFromJSONReadsAsPythonDoes(t *testing.T) {
	show := mustParse(t, "{{ v }}")
	for in, want := range map[string]string{
		`{"b": 1, "a": 2, "b": 3}`:      "{'b': 3, 'a': 2}",
		`[1, 1.0, 1e2, -0, -0.0]`:       "[1, 1.0, 100.0, 0, -0.0]",
		`18446744073709551616`:          "18446744073709551616",
		`[true, false, null, "x"]`:      "[True, False, None, 'x']",
		`"\ud83d\ude00 \u00e9 \\ud83d"`: `😀 é \ud83d`,
		` {} `:                          "{}",
	} {
		got, err := show.Render(Values{"v": mustJSON(t, in)}, nil)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestFromJSONRefusesWhatItWouldChange(t *testing.T) {
	deep := strings.Repeat("[", 300) + strings.Repeat("]", 300)
	for _, in := range []string{"", "{", "[1,]", "{} {}", "[1]]", "nul", "'a'", `{"a":}`, "1e999",
		"NaN", `"\ud83d"`, `"\ud83dx"`, `"\ude00"`, `"\ud83d\u0041"`, "\"\xff\"", `{1: 2}`, deep,
		strings.Repeat("9", 5000)} {
		if v, err := FromJSON([]byte(in)); err == nil {
			t.Errorf("%.40q: got %v, want an error", in, v)
		}
	}
}

func TestRenderChatGivesTheVariablesOfTransformers(t *testing.T) {
	tmpl := mustParse(t, "{{ messages }}|{{ tools }}|{{ documents is none }}"+
		"|{{ add_generation_prompt }}|{{ bos_token }}|{{ eos_token is defined }}|{{ thinking }}")
	got, err := tmpl.RenderChat(Chat{
		Messages: mustJSON(t, `[{"role": "assistant", "content": null, "reasoning": "r"}]`),
		Tools:    mustJSON(t, `[{"name": "f"}]`), AddGenerationPrompt: true,
		Tokens: map[string]string{"bos_token": "<s>"}, Extra: Values{"thinking": Bool(true)}})
	want := "[{'thinking': 'r', 'role': 'assistant', 'reasoning': 'r', 'reasoning_content': 'r'}]" +
		"|[{'name': 'f'}]|True|True|<s>|False|True"
	if err != nil || got != want {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
}

func TestRenderChatRefusesOtherShapes(t *testing.T) {
	tmpl := mustParse(t, "x")
	one := `[{"role": "user", "content": "a"}]`
	for name, c := range map[string]Chat{
		"no messages":        {},
		"empty":              {Messages: mustJSON(t, `[]`)},
		"message is text":    {Messages: mustJSON(t, `["a"]`)},
		"tools is an object": {Messages: mustJSON(t, one), Tools: mustJSON(t, `{}`)},
		"tool is text":       {Messages: mustJSON(t, one), Tools: mustJSON(t, `["a"]`)},
		"messages twice":     {Messages: mustJSON(t, one), Extra: Values{"messages": Bool(true)}},
		"token is not text":  {Messages: mustJSON(t, one), Tokens: map[string]string{"a": "\xff"}},
	} {
		if got, err := tmpl.RenderChat(c); !errors.Is(err, ErrTemplate) {
			t.Errorf("%s: got %q, %v; want ErrTemplate", name, got, err)
		}
	}
}

func TestTimeWithoutAClockIsAnError(t *testing.T) {
	_, err := mustParse(t, "{{ strftime_now('%d') }}").Render(nil, nil)
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v, want ErrUnsupported", err)
	}
}

func TestATemplateIsSafeForConcurrentUse(t *testing.T) {
	vars, snippets := readSnippets(t)
	var group sync.WaitGroup
	for _, s := range snippets {
		if s.Output == nil || s.Unsupported {
			continue
		}
		tmpl := mustParse(t, s.Template)
		for range 4 {
			group.Go(func() {
				if got, err := tmpl.Render(vars, clock); err != nil || got != *s.Output {
					t.Errorf("%q: got %q, %v", s.Template, got, err)
				}
			})
		}
	}
	group.Wait()
}
