package tokenizer

import (
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"
)

// fuzzTextMax keeps a pattern that the fuzzer makes up from taking its ten seconds on every text.
const fuzzTextMax = 12

func FuzzFromJSON(f *testing.F) {
	for _, name := range []string{"gpt2-prefix", "llama3", "mixtral", "odd5", "odd9"} {
		data, err := os.ReadFile(filepath.Join(goldenDir, name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, []byte(`{"bos_token": "<s>", "add_bos_token": true}`))
	}
	f.Add([]byte(minimal("")), []byte(`{"added_tokens_decoder": {"5": {"content": "!"}}}`))
	f.Add([]byte(minimal(`"normalizer": {"type": "Replace", "pattern": {"Regex": "(?i:a)|^b$"},
		"content": "c"}`)), []byte(`{}`))
	f.Fuzz(func(t *testing.T, data, config []byte) {
		tok, err := FromJSON(data, config)
		if err != nil {
			return
		}
		exercise(t, tok, "a ▁b\n"[:min(fuzzTextMax, 7)])
	})
}

// exercise calls everything; only a panic or a broken promise is a failure.
func exercise(t *testing.T, tok *Tokenizer, text string) {
	ids, err := tok.Encode(text, EncodeOptions{AddSpecial: true, ParseSpecial: true})
	if err != nil {
		return
	}
	ids = append(ids, -1, int32(tok.Size()), 0)
	s := tok.NewStream(false)
	got := ""
	for _, id := range ids {
		got += s.Push(id)
		tok.Bytes(id)
		tok.IsSpecial(id)
	}
	if got += s.Flush(); got != tok.Decode(ids, false) || !utf8.ValidString(got) {
		t.Fatalf("stream of %v gives %q, decode %q", ids, got, tok.Decode(ids, false))
	}
}

func FuzzEncodeDecode(f *testing.F) {
	names := goldenNames(f)
	toks := make([]*Tokenizer, len(names))
	for i, name := range names {
		toks[i] = goldenTokenizer(f, name)
	}
	for i := range names {
		f.Add(byte(i), "The naïve 漢字 <s>  ▁▁ it's\r\n 123 👨‍👩‍👧 <0xE4>\xe4\xbd")
	}
	f.Fuzz(func(t *testing.T, which byte, text string) {
		exercise(t, toks[int(which)%len(toks)], text)
	})
}

func FuzzFromGGUF(f *testing.F) {
	f.Add("gpt2", "deepseek-v3", "th", int32(3), "t h", float32(1), int32(258))
	f.Add("llama", "", "▁ab", int32(4), "", float32(-2), int32(-1))
	f.Fuzz(func(t *testing.T, model, pre, token string, typ int32, merge string, score float32,
		special int32) {
		v := bytesGGUF()
		if model == "llama" {
			v = scoresGGUF()
		}
		v.Model, v.Pre, v.EOT = model, pre, special
		v.Tokens = append(v.Tokens, token)
		v.Types = append(v.Types, typ)
		v.Merges = append(v.Merges, merge)
		v.Scores = append(v.Scores, score)
		tok, err := FromGGUF(v)
		if err != nil {
			return
		}
		exercise(t, tok, token+" "+merge+token)
	})
}
