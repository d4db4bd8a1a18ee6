package tokenizer

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fixture opens a published vocabulary of the folder that MOERING_FIXTURES names.
func fixture(t *testing.T, name string) (tok *Tokenizer, path string) {
	t.Helper()
	dir := os.Getenv("MOERING_FIXTURES")
	if dir == "" {
		t.Skip("MOERING_FIXTURES is not set: no published vocabularies to test with")
	}
	path = filepath.Join(dir, "tokenizers", "ggml-vocab-"+name+".gguf")
	tok, err := FromGGUF(readGGUFVocab(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return tok, path
}

func fixtureNames() []string {
	return []string{"gpt-2", "qwen2", "llama-bpe", "llama-spm", "deepseek-llm"}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPublishedVocabulariesGiveThePublishedIDs(t *testing.T) {
	for _, name := range fixtureNames() {
		t.Run(name, func(t *testing.T) {
			tok, path := fixture(t, name)
			inputs := strings.Split(readText(t, path+".inp"), "\n__ggml_vocab_test__\n")
			want := strings.Split(readText(t, path+".out"), "\n")
			if len(inputs) < 40 || len(want) < len(inputs) {
				t.Fatalf("%d inputs, %d outputs", len(inputs), len(want))
			}
			for i, in := range inputs {
				got, err := tok.Encode(in, EncodeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if ids := parseIDs(t, want[i]); !slices.Equal(got, ids) {
					t.Errorf("%q:\n got %v\nwant %v", in, got, ids)
				}
				if text := tok.Decode(got, false); text != in {
					t.Errorf("%q comes back as %q", in, text)
				}
			}
		})
	}
}

func TestPublishedVocabulariesGiveTextBack(t *testing.T) {
	for _, name := range fixtureNames() {
		t.Run(name, func(t *testing.T) {
			tok, _ := fixture(t, name)
			r := rand.New(rand.NewPCG(5, 6))
			for range 500 {
				text := "ø é" + randomText(r, r.IntN(60))
				ids, err := tok.Encode(text, EncodeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if got := tok.Decode(ids, false); got != text {
					t.Fatalf("%q comes back as %q", text, got)
				}
			}
		})
	}
}

func parseIDs(t *testing.T, line string) []int32 {
	t.Helper()
	ids := []int32{}
	for _, f := range strings.Fields(line) {
		id, err := strconv.ParseInt(f, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, int32(id))
	}
	return ids
}
