package chat

import (
	"errors"
	"testing"
	"unicode/utf8"
)

// fuzzLimits keep one input to a few milliseconds.
func fuzzLimits() limits { return limits{work: 1 << 20, output: 50_000, iterations: 2000} }

// checkError fails for an error that is not one of the three kinds: it would be a defect here.
func checkError(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if err == nil {
		return
	}
	if !errors.As(err, &e) || errors.Is(err, errInternal) {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrTemplate) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrLimit) {
		t.Fatalf("an error of no kind: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	_, snippets := readSnippets(f)
	for _, s := range snippets {
		f.Add(s.Template)
	}
	f.Fuzz(func(t *testing.T, source string) {
		_, err := Parse("fuzz", source)
		checkError(t, err)
	})
}

func FuzzRender(f *testing.F) {
	_, snippets := readSnippets(f)
	for _, s := range snippets {
		f.Add(s.Template, `{"n": 7, "l": [3, 1, 2], "s": "a b", "d": {"a": [1.5, null], "b": true}}`)
	}
	f.Fuzz(func(t *testing.T, source, vars string) {
		v, err := FromJSON([]byte(vars))
		checkError(t, err)
		d, ok := v.v.(*dict)
		if !ok {
			return
		}
		values := Values{}
		for i, key := range d.keys {
			values[key.(string)] = Value{d.vals[i]}
		}
		tmpl, err := Parse("fuzz", source)
		if err != nil {
			return
		}
		tmpl.limits = fuzzLimits()
		text, err := tmpl.Render(values, clock)
		checkError(t, err)
		if !utf8.ValidString(text) || len(text) > fuzzLimits().output {
			t.Fatalf("bad output %q", text)
		}
		again, err2 := tmpl.Render(values, clock)
		if again != text || (err == nil) != (err2 == nil) {
			t.Fatalf("two renderings differ: %q, %v and %q, %v", text, err, again, err2)
		}
	})
}

// FuzzFromJSON reads JSON, writes it with tojson, and reads that: both texts must be the same value.
func FuzzFromJSON(f *testing.F) {
	for _, seed := range []string{`{"a": [1, 1.0, -0.0, 1e300], "b": {"c": null}}`, `"\ud83d\ude00"`,
		`[true, false, "\u0000\u001f\u2028"]`, `18446744073709551616`, `{"a": 1, "a": 2}`} {
		f.Add([]byte(seed))
	}
	write, err := Parse("write", "{{ v|tojson }}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := FromJSON(data)
		checkError(t, err)
		if err != nil {
			return
		}
		text, err := write.Render(Values{"v": v}, nil)
		checkError(t, err)
		if err != nil {
			return
		}
		again, err := FromJSON([]byte(text))
		if err != nil {
			t.Fatalf("%q became %q: %v", data, text, err)
		}
		if second, err := write.Render(Values{"v": again}, nil); err != nil || second != text {
			t.Fatalf("%q became %q, then %q, %v", data, text, second, err)
		}
	})
}
