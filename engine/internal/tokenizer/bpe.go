package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// metaspace is SentencePiece's visible blank.
const metaspace = "▁"

// bpe merges the symbols of a word pair by pair, the pair of least rank first and of equals the
// leftmost (Sennrich et al., 2016; rank order as in GPT-2). It is immutable but for its cache.
type bpe struct {
	vocab  map[string]int32 // keyed by raw bytes if byteLevel is set
	merges map[uint64]uint64
	ascii  [utf8.RuneSelf]int32 // symbol of an ASCII character, -1 if none
	bytes  [256]int32           // byteLevel: symbol of a byte, -1 if none

	// byteLevel: a symbol starts as one byte, else as one character.
	byteLevel bool
	// ignoreMerges: a word that is a token is that token, even where merging would not make it.
	ignoreMerges bool
	// fallback: ids of the tokens "<0x00>" to "<0xFF>", -1 where missing.
	fallback     [256]int32
	byteFallback bool
	// lateFallback: characters with no symbol become bytes after merging, not before it.
	// Symbols of id >= size stand for characters that are part of a token but are none themselves.
	lateFallback bool
	size         int32
	unk          int32 // -1 if none
	unkName      string
	fuseUnk      bool
	// breakAtMeta: no merge crosses from another character into a metaspace, so that a text may be
	// cut there, and the parts be cached, without changing the result.
	breakAtMeta bool
	alphabet    *byteAlphabet

	cache wordCache
}

