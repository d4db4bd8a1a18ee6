// Package kv is the paged key-value cache: a fixed number of pages, handed to sequences as they grow.
// Pages that hold a common beginning are shared by reference count, and copied before one of the
// sharers writes to them.
package kv

import (
	"errors"
	"fmt"
	"sync"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// PageTokens is the number of positions in a page: small enough that a short sequence wastes
// little, large enough that attention reads long runs.
const PageTokens = 32

// ErrFull is returned when no page, or no place for a sequence, is left.
var ErrFull = errors.New("the key-value cache is full")

// Pool owns the pages. It is safe for concurrent use.
type Pool struct {
	KV kernels.KV // Layer is set by the user of a copy

	mu    sync.Mutex
	pages []int32 // free
	refs  []int32 // sequences that hold the page
	rows  []int32 // free rows of the table
	pool  *kernels.Buffer
	table *kernels.Buffer
	copy  kernels.Stream // copies pages
}

// TokenBytes is the cache's size for one position, with keys and values stored in a type that
// kernels.KV may have; 0 where the type has no rows of headDim elements.
func TokenBytes(t quant.Type, layers, kvHeads, headDim int) int64 {
	k := kernels.KV{Type: t, PageTokens: 1, KVHeads: kvHeads, HeadDim: headDim}
	return int64(layers) * k.LayerBytes()
}

// Pages is the number of pages that so many tokens take.
func Pages(tokens int) int { return (tokens + PageTokens - 1) / PageTokens }

// New allocates pages for so many tokens and a table for so many sequences of at most context
// tokens. Keys and values are stored in the type t.
func New(d kernels.Device, t quant.Type, layers, kvHeads, headDim, tokens, sequences, context int,
) (*Pool, error) {
	pages := tokens / PageTokens
	k := kernels.KV{Type: t, PageTokens: PageTokens, KVHeads: kvHeads, HeadDim: headDim,
		PageBytes: PageTokens * TokenBytes(t, layers, kvHeads, headDim), PagesMax: Pages(context)}
	pool, err := d.Alloc(int64(pages) * k.PageBytes)
	if err != nil {
		return nil, err
	}
	table, err := d.Pin(int64(sequences) * int64(k.PagesMax) * 4)
	if err != nil {
		return nil, errors.Join(err, pool.Free())
	}
	stream, err := d.NewStream("kv")
	if err != nil {
		return nil, errors.Join(err, pool.Free(), table.Free())
	}
	k.Pool, k.Tables = pool.All(), table.All()
	p := &Pool{KV: k, pool: pool, table: table, copy: stream, refs: make([]int32, pages)}
	for i := pages - 1; i >= 0; i-- {
		p.pages = append(p.pages, int32(i))
	}
	for i := sequences - 1; i >= 0; i-- {
		p.rows = append(p.rows, int32(i))
	}
	return p, nil
}

// Close frees the memory; no sequence may be in use.
func (p *Pool) Close() error {
	return errors.Join(p.copy.Close(), p.pool.Free(), p.table.Free())
}

// Free returns how many pages and how many places for sequences are not in use.
func (p *Pool) Free() (pages, sequences int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pages), len(p.rows)
}

// Size returns how many pages and how many places for sequences there are.
func (p *Pool) Size() (pages, sequences int) {
	return len(p.refs), int(p.table.Bytes) / (4 * p.KV.PagesMax)
}

// take returns a free page, held once. The caller has made sure that there is one.
func (p *Pool) take() int32 {
	page := p.pages[len(p.pages)-1]
	p.pages = p.pages[:len(p.pages)-1]
	p.refs[page] = 1
	return page
}

// drop gives up one hold on a page.
func (p *Pool) drop(page int32) {
	if p.refs[page]--; p.refs[page] == 0 {
		p.pages = append(p.pages, page)
	}
}

// copyPage waits until the copy is made: the compute stream may read the page right after.
func (p *Pool) copyPage(dst, src int32) error {
	span := func(page int32) kernels.Span {
		return p.KV.Pool.Slice(int64(page)*p.KV.PageBytes, p.KV.PageBytes)
	}
	p.copy.Copy(span(dst), span(src))
	return p.copy.Sync()
}

