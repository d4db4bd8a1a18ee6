package tokenizer

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// A merge loop that is quadratic needs 10^12 steps for these and runs into the time limit of go
// test. One that is not needs a few tenths of a second for each; -v says how long the longest took.
func TestLongWordsTakeLinearTime(t *testing.T) {
	const size = 1 << 20
	longest, of := time.Duration(0), ""
	for _, name := range []string{"gpt2", "deepseek-v3", "llama2"} {
		tok := goldenTokenizer(t, name)
		for _, unit := range []string{"a", " ", "\n", "1", "e\u0301"} {
			text := strings.Repeat(unit, size/len(unit))
			start := time.Now()
			ids, err := tok.Encode(text, EncodeOptions{ParseSpecial: true})
			if err != nil {
				t.Fatalf("%s, %q: %v", name, unit, err)
			}
			if d := time.Since(start); d > longest {
				longest, of = d, name+" on "+strconv.Quote(unit)
			}
			if len(ids) == 0 || len(ids) > len(text)+1 {
				t.Fatalf("%s, %q: %d ids for %d bytes", name, unit, len(ids), len(text))
			}
		}
	}
	t.Logf("%v for 1 MiB, %s", longest, of)
}

func TestLongRunsOfMarksAreComposedWithoutJoiners(t *testing.T) {
	text := "e\u0301" + strings.Repeat("\u0323\u0301", 50) + "x"
	got, err := unicodeForm(norm.NFC)(text)
	if err != nil {
		t.Fatal(err)
	}
	want := "\u1eb9" + strings.Repeat("\u0323", 49) + strings.Repeat("\u0301", 51) + "x"
	if got != want {
		t.Errorf("got %+q\nwant %+q", got, want)
	}
	// Where x/text needs no joiner, the two ways must agree.
	for _, f := range []norm.Form{norm.NFC, norm.NFD, norm.NFKC, norm.NFKD} {
		for r := rune(0xA0); r < 0x2FA1E; r++ {
			if unicode.Is(unicode.Cs, r) || f.PropertiesString(string(r)).Size() == 0 ||
				unicode.In(r, unicode.Han, unicode.Hangul) && r%64 != 0 || !unicode.IsGraphic(r) {
				continue
			}
			s := string(r) + "\u0301\u0323" + string(r)
			if a, b := f.String(s), normalizeLong(f, s); a != b {
				t.Fatalf("%v of %+q: %+q and %+q", f, s, a, b)
			}
		}
	}
}

func TestIllFormedInputIsReadAsReplacement(t *testing.T) {
	tok := goldenTokenizer(t, "gpt2")
	for in, want := range map[string]string{
		"a\xffb":               "a\uFFFDb",
		"\xe4\xbd":             "\uFFFD",
		"\xe4\xbd\xe4\xbd\xa0": "\uFFFD你",
		"\xf0\x9f\x98x":        "\uFFFDx",
		"\xed\xa0\x80":         "\uFFFD\uFFFD\uFFFD",
		"\xc0\xaf":             "\uFFFD\uFFFD",
	} {
		ids, err := tok.Encode(in, EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Decode(ids, false); got != want {
			t.Errorf("%q is read as %q, want %q", in, got, want)
		}
	}
}

func TestOneTokenizerServesSeveralGoroutines(t *testing.T) {
	tok := goldenTokenizer(t, "qwen2")
	text := strings.Repeat("The naïve Ünïcödé 漢字 123 don't\n", 200)
	want, err := tok.Encode(text, EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				got, err := tok.Encode(text, EncodeOptions{})
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%v: %d ids, want %d", err, len(got), len(want))
				}
				if tok.Decode(got, false) != text {
					t.Error("text does not come back")
				}
			}
		})
	}
	wg.Wait()
}

func TestWordCacheIsBounded(t *testing.T) {
	var c wordCache
	word := []byte("word000000")
	for i := range 4 * cacheShards * cacheShardWords {
		for j, n := len(word)-1, i; n > 0; j, n = j-1, n/10 {
			word[j] = '0' + byte(n%10)
		}
		c.put(string(word), []int32{int32(i)})
	}
	for i := range c.shards {
		if n := len(c.shards[i].words); n == 0 || n > cacheShardWords {
			t.Errorf("shard %d has %d words", i, n)
		}
	}
	c.put(strings.Repeat("x", cachedWordBytes+1), nil)
	if _, ok := c.get(strings.Repeat("x", cachedWordBytes+1)); ok {
		t.Error("a long word is cached")
	}
}

func TestCuttingAtMetaspacesChangesNothing(t *testing.T) {
	tok := goldenTokenizer(t, "llama2")
	if !tok.model.breakAtMeta {
		t.Fatal("the vocabulary cannot be cut, so this test shows nothing")
	}
	whole := goldenTokenizer(t, "llama2")
	whole.model.breakAtMeta = false
	for _, text := range []string{"", " ", "the  of   and", " a b ", "▁▁x ▁", "漢 字 \x00 é the"} {
		a, err1 := tok.Encode(text, EncodeOptions{})
		b, err2 := whole.Encode(text, EncodeOptions{})
		if err1 != nil || err2 != nil || !slices.Equal(a, b) {
			t.Errorf("%q: %v cut, %v whole (%v, %v)", text, a, b, err1, err2)
		}
	}
}

func TestAccessorsTakeAnyID(t *testing.T) {
	tok := goldenTokenizer(t, "qwen2")
	for _, id := range []int32{-1, -1 << 31, int32(tok.Size()), 1<<31 - 1} {
		if s, ok := tok.Token(id); ok || s != "" || tok.Bytes(id) != nil || tok.IsSpecial(id) {
			t.Errorf("id %d is a token", id)
		}
	}
	id, ok := tok.ID("<|im_end|>")
	if s, _ := tok.Token(id); !ok || s != "<|im_end|>" || !tok.IsSpecial(id) {
		t.Errorf("<|im_end|> is %d, %q", id, s)
	}
	if !slices.Contains(tok.EOGs(), id) {
		t.Errorf("%d is not in %v", id, tok.EOGs())
	}
	if id, ok := tok.ID("Ġthe"); !ok || string(tok.Bytes(id)) != " the" {
		t.Errorf("Ġthe is %d, %q", id, tok.Bytes(id))
	}
}