func pairKey(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

// symbol is a node of the doubly linked list of a word's symbols.
type symbol struct {
	id         int32
	prev, next int32 // -1 at the ends
	off        int32 // of the word's byte where it starts; -1 once merged into its left neighbour
}

// mergeScratch is the working memory of one merge, kept between words.
type mergeScratch struct {
	symbols []symbol
	heap    []uint64 // rank<<32 | position: the order of merging is the order of these numbers
	pending pendingUnk
}

// pendingUnk is a run of unknown characters that is not yet a symbol.
type pendingUnk struct {
	active bool
	off    int
}

// appendWord appends the ids of a word. An empty word has none.
func (m *bpe) appendWord(dst []int32, word string, s *mergeScratch) ([]int32, error) {
	if !m.breakAtMeta {
		return m.appendPart(dst, word, s)
	}
	var err error
	for word != "" && err == nil {
		n := metaBreak(word)
		dst, err = m.appendPart(dst, word[:n], s)
		word = word[n:]
	}
	return dst, err
}

// metaBreak returns the length of the first part of a non-empty word: up to the first metaspace
// that follows something else.
func metaBreak(word string) int {
	i := 0
	for strings.HasPrefix(word[i:], metaspace) {
		i += len(metaspace)
	}
	if n := strings.Index(word[i:], metaspace); n >= 0 {
		return i + n
	}
	return len(word)
}

func (m *bpe) appendPart(dst []int32, word string, s *mergeScratch) ([]int32, error) {
	if word == "" {
		return dst, nil
	}
	if m.byteLevel && len(word) == 1 && m.bytes[word[0]] >= 0 {
		return append(dst, m.bytes[word[0]]), nil
	}
	if m.ignoreMerges {
		if id, ok := m.vocab[word]; ok {
			return append(dst, id), nil
		}
	}
	if ids, ok := m.cache.get(word); ok {
		return append(dst, ids...), nil
	}
	start := len(dst)
	if err := m.start(word, s); err != nil {
		return dst, err
	}
	m.mergeAll(s)
	dst = m.appendSymbols(dst, word, s)
	m.cache.put(word, dst[start:])
	return dst, nil
}

// start fills s.symbols with the symbols of a word before any merge.
func (m *bpe) start(word string, s *mergeScratch) error {
	s.symbols = s.symbols[:0]
	s.pending = pendingUnk{}
	for i := 0; i < len(word); {
		id, n := m.first(word[i:])
		switch {
		case id >= 0 || m.lateFallback:
			s.flushUnk(m.unk)
			s.push(id, i)
		case m.byteFallback && m.pushBytes(word[i:i+n], i, s):
			// The reference leaves a run of unknown characters pending here, so that it may come
			// out after these bytes. So do we.
		default:
			if err := m.pushUnk(i, s); err != nil {
				return err
			}
		}
		i += n
	}
	s.flushUnk(m.unk)
	return nil
}

// first returns the symbol that s starts with (-1 if unknown), and its length in bytes.
func (m *bpe) first(s string) (id int32, n int) {
	if m.byteLevel {
		return m.bytes[s[0]], 1
	}
	if s[0] < utf8.RuneSelf {
		return m.ascii[s[0]], 1
	}
	_, n = utf8.DecodeRuneInString(s)
	if id, ok := m.vocab[s[:n]]; ok {
		return id, n
	}
	return -1, n
}

// pushBytes pushes the byte tokens of an unknown character, or none and returns false. The
// character of a byte-level word is that of the byte alphabet, as in the reference.
func (m *bpe) pushBytes(char string, off int, s *mergeScratch) bool {
	if m.byteLevel {
		char = m.alphabet.encode(char)
	}
	for i := range len(char) {
		if m.fallback[char[i]] < 0 {
			return false
		}
	}
	for i := range len(char) {
		s.push(m.fallback[char[i]], off)
	}
	return true
}

// pushUnk notes an unknown character. With no unknown token at all the reference drops it.
func (m *bpe) pushUnk(off int, s *mergeScratch) error {
	if m.unkName == "" {
		return nil
	}
	if m.unk < 0 {
		return formatError("unk_token %q is needed and is not in the vocabulary", m.unkName)
	}
	if s.pending.active && m.fuseUnk {
		return nil
	}
	s.flushUnk(m.unk)
	s.pending = pendingUnk{active: true, off: off}
	return nil
}

func (s *mergeScratch) flushUnk(unk int32) {
	if s.pending.active {
		s.push(unk, s.pending.off)
		s.pending.active = false
	}
}

func (s *mergeScratch) push(id int32, off int) {
	n := int32(len(s.symbols))
	if n > 0 {
		s.symbols[n-1].next = n
	}
	s.symbols = append(s.symbols, symbol{id: id, prev: n - 1, next: -1, off: int32(off)})
}

// mergeAll merges until no pair is left that has a merge: O(n log n) for n symbols.
func (m *bpe) mergeAll(s *mergeScratch) {
	s.heap = s.heap[:0]
	for i := 0; i+1 < len(s.symbols); i++ {
		if v, ok := m.merges[pairKey(s.symbols[i].id, s.symbols[i+1].id)]; ok {
			s.heap = append(s.heap, v&rankMask|uint64(i))
		}
	}
	for i := len(s.heap)/2 - 1; i >= 0; i-- {
		s.down(i)
	}
	for len(s.heap) > 0 {
		m.mergeOne(s, s.pop())
	}
}

// A merge is stored as rank<<32 | id of the result.
const rankMask = uint64(0xFFFFFFFF) << 32

// mergeOne does the merge of one heap entry, unless the pair there has changed since.
func (m *bpe) mergeOne(s *mergeScratch, top uint64) {
	pos := int32(uint32(top))
	left := &s.symbols[pos]
	if left.off < 0 || left.next < 0 {
		return
	}
	right := &s.symbols[left.next]
	v, ok := m.merges[pairKey(left.id, right.id)]
	if !ok || v&rankMask != top&rankMask {
		return
	}
	left.id = int32(uint32(v))
	left.next = right.next
	right.off = -1
	if left.next >= 0 {
		s.symbols[left.next].prev = pos
		m.offer(s, pos, left.next)
	}
	if left.prev >= 0 {
		m.offer(s, left.prev, pos)
	}
}

func (m *bpe) offer(s *mergeScratch, a, b int32) {
	if v, ok := m.merges[pairKey(s.symbols[a].id, s.symbols[b].id)]; ok {
		s.heap = append(s.heap, v&rankMask|uint64(uint32(a)))
		s.up(len(s.heap) - 1)
	}
}

// appendSymbols appends the ids of the symbols that are left.
func (m *bpe) appendSymbols(dst []int32, word string, s *mergeScratch) []int32 {
	if len(s.symbols) == 0 {
		return dst
	}
	for i := int32(0); i >= 0; i = s.symbols[i].next {
		id := s.symbols[i].id
		if id >= 0 && id < m.size {
			dst = append(dst, id)
			continue
		}
		off := int(s.symbols[i].off)
		_, n := utf8.DecodeRuneInString(word[off:])
		for j := off; j < off+n; j++ {
			dst = append(dst, m.fallback[word[j]])
		}
	}
	return dst
}

// The heap is a plain binary heap, least number on top. container/heap would box every entry.

func (s *mergeScratch) pop() uint64 {
	h := s.heap
	top := h[0]
	h[0] = h[len(h)-1]
	s.heap = h[:len(h)-1]
	s.down(0)
	return top
}

func (s *mergeScratch) up(i int) {
	h := s.heap
	for i > 0 {
		p := (i - 1) / 2
		if h[p] <= h[i] {
			return
		}
		h[p], h[i] = h[i], h[p]
		i = p
	}
}

func (s *mergeScratch) down(i int) {
	h := s.heap
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if h[i] <= h[c] {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}
