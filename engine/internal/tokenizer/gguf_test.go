package tokenizer

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

// bytesGGUF is a byte-level vocabulary: the 256 bytes, two merges, and two special tokens.
func bytesGGUF() GGUFVocab {
	v := GGUFVocab{Model: "gpt2", Pre: "gpt-2", BOS: -1, EOS: 258, UNK: -1, PAD: -1, EOT: 259}
	for _, r := range newByteAlphabet().char {
		v.Tokens = append(v.Tokens, string(r))
	}
	v.Tokens = append(v.Tokens, "th", "Ġth", "<|end|>", "<|turn|>")
	v.Types = slices.Repeat([]int32{ggufNormal}, len(v.Tokens))
	v.Types[258], v.Types[259] = ggufControl, ggufUserDefined
	v.Merges = []string{"t h", "Ġ th"}
	return v
}

// scoresGGUF is a SentencePiece vocabulary: three specials, the byte tokens, a few words.
func scoresGGUF() GGUFVocab {
	v := GGUFVocab{Model: "llama", BOS: 1, EOS: 2, UNK: 0, PAD: -1, EOT: -1}
	add := func(token string, typ int32, score float32) {
		v.Tokens = append(v.Tokens, token)
		v.Types = append(v.Types, typ)
		v.Scores = append(v.Scores, score)
	}
	add("<unk>", ggufUnknown, 0)
	add("<s>", ggufControl, 0)
	add("</s>", ggufControl, 0)
	const digits = "0123456789ABCDEF"
	for i := range 256 {
		add("<0x"+string([]byte{digits[i>>4], digits[i&15]})+">", ggufByte, 0)
	}
	for i, w := range []string{"▁a", "ab", "▁ab", "▁", "a", "b", "é!"} {
		add(w, ggufNormal, -float32(i))
	}
	return v
}

func TestGGUFKinds(t *testing.T) {
	yes, no := true, false
	cases := []struct {
		name   string
		edit   func(*GGUFVocab)
		scores bool
		text   string
		want   []int32
	}{
		{"bytes", func(*GGUFVocab) {}, false, "th th", []int32{256, 257}},
		{"bytes, special", func(*GGUFVocab) {}, false, "th<|end|><|turn|>", []int32{256, 258, 259}},
		{"bytes, BOS", func(v *GGUFVocab) { v.BOS, v.AddBOS = 258, &yes }, false, "th",
			[]int32{258, 256}},
		{"bytes, EOS", func(v *GGUFVocab) { v.AddEOS = &yes }, false, "th", []int32{256, 258}},
		{"llama3 BOS", func(v *GGUFVocab) { v.Pre, v.BOS = "llama-bpe", 258 }, false, "th",
			[]int32{258, 256}},
		// "▁a" scores more than "ab", and so comes first.
		{"scores", func(*GGUFVocab) {}, true, "ab", []int32{1, 261}},
		{"scores, no BOS", func(v *GGUFVocab) { v.AddBOS = &no }, true, "ab ab", []int32{261, 261}},
		{"scores, no prefix", func(v *GGUFVocab) { v.AddSpacePrefix = &no }, true, "ab", []int32{1, 260}},
		// A token across the place where a text may else be cut for the cache.
		{"scores, across", func(v *GGUFVocab) {
			v.Tokens, v.Types = append(v.Tokens, "a▁"), append(v.Types, ggufNormal)
			v.Scores = append(v.Scores, 5)
		}, true, "a a", []int32{1, 262, 266, 263}},
		// "é" is no token, but half of one; alone it becomes its bytes.
		{"scores, bytes", func(*GGUFVocab) {}, true, "aé", []int32{1, 259, 3 + 0xC3, 3 + 0xA9}},
		// Its other half makes it one.
		{"scores, parts", func(*GGUFVocab) {}, true, "aé!", []int32{1, 259, 265}},
	}
	for _, c := range cases {
		v := bytesGGUF()
		if c.scores {
			v = scoresGGUF()
		}
		c.edit(&v)
		tok, err := FromGGUF(v)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got, err := tok.Encode(c.text, EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v (%v)", c.name, got, c.want, err)
		}
		want := strings.ReplaceAll(c.text, "<|end|>", "")
		if text := tok.Decode(got, true); text != want {
			t.Errorf("%s: %q comes back as %q", c.name, c.text, text)
		}
	}
}

