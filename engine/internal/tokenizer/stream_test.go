package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// A byte that a stream holds back is part of a character, and those have 4 bytes at most.
const heldBytesMax = utf8.UTFMax - 1

func streamed(t *testing.T, tok *Tokenizer, ids []int32, skip bool) string {
	t.Helper()
	s := tok.NewStream(skip)
	var b strings.Builder
	for _, id := range ids {
		piece := s.Push(id)
		if !utf8.ValidString(piece) {
			t.Fatalf("Push(%d) gives %q", id, piece)
		}
		b.WriteString(piece)
		for _, stage := range s.stages {
			if n := heldBytes(stage); n > heldBytesMax {
				t.Fatalf("%d bytes held back", n)
			}
		}
	}
	tail := s.Flush()
	if !utf8.ValidString(tail) {
		t.Fatalf("Flush gives %q", tail)
	}
	return b.String() + tail
}

func heldBytes(stage decodeStage) int {
	switch s := stage.(type) {
	case *lossyStage:
		return len(s.held)
	case *byteFallbackStage:
		return len(s.held)
	}
	return 0
}

func TestStreamGivesWholeCharactersAndTheDecodedText(t *testing.T) {
	for _, name := range goldenNames(t) {
		tok := goldenTokenizer(t, name)
		r := rand.New(rand.NewPCG(7, 8))
		for range 400 {
			ids := make([]int32, r.IntN(40))
			for i := range ids {
				ids[i] = int32(r.IntN(tok.Size()+4) - 2)
			}
			for _, skip := range []bool{false, true} {
				if got, want := streamed(t, tok, ids, skip), tok.Decode(ids, skip); got != want {
					t.Fatalf("%s, %v: stream %q, decode %q", name, ids, got, want)
				}
			}
		}
	}
}

func TestStreamEmitsACharacterWithItsLastByte(t *testing.T) {
	for _, name := range []string{"gpt2", "llama2"} {
		tok := goldenTokenizer(t, name)
		ids, err := tok.Encode("x🦀y", EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s := tok.NewStream(true)
		var pieces []string
		for _, id := range ids {
			if p := s.Push(id); p != "" {
				pieces = append(pieces, p)
			}
		}
		if got := strings.Join(pieces, "|"); got != "x|🦀|y" || s.Flush() != "" {
			t.Errorf("%s: %v comes out as %s", name, ids, got)
		}
	}
}

// Where a run of byte tokens is broken, the good characters of the run stay (see Decode).
func TestBrokenByteTokensBecomeOneReplacementEach(t *testing.T) {
	tok := goldenTokenizer(t, "llama2")
	byteID := func(b byte) int32 {
		const digits = "0123456789ABCDEF"
		id, ok := tok.ID("<0x" + string([]byte{digits[b>>4], digits[b&15]}) + ">")
		if !ok {
			t.Fatalf("no token for byte %#x", b)
		}
		return id
	}
	for in, want := range map[string]string{
		"\xe4\xbd\xa0":     "你",
		"\xe4\xbd\xa0\xff": "你\uFFFD",
		"\xe4\xbd":         "\uFFFD\uFFFD",
		"\xe4\xbdA":        "\uFFFD\uFFFDA",
		"\xf0\x9f\x98\x80": "😀",
		"\xed\xa0\x80":     "\uFFFD\uFFFD\uFFFD",
	} {
		var ids []int32
		for i := range len(in) {
			ids = append(ids, byteID(in[i]))
		}
		if got := streamed(t, tok, ids, false); got != want {
			t.Errorf("% x: got %q, want %q", in, got, want)
		}
	}
}

func TestRoundTripOfByteLevelText(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"gpt2", "llama3", "deepseek-llm", "deepseek-v3"} {
		tok := goldenTokenizer(t, name)
		for range 300 {
			text := randomText(r, r.IntN(60))
			ids, err := tok.Encode(text, EncodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := tok.Decode(ids, false); got != text {
				t.Fatalf("%s: %q comes back as %q", name, text, got)
			}
			var raw []byte
			for _, id := range ids {
				raw = append(raw, tok.Bytes(id)...)
			}
			if string(raw) != text {
				t.Fatalf("%s: bytes of the tokens of %q are %q", name, text, raw)
			}
		}
	}
}
