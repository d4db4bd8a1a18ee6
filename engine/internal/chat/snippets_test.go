package chat

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"
)

// clock is the time testdata/make.py gives to templates.
func clock() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// snippet is one entry of testdata/snippets.json.
type snippet struct {
	Template    string
	Output      *string // nil: the reference raises
	Unsupported bool
}

func readSnippets(t testing.TB) (Values, []snippet) {
	var file struct {
		Variables json.RawMessage
		Snippets  []snippet
	}
	readJSON(t, "testdata/snippets.json", &file)
	return variables(t, file.Variables), file.Snippets
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// variables turns a JSON object into the variables of a template.
func variables(t testing.TB, data []byte) Values {
	t.Helper()
	v, err := FromJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	out := Values{}
	for i, key := range v.v.(*dict).keys {
		out[key.(string)] = Value{v.v.(*dict).vals[i]}
	}
	return out
}

func renderSource(source string, vars Values) (string, error) {
	t, err := Parse("test", source)
	if err != nil {
		return "", err
	}
	return t.Render(vars, clock)
}

func TestSnippetsRenderAsTheReferenceDoes(t *testing.T) {
	vars, snippets := readSnippets(t)
	if len(snippets) < 150 {
		t.Fatalf("only %d snippets", len(snippets))
	}
	for _, s := range snippets {
		got, err := renderSource(s.Template, vars)
		switch {
		case s.Unsupported:
			if !errors.Is(err, ErrUnsupported) {
				t.Errorf("%q\n got %q, %v; want ErrUnsupported", s.Template, got, err)
			}
		case s.Output == nil:
			if !errors.Is(err, ErrTemplate) {
				t.Errorf("%q\n got %q, %v; want ErrTemplate", s.Template, got, err)
			}
		case err != nil:
			t.Errorf("%q\n %v", s.Template, err)
		case got != *s.Output:
			t.Errorf("%q\n got %q\nwant %q", s.Template, got, *s.Output)
		}
	}
}
