package engine

import (
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/moering/moering/engine/internal/kv"
)

// Prompts that begin alike share the whole pages of their beginning: the first to come computes
// them, the others fork its sequence. What was shared once is held for a while after its last user
// has gone.

// prefixesHeld bounds beginnings that are held: each takes a place for a sequence.
const prefixesHeld = 16

// pageHashes identifies each whole page of a prompt with everything before it. The last token is
// left out: it must be computed, for what comes after it is wanted.
func pageHashes(tokens []int32) []uint64 {
	n := (len(tokens) - 1) / kv.PageTokens
	hashes := make([]uint64, n)
	var h uint64
	var b [4 * kv.PageTokens]byte
	for i := range n {
		for j, id := range tokens[i*kv.PageTokens:][:kv.PageTokens] {
			b[4*j], b[4*j+1], b[4*j+2], b[4*j+3] = byte(id), byte(id>>8), byte(id>>16), byte(id>>24)
		}
		h = xxh3.HashSeed(b[:], h)
		hashes[i] = h
	}
	return hashes
}

// prefix is a sequence whose beginning others may share: one in flight, or one held for that alone.
type prefix struct {
	tokens []int32
	seq    **kv.Sequence // nil inside while its request waits for a first pass
	used   int           // the pass in which it was used last
	held   *kv.Sequence  // of one that is held
	hashes []uint64
}

// computed is how many whole pages of the prefix can be shared now.
func (p *prefix) computed() int {
	if *p.seq == nil {
		return 0
	}
	return (*p.seq).Len / kv.PageTokens
}

// prefixes finds beginnings by the hash of their pages. It is used by one goroutine.
type prefixes struct {
	by   map[uint64]*prefix
	held []*prefix
}

// add makes pages [from, len(p.hashes)) of p known, where no other prefix has them.
func (t *prefixes) add(p *prefix) {
	for _, h := range p.hashes {
		if _, there := t.by[h]; !there {
			t.by[h] = p
		}
	}
}

// remove makes p unknown.
func (t *prefixes) remove(p *prefix) {
	for _, h := range p.hashes {
		if t.by[h] == p {
			delete(t.by, h)
		}
	}
}

// match returns the prefix that shares the most pages with a prompt, and how many.
func (t *prefixes) match(tokens []int32, hashes []uint64) (best *prefix, pages int) {
	for i, h := range hashes {
		p := t.by[h]
		if p == nil {
			break
		}
		best, pages = p, i+1
	}
	// Hashes find, tokens decide.
	if best == nil || len(best.tokens) < pages*kv.PageTokens ||
		!slices.Equal(best.tokens[:pages*kv.PageTokens], tokens[:pages*kv.PageTokens]) {
		return nil, 0
	}
	return best, pages
}

// share forks a sequence for a prompt that begins like p, and holds the shared pages.
func (t *prefixes) share(p *prefix, pages, pass int) (*kv.Sequence, error) {
	p.used = pass
	seq, err := (*p.seq).Fork(pages * kv.PageTokens)
	if err != nil || p.held != nil && len(p.hashes) == pages || len(t.held) >= prefixesHeld {
		return seq, err
	}
	held, err := (*p.seq).Fork(pages * kv.PageTokens)
	if err != nil {
		return seq, nil // holding it is a convenience
	}
	h := &prefix{tokens: slices.Clone(p.tokens[:pages*kv.PageTokens]), held: held, used: pass,
		hashes: p.hashes[:pages]}
	h.seq = &h.held
	for _, hash := range h.hashes {
		t.by[hash] = h
	}
	t.held = append(t.held, h)
	return seq, nil
}

// drop gives up the held prefix that was not used for longest; with alone, only one whose pages
// nobody else uses, so that memory becomes free. It reports whether there was one.
func (t *prefixes) drop(alone bool) bool {
	oldest := -1
	for i, p := range t.held {
		if alone && !p.held.Alone() {
			continue
		}
		if oldest < 0 || p.used < t.held[oldest].used {
			oldest = i
		}
	}
	if oldest < 0 {
		return false
	}
	p := t.held[oldest]
	t.remove(p)
	p.held.Close()
	t.held = slices.Delete(t.held, oldest, oldest+1)
	return true
}