func TestGGUFEndTokens(t *testing.T) {
	tok, err := FromGGUF(bytesGGUF())
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.EOGs(); !slices.Equal(got, []int32{258, 259}) {
		t.Errorf("got %v", got)
	}
	if !tok.IsSpecial(258) || tok.IsSpecial(259) {
		t.Error("a control token is special, a token of the user is not")
	}
}

func TestEveryKnownPreTokenizerLoads(t *testing.T) {
	for _, pre := range []string{"gpt-2", "qwen2", "llama-bpe", "llama3", "llama-v3", "smaug-bpe",
		"deepseek-llm", "deepseek-v3", "deepseek-coder", "olmo", "mpt", "default", "starcoder"} {
		v := bytesGGUF()
		v.Pre, v.BOS = pre, 258
		tok, err := FromGGUF(v)
		if err != nil {
			t.Fatalf("%s: %v", pre, err)
		}
		const text = "The th 12345 漢字, it's\r\n\n  x = (a+b);  \n"
		ids, err := tok.Encode(text, EncodeOptions{})
		if err != nil || tok.Decode(ids, false) != text {
			t.Errorf("%s: %v, %q", pre, err, tok.Decode(ids, false))
		}
	}
}

func TestBadGGUFVocabulariesAreErrors(t *testing.T) {
	yes := true
	for name, c := range map[string]struct {
		edit func(*GGUFVocab)
		kind error
		want string
	}{
		"unknown pre":    {func(v *GGUFVocab) { v.Pre = "kimi-k2" }, ErrUnsupported, "kimi-k2"},
		"no pre":         {func(v *GGUFVocab) { v.Pre = "" }, ErrUnsupported, "tokenizer.ggml.pre"},
		"unknown model":  {func(v *GGUFVocab) { v.Model = "t5" }, ErrUnsupported, "t5"},
		"no tokens":      {func(v *GGUFVocab) { v.Tokens, v.Types = nil, nil }, ErrFormat, "tokens"},
		"short types":    {func(v *GGUFVocab) { v.Types = v.Types[:9] }, ErrFormat, "token_type"},
		"odd type":       {func(v *GGUFVocab) { v.Types[7] = 77 }, ErrFormat, "77"},
		"not UTF-8":      {func(v *GGUFVocab) { v.Tokens[9] = "\xff" }, ErrFormat, "token 9"},
		"id too great":   {func(v *GGUFVocab) { v.EOS = 260 }, ErrFormat, "260"},
		"id below -1":    {func(v *GGUFVocab) { v.PAD = -2 }, ErrFormat, "-2"},
		"merge of three": {func(v *GGUFVocab) { v.Merges[0] = "t h e" }, ErrFormat, "entry 0"},
		"merge of none":  {func(v *GGUFVocab) { v.Merges[1] = "x y" }, ErrFormat, "merge 1"},
		"no BOS to add":  {func(v *GGUFVocab) { v.AddBOS = &yes }, ErrFormat, "add_bos_token"},
		"no scores":      {func(v *GGUFVocab) { v.Model = "llama" }, ErrFormat, "scores"},
		"not a number": {func(v *GGUFVocab) {
			*v = scoresGGUF()
			v.Scores[5] = float32(math.NaN())
		}, ErrFormat, "token 5"},
		"no byte tokens": {func(v *GGUFVocab) {
			*v = scoresGGUF()
			v.Tokens[3] = "x"
		}, ErrUnsupported, "<0x00>"},
		"endless cuts": {func(v *GGUFVocab) {
			*v = scoresGGUF()
			for range 9 {
				v.Tokens = append(v.Tokens, strings.Repeat("x", 6000))
				v.Tokens[len(v.Tokens)-1] += string(rune('a' + len(v.Tokens)%26))
				v.Types, v.Scores = append(v.Types, ggufNormal), append(v.Scores, 0)
			}
		}, ErrUnsupported, "cuts"},
	} {
		v := bytesGGUF()
		c.edit(&v)
		if _, err := FromGGUF(v); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