// Sequence is one sequence's pages. Its methods are called by one goroutine at a time.
type Sequence struct {
	Row   int32 // of the table
	Len   int   // positions stored
	pool  *Pool
	pages []int32
}

// Sequence takes a free row of the table.
func (p *Pool) Sequence() (*Sequence, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sequence()
}

func (p *Pool) sequence() (*Sequence, error) {
	if len(p.rows) == 0 {
		return nil, ErrFull
	}
	row := p.rows[len(p.rows)-1]
	p.rows = p.rows[:len(p.rows)-1]
	return &Sequence{Row: row, pool: p}, nil
}

// Fork returns a new sequence that begins with the first tokens positions of s, at most s.Len. Whole
// pages are shared, a page that is partly used is copied; either sequence may go on, be truncated or
// closed without the other noticing. No pass that writes to s may be running. On ErrFull nothing has
// changed.
func (s *Sequence) Fork(tokens int) (*Sequence, error) {
	if tokens < 0 || tokens > s.Len {
		return nil, fmt.Errorf("kv: fork at %d of %d positions", tokens, s.Len)
	}
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if tokens%PageTokens > 0 && len(p.pages) == 0 {
		return nil, ErrFull
	}
	f, err := p.sequence()
	if err != nil {
		return nil, err
	}
	f.Len = tokens
	row := f.row()
	for i, page := range s.pages[:Pages(tokens)] {
		if (i+1)*PageTokens > tokens {
			fresh := p.take()
			err = p.copyPage(fresh, page)
			page = fresh
		} else {
			p.refs[page]++
		}
		row[i] = page
		f.pages = append(f.pages, page)
	}
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// row is the sequence's part of the table.
func (s *Sequence) row() []int32 {
	n := s.pool.KV.PagesMax
	return s.pool.table.All().Int32s()[int(s.Row)*n:][:n]
}

// Grow makes room for positions up to n, and makes the pages from Len on the sequence's own: it is
// called before a pass writes there. On an error, such as ErrFull, the sequence is as it was.
func (s *Sequence) Grow(n int) error {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	need := Pages(n)
	first := s.Len / PageTokens
	shared := 0 // after a truncation the page of Len may be another's too
	for i := first; i < min(need, len(s.pages)); i++ {
		if p.refs[s.pages[i]] > 1 {
			shared++
		}
	}
	if need > p.KV.PagesMax || need-len(s.pages)+shared > len(p.pages) {
		return ErrFull
	}
	row := s.row()
	for i := first; shared > 0 && i < min(need, len(s.pages)); i++ {
		old := s.pages[i]
		if p.refs[old] == 1 {
			continue
		}
		fresh := p.take()
		if i*PageTokens < s.Len { // what follows is not written yet
			if err := p.copyPage(fresh, old); err != nil {
				p.drop(fresh)
				return err
			}
		}
		p.drop(old)
		s.pages[i], row[i] = fresh, fresh
	}
	for len(s.pages) < need {
		page := p.take()
		row[len(s.pages)] = page
		s.pages = append(s.pages, page)
	}
	return nil
}

// Truncate forgets positions from n on and gives up their pages.
func (s *Sequence) Truncate(n int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.truncate(n)
}

func (s *Sequence) truncate(n int) {
	keep := Pages(n)
	if keep < len(s.pages) {
		for _, page := range s.pages[keep:] {
			s.pool.drop(page)
		}
		s.pages = s.pages[:keep]
	}
	s.Len = min(s.Len, n)
}

// Close gives everything back; it may be called twice.
func (s *Sequence) Close() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.close()
}

func (s *Sequence) close() {
	s.truncate(0)
	if s.Row >= 0 {
		s.pool.rows = append(s.pool.rows, s.Row)
		s.Row = -1
	}
}

// Alone reports that no other sequence shares any of the pages, so that closing this one frees them.
func (s *Sequence) Alone() bool {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	for _, page := range s.pages {
		if s.pool.refs[page] > 1 {
			return false
		}
	}
	return true
}
