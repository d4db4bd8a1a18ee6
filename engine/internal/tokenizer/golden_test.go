package tokenizer

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goldenDir holds small vocabularies and what Hugging Face tokenizers does with them; make.py there
// writes both.
const goldenDir = "../../../tests/testdata/tokenizers"

// goldenCase is one text with its ids, or, without a text, a list of ids to decode.
type goldenCase struct {
	Name     string  `json:"name"` // only in fuzz files
	Text     *string `json:"text"`
	IDs      []int32 `json:"ids"`
	Template []int32 `json:"template"` // with AddSpecial, if not the same
	Letters  []int32 `json:"letters"`  // without ParseSpecial, if not the same
	Decoded  string  `json:"decoded"`
	Skipped  *string `json:"skipped"` // without special tokens, if not the same
}

func goldenNames(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(goldenDir, "*.golden.json"))
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d golden files in %s: %v", len(paths), goldenDir, err)
	}
	for i, p := range paths {
		paths[i] = strings.TrimSuffix(filepath.Base(p), ".golden.json")
	}
	return paths
}

func goldenTokenizer(t testing.TB, name string) *Tokenizer {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldenDir, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := FromJSON(data, nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return tok
}

func TestPipelinesDoWhatTheReferenceDoes(t *testing.T) {
	for _, name := range goldenNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok := goldenTokenizer(t, name)
			data, err := os.ReadFile(filepath.Join(goldenDir, name+".golden.json"))
			if err != nil {
				t.Fatal(err)
			}
			var cases []goldenCase
			if err := json.Unmarshal(data, &cases); err != nil {
				t.Fatal(err)
			}
			for _, c := range cases {
				checkGolden(t, tok, c)
			}
		})
	}
}

func checkGolden(t *testing.T, tok *Tokenizer, c goldenCase) {
	t.Helper()
	full := c.IDs
	if c.Text != nil {
		full = checkEncode(t, tok, c)
	}
	if got := tok.Decode(full, false); got != c.Decoded {
		t.Errorf("decode %v:\n got %q\nwant %q", full, got, c.Decoded)
	}
	if c.Text == nil {
		return
	}
	want := c.Decoded
	if c.Skipped != nil {
		want = *c.Skipped
	}
	if got := tok.Decode(full, true); got != want {
		t.Errorf("decode %v without special tokens:\n got %q\nwant %q", full, got, want)
	}
}

// checkEncode returns the reference's ids with the template.
func checkEncode(t *testing.T, tok *Tokenizer, c goldenCase) []int32 {
	t.Helper()
	full, letters := c.IDs, c.IDs
	if c.Template != nil {
		full = c.Template
	}
	if c.Letters != nil {
		letters = c.Letters
	}
	for _, want := range []struct {
		opts EncodeOptions
		ids  []int32
	}{
		{EncodeOptions{ParseSpecial: true}, c.IDs},
		{EncodeOptions{ParseSpecial: true, AddSpecial: true}, full},
		{EncodeOptions{}, letters},
	} {
		got, err := tok.Encode(*c.Text, want.opts)
		if err != nil {
			t.Fatalf("%q: %v", *c.Text, err)
		}
		if !slices.Equal(got, want.ids) {
			t.Errorf("%q, %+v:\n got %v\nwant %v", *c.Text, want.opts, got, want.ids)
		}
	}
	return full
}

// TestFuzzFile compares with the file that make.py --fuzz wrote, if there is one.
func TestFuzzFile(t *testing.T) {
	path := os.Getenv("MOERING_TOKENIZER_FUZZ")
	if path == "" {
		t.Skip("MOERING_TOKENIZER_FUZZ is not set: no file of make.py --fuzz to compare with")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	toks := map[string]*Tokenizer{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	n := 0
	for ; lines.Scan(); n++ {
		var c goldenCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if toks[c.Name] == nil {
			toks[c.Name] = goldenTokenizer(t, c.Name)
		}
		t.Run(c.Name, func(t *testing.T) { checkGolden(t, toks[c.Name], c) })
	}
	if lines.Err() != nil || n == 0 {
		t.Fatalf("%d cases: %v", n, lines.Err())
	}
}
