package synth

import "unicode/utf8"

// The vocabulary: 256 bytes, three special tokens, then all pairs and triples over an alphabet of
// letters, with the merges that make them. Any text can be encoded, and what a model with random
// weights says can be read.
const (
	endOfText     = 256
	turnStart     = 257
	turnEnd       = 258
	vocabularyMin = 259
	vocabularyMax = vocabularyMin + 64*64 + 64*64*64

	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ "
)

// chatTemplate is ChatML, as Qwen's models have it.
const chatTemplate = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + " +
	"message['content'] + '<|im_end|>\\n' }}{% endfor %}" +
	"{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

// Token types of GGUF.
const (
	typeNormal  = 1
	typeControl = 3
)

type vocabulary struct {
	tokens []string
	types  []int32
	merges []string
}

func newVocabulary(size int) vocabulary {
	v := vocabulary{}
	v.bytes()
	for _, s := range []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"} {
		v.add(s, typeControl)
	}
	first := make([]string, 0, 64)
	for _, r := range []byte(letters) {
		first = append(first, v.tokens[r])
	}
	pairs := v.products(first, first, size)
	v.products(pairs, first, size)
	return v
}

func (v *vocabulary) add(token string, kind int32) {
	v.tokens = append(v.tokens, token)
	v.types = append(v.types, kind)
}

// products adds every left followed by every right, and the merge of the two, until there are size
// tokens, and returns what it added.
func (v *vocabulary) products(lefts, rights []string, size int) (added []string) {
	for _, left := range lefts {
		for _, right := range rights {
			if len(v.tokens) == size {
				return added
			}
			v.add(left+right, typeNormal)
			v.merges = append(v.merges, left+" "+right)
			added = append(added, left+right)
		}
	}
	return added
}

// bytes adds a token for each byte, in order, spelled as GPT-2's byte-level BPE does: printable
// Latin-1 as itself, the others as the characters from U+0100 on.
func (v *vocabulary) bytes() {
	next := rune(256)
	for b := rune(0); b < 256; b++ {
		printable := b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae
		r := b
		if !printable {
			r = next
			next++
		}
		v.add(string(utf8.AppendRune(nil, r)), typeNormal)
	}
}
