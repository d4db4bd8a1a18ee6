package tokenizer

import (
	"strings"
	"unicode/utf8"
)

const replacement = "\uFFFD"

// badLen returns the length of the maximal ill-formed part at the start of b, which must start
// with one: a prefix of some valid character if there is one, else a single byte (The Unicode
// Standard, 3.9, "U+FFFD substitution of maximal subparts"; the WHATWG decoder does the same).
func badLen(b string) int {
	n := 1
	for n < len(b) && n < utf8.UTFMax-1 && !utf8.FullRuneInString(b[:n]) {
		if utf8.FullRuneInString(b[:n+1]) {
			break
		}
		n++
	}
	return n
}

// repairUTF8 replaces each maximal ill-formed part of s by U+FFFD.
func repairUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	out, rest := appendRepaired(make([]byte, 0, len(s)+len(replacement)), s, true)
	_ = rest // final: nothing is held back
	return string(out)
}

// appendRepaired appends s to dst with ill-formed parts replaced. Unless final is set, a part at
// the end that later bytes could complete is not appended but returned (at most 3 bytes).
func appendRepaired(dst []byte, s string, final bool) (out []byte, rest string) {
	for len(s) > 0 {
		n := validPrefix(s)
		dst = append(dst, s[:n]...)
		s = s[n:]
		if s == "" {
			break
		}
		if !final && isPartial(s) {
			return dst, s
		}
		dst = append(dst, replacement...)
		s = s[badLen(s):]
	}
	return dst, ""
}

// validPrefix returns the length of the longest prefix of s that is UTF-8.
func validPrefix(s string) int {
	i := 0
	for i < len(s) {
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n <= 1 {
			break
		}
		i += n
	}
	return i
}

// byteAlphabet is GPT-2's spelling of the 256 bytes as printable characters: a byte that prints
// in Latin-1 stands for itself, the others are numbered from U+0100 on.
// Source: the bytes_to_unicode function of the GPT-2 release.
type byteAlphabet struct {
	char [256]rune
	of   map[rune]byte
}

func newByteAlphabet() *byteAlphabet {
	a := &byteAlphabet{of: make(map[rune]byte, 256)}
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		prints := b >= '!' && b <= '~' || b >= 0xA1 && b != 0xAD
		if !prints {
			r = next
			next++
		}
		a.char[b] = r
		a.of[r] = byte(b)
	}
	return a
}

// encode spells the bytes of s.
func (a *byteAlphabet) encode(s string) string {
	var b strings.Builder
	b.Grow(2 * len(s))
	for i := range len(s) {
		b.WriteRune(a.char[s[i]])
	}
	return b.String()
}

// decode is the inverse; ok is false where a character of s is not in the alphabet.
func (a *byteAlphabet) decode(s string) (raw string, ok bool) {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		b, ok := a.of[r]
		if !ok {
			return "", false
		}
		out = append(out, b)
	}
	return string(out), true
}

// byteToken parses the byte-fallback spelling "<0xE2>".
func byteToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	hi, ok1 := hexDigit(s[3])
	lo, ok2 := hexDigit(s[4])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// isPartial reports whether s is the start of a character that later bytes could complete.
func isPartial(s string) bool { return s != "" && !utf8.FullRuneInString(s) }
