package pack

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/tokenizer"
	"github.com/moering/moering/offload/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testdata = "../../../tests/testdata/"

func load(t *testing.T, path string) *arch.Model {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := arch.Load(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// converted runs the converter alone and returns all bytes.
func converted(t *testing.T, m *arch.Model, o Options, elements, threads int) []byte {
	t.Helper()
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	p, err := makePlan(m, o)
	if err != nil {
		t.Fatal(err)
	}
	c := &converter{m: m, elements: elements, threads: threads}
	if c.files, err = m.Store.OpenFiles(false); err != nil {
		t.Fatal(err)
	}
	defer closeAll(c.files)
	var all []byte
	sources, kinds := p.sources()
	err = c.run(context.Background(), sources, kinds, func(b []byte) error {
		all = append(all, b...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The size of chunks and the number of threads never change a byte, reordered rows and the last,
// short chunk of a piece included.
func TestChunksNeverChangeBytes(t *testing.T) {
	for _, name := range []string{"families/llama/hf", "families/llama-linear/hf", "families/mixtral/hf",
		"families/qwen2moe/model.gguf"} {
		m := load(t, testdata+name)
		for _, kind := range []string{"", "Q8_0"} {
			o := Options{ExpertType: kind, DenseType: kind}
			want := converted(t, m, o, chunkElementsMost, 1)
			for _, elements := range []int{96, 256, 4096} { // 96 is no whole row of 64
				if got := converted(t, m, o, elements, 3); !bytes.Equal(got, want) {
					t.Errorf("%s %q: other bytes with chunks of %d", name, kind, elements)
				}
			}
		}
	}
}

// A failure on either side, and the end of the context, stop all goroutines (goleak) and are
// returned.
func TestConverterStops(t *testing.T) {
	m := load(t, testdata+"families/mixtral/hf")
	p, err := makePlan(m, Options{Layout: Grouped})
	if err != nil {
		t.Fatal(err)
	}
	sources, kinds := p.sources()
	full := errors.New("full")
	c := &converter{m: m, elements: 256, threads: 2}
	if c.files, err = m.Store.OpenFiles(false); err != nil {
		t.Fatal(err)
	}
	for stop := range 5 {
		n := 0
		err := c.run(context.Background(), sources, kinds, func([]byte) error {
			if n++; n > stop*stop {
				return full
			}
			return nil
		})
		if !errors.Is(err, full) || n != stop*stop+1 {
			t.Errorf("%v after %d writes", err, n)
		}
		ctx, cancel := context.WithCancel(context.Background())
		n = 0
		err = c.run(ctx, sources, kinds, func([]byte) error {
			if n++; n > stop {
				cancel()
			}
			return nil
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if err := closeAll(c.files); err != nil {
		t.Fatal(err)
	}
	err = c.run(context.Background(), sources, kinds, func([]byte) error { return nil })
	if !errors.Is(err, store.ErrIO) || !strings.Contains(err.Error(), "embed_tokens") {
		t.Errorf("from closed files: %v", err)
	}
}

// Buffers fit the budget, and too small a budget names the least that works.
func TestBuffersFitTheBudget(t *testing.T) {
	const header = 10 << 20
	for threads := 1; threads < 9; threads++ {
		_, least := chunkElements(0, header, threads)
		for memory := least; memory < 1<<30; memory += memory / 3 {
			n, _ := chunkElements(memory, header, threads)
			used := int64(n) * int64(threads+chunksBeside) * chunkElementBytes
			if n < chunkElementsLeast || n > chunkElementsMost ||
				used+programBytes+headerCopies*header > memory {
				t.Errorf("%d elements, %d bytes of %d", n, used, memory)
			}
		}
		if n, again := chunkElements(least-1, header, threads); n != 0 || again != least {
			t.Errorf("%d elements below the least", n)
		}
	}
}

// Tokenizers that have a form in GGUF get it, and that form gives the same tokens; for others a
// reason is given.
func TestTokenizersInGGUFForm(t *testing.T) {
	for name, want := range map[string]string{"qwen2": "qwen2", "llama3": "llama-bpe", "gpt2": "gpt-2",
		"llama2": "", "mixtral": "", "metaspace": "", "deepseek-v3": "", "gpt2-prefix": ""} {
		text, err := os.ReadFile(filepath.Join(testdata, "tokenizers", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		tok, err := tokenizer.FromJSON(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, why := ggufVocab(tok, text, tok.Size()+3)
		if why == "" {
			why = compare(tok, v)
		}
		if (why == "") != (want != "") || want != "" && v.Pre != want {
			t.Errorf("%s: pre %q, %s", name, v.Pre, why)
			continue
		}
		if want == "" {
			continue
		}
		if n := len(v.Tokens); n != tok.Size()+3 || v.Types[n-1] != tokenUnused {
			t.Errorf("%s: %d tokens, the last of type %d", name, n, v.Types[n-1])
		}
		if _, why := ggufVocab(tok, text, tok.Size()-1); why == "" {
			t.Errorf("%s: more tokens than the model has rows", name)
		}
		v.Merges = v.Merges[:len(v.Merges)/2]
		if compare(tok, v) == "" {
			t.Errorf("%s: half of the merges give the same tokens", name)
		}
	}
}

// What the keys of GGUF cannot say is refused.
func TestModelsThatGGUFCannotCarry(t *testing.T) {
	spec := load(t, testdata+"families/qwen3moe/hf").Spec
	if err := expressible(&spec); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(s *arch.Spec){
		"norm_topk_prob": func(s *arch.Spec) { s.Normalize = !s.Normalize },
		"without experts": func(s *arch.Spec) {
			s.Layers = append([]arch.Layer{{Sparse: false}}, s.Layers[1:]...)
		},
		"sliding window": func(s *arch.Spec) {
			s.Layers = append([]arch.Layer{{Sparse: true, Window: 9}}, s.Layers[1:]...)
		},
		"YaRN": func(s *arch.Spec) { s.Rope.Kind, s.Rope.NoTruncate = "yarn", true },
	} {
		s := spec
		change(&s)
		if err := expressible(&s); !errors.Is(err, ErrModel) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
