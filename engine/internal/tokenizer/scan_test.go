package tokenizer

import (
	"math/rand/v2"
	"slices"
	"testing"
	"unicode"
	"unicode/utf8"
)

func scannedPatterns() []string {
	return []string{patternNewline, patternDigit, patternDigits3, patternDefaultDigits, patternCJK,
		patternCJKKana, patternDeepSeekLetters, patternDeepSeekPunct, patternSpaceLetters,
		patternSpacePunct, patternSpaceAtEnd}
}

func matches(t *testing.T, m matcher, text string) (out [][2]int) {
	t.Helper()
	w := &walker{runes: make([][]rune, 1)}
	err := m.each(w, 0, text, func(start, end int) { out = append(out, [2]int{start, end}) })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestScannersMatchWhatTheirPatternsMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", " ", "\n", "a \n\n b\n ", " \n \nx", "x \n", "\u3000\u3000。 。", "  ,,a"}
	for range 1000 {
		texts = append(texts, randomText(r, 1+r.IntN(30)))
	}
	for _, p := range scannedPatterns() {
		slow, err := newRegexMatcher(p)
		if err != nil {
			t.Fatal(err)
		}
		fast, ok := scanner(p)
		if !ok {
			t.Fatalf("no scanner for %q", p)
		}
		for _, text := range texts {
			if got, want := matches(t, fast, text), matches(t, slow, text); !slices.Equal(got, want) {
				t.Fatalf("%.30q on %q: got %v, want %v", p, text, got, want)
			}
		}
		for c := rune(0); c <= unicode.MaxRune; c++ { // every character, alone
			if !utf8.ValidRune(c) || c > 0x3100 && c%61 != 0 {
				continue
			}
			text := string(c)
			if got, want := matches(t, fast, text), matches(t, slow, text); !slices.Equal(got, want) {
				t.Fatalf("%.30q on %q: got %v, want %v", p, text, got, want)
			}
		}
	}
}

// randomText has characters of many scripts, and more blanks, digits and marks than text has.
func randomText(r *rand.Rand, n int) string {
	bases := []rune{' ', ' ', '\n', '\r', '\t', '0', '9', 'a', 'Z', '\'', '.', '!', 0xA0, 0xC0, 0x300,
		0x370, 0x410, 0x5D0, 0x660, 0x900, 0x1100, 0x1F60, 0x2000, 0x2018, 0x2028, 0x2160, 0x3000,
		0x3041, 0x4E00, 0x9FA0, 0xAC00, 0xD7A0, 0xFF00, 0xFFFD, 0x10400, 0x1D7CE, 0x1F468, 0x200D}
	out := make([]rune, n)
	for i := range out {
		c := bases[r.IntN(len(bases))]
		if c > 0x7F {
			c += rune(r.IntN(24))
		}
		if !utf8.ValidRune(c) {
			c = 'x'
		}
		out[i] = c
	}
	return string(out)
}

// What Oniguruma, the engine of the reference, finds where .NET would find something else.
func TestPatternsMeanWhatTheyMeanInOniguruma(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          [][2]int
	}{
		{patternQwen, "'ſt", [][2]int{{0, 3}, {3, 4}}},
		{patternQwen, "'Sx", [][2]int{{0, 2}, {2, 3}}},
		{`'(?i:[dk])`, "'D'\u212a", [][2]int{{0, 2}, {2, 6}}},
		{"b$", "ab\nb", [][2]int{{1, 2}, {3, 4}}},
		{"^b", "b\nb\n", [][2]int{{0, 1}, {2, 3}}},
		{`\u00e9|\x{1F600}`, "é😀", [][2]int{{0, 2}, {2, 6}}},
		{`a(?=b)|`, "ab", [][2]int{{0, 1}, {2, 2}}},
	} {
		m, err := newRegexMatcher(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := matches(t, m, c.text); !slices.Equal(got, c.want) {
			t.Errorf("%q on %q: got %v, want %v", c.pattern, c.text, got, c.want)
		}
	}
}
