package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token that is cut out of the text before anything else is done to it.
type addedToken struct {
	content    string
	special    bool
	singleWord bool
	lstrip     bool
	rstrip     bool
	normalized bool // matched in the normalised text, by its own normalised form
}

// addedTokens finds added tokens, leftmost first and of those the longest, as the reference does:
// tokens with normalized unset in the raw text, the others in the normalised text between them.
type addedTokens struct {
	raw, normalized trie
	byID            map[int32]addedToken
}

// segment is a part of a text: an added token, or text between two of them (id -1).
type segment struct {
	id         int32
	start, end int
}

// find appends the segments of text to dst. They cover it, except that where the strip flags of two
// tokens claim the same blanks they may overlap, exactly as they do in the reference.
//
// A special token is passed over, letters and all, unless parseSpecial is set.
func (a *addedTokens) find(dst []segment, tr *trie, text string, parseSpecial bool) []segment {
	done := 0
	for at := 0; at < len(text); {
		start, end, id := tr.next(text, at)
		if id < 0 {
			break
		}
		at = end
		tok := a.byID[id]
		if tok.special && !parseSpecial {
			continue
		}
		if tok.singleWord && (endsWithWord(text[:start]) || startsWithWord(text[end:])) {
			continue
		}
		if tok.lstrip {
			start = len(strings.TrimRightFunc(text[:start], unicode.IsSpace)) // may be before done
		}
		if tok.rstrip {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
		}
		if done < start {
			dst = append(dst, segment{-1, done, start})
		}
		dst = append(dst, segment{id, start, end})
		done = end
	}
	if done != len(text) {
		dst = append(dst, segment{-1, done, len(text)})
	}
	return dst
}

func startsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

func endsWithWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

// isWord is \w of Unicode Technical Standard 18, annex C.
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc,
		unicode.Other_Alphabetic, unicode.Join_Control)
}

// trie is a set of strings with ids.
type trie struct {
	first [256]bool // bytes that start a string: most positions of a text are passed over by this
	nodes []trieNode
}

type trieNode struct {
	id    int32 // -1 where no string ends
	edges []trieEdge
}

type trieEdge struct {
	b  byte
	to int32
}

// add puts s into the set; false if it is empty or already there.
func (t *trie) add(s string, id int32) bool {
	if s == "" {
		return false
	}
	if len(t.nodes) == 0 {
		t.nodes = append(t.nodes, trieNode{id: -1})
	}
	t.first[s[0]] = true
	at := int32(0)
	for i := range len(s) {
		to := t.step(at, s[i])
		if to < 0 {
			to = int32(len(t.nodes))
			t.nodes = append(t.nodes, trieNode{id: -1})
			t.nodes[at].edges = append(t.nodes[at].edges, trieEdge{s[i], to})
		}
		at = to
	}
	if t.nodes[at].id >= 0 {
		return false
	}
	t.nodes[at].id = id
	return true
}

func (t *trie) step(at int32, b byte) int32 {
	for _, e := range t.nodes[at].edges {
		if e.b == b {
			return e.to
		}
	}
	return -1
}

// next returns the first match at or after from, and of those the longest; id -1 if none.
func (t *trie) next(s string, from int) (start, end int, id int32) {
	if len(t.nodes) == 0 {
		return 0, 0, -1
	}
	for start = from; start < len(s); start++ {
		if !t.first[s[start]] {
			continue
		}
		if end, id = t.longest(s, start); id >= 0 {
			return start, end, id
		}
	}
	return 0, 0, -1
}

func (t *trie) longest(s string, start int) (end int, id int32) {
	id = -1
	at := int32(0)
	for i := start; i < len(s); i++ {
		if at = t.step(at, s[i]); at < 0 {
			break
		}
		if t.nodes[at].id >= 0 {
			end, id = i+1, t.nodes[at].id
		}
	}
	return end, id
}
