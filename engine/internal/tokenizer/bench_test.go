package tokenizer

import (
	"os"
	"strings"
	"testing"
)

// benchText is ordinary text: the sources of this package.
func benchText(b *testing.B) string {
	b.Helper()
	var text strings.Builder
	for _, f := range []string{"bpe.go", "split.go", "regex.go", "json.go", "gguf.go", "decode.go"} {
		data, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		text.Write(data)
	}
	return text.String()
}

func BenchmarkEncode(b *testing.B) {
	text := benchText(b)
	for _, name := range []string{"gpt2", "qwen2", "llama3", "deepseek-llm", "deepseek-v3", "llama2"} {
		b.Run(name, func(b *testing.B) {
			tok := goldenTokenizer(b, name)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := tok.Encode(text, EncodeOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStream(b *testing.B) {
	tok := goldenTokenizer(b, "qwen2")
	ids, err := tok.Encode(benchText(b), EncodeOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s := tok.NewStream(false)
		for _, id := range ids[:1000] {
			s.Push(id)
		}
		s.Flush()
	}
}
