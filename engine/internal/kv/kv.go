// Package kv is the paged key-value cache: a fixed number of pages, handed to sequences as they grow.
package kv

import (
	"errors"
	"sync"

	"github.com/moering/moering/kernels"
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
	rows  []int32 // free rows of the table
	pool  *kernels.Buffer
	table *kernels.Buffer
}

// TokenBytes is the cache's size for one position.
func TokenBytes(layers, kvHeads, headDim int) int64 {
	return int64(layers) * 2 * int64(kvHeads) * int64(headDim) * 4
}

// New allocates pages for so many tokens and a table for so many sequences of at most context
// tokens.
func New(d kernels.Device, layers, kvHeads, headDim, tokens, sequences, context int) (*Pool, error) {
	pages := tokens / PageTokens
	k := kernels.KV{PageTokens: PageTokens, KVHeads: kvHeads, HeadDim: headDim,
		PageBytes: PageTokens * TokenBytes(layers, kvHeads, headDim),
		PagesMax:  (context + PageTokens - 1) / PageTokens}
	pool, err := d.Alloc(int64(pages) * k.PageBytes)
	if err != nil {
		return nil, err
	}
	table, err := d.Pin(int64(sequences) * int64(k.PagesMax) * 4)
	if err != nil {
		return nil, errors.Join(err, pool.Free())
	}
	k.Pool, k.Tables = pool.All(), table.All()
	p := &Pool{KV: k, pool: pool, table: table}
	for i := pages - 1; i >= 0; i-- {
		p.pages = append(p.pages, int32(i))
	}
	for i := sequences - 1; i >= 0; i-- {
		p.rows = append(p.rows, int32(i))
	}
	return p, nil
}

// Close frees the memory; no sequence may be in use.
func (p *Pool) Close() error { return errors.Join(p.pool.Free(), p.table.Free()) }

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
	if len(p.rows) == 0 {
		return nil, ErrFull
	}
	row := p.rows[len(p.rows)-1]
	p.rows = p.rows[:len(p.rows)-1]
	return &Sequence{Row: row, pool: p}, nil
}

// Grow makes room for positions up to n. On ErrFull the sequence is as it was.
func (s *Sequence) Grow(n int) error {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	need := (n + PageTokens - 1) / PageTokens
	if need > p.KV.PagesMax || need-len(s.pages) > len(p.pages) {
		return ErrFull
	}
	row := p.table.All().Int32s()[int(s.Row)*p.KV.PagesMax:]
	for len(s.pages) < need {
		page := p.pages[len(p.pages)-1]
		p.pages = p.pages[:len(p.pages)-1]
		row[len(s.pages)] = page
		s.pages = append(s.pages, page)
	}
	return nil
}

// Truncate forgets positions from n on and gives their pages back.
func (s *Sequence) Truncate(n int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	keep := (n + PageTokens - 1) / PageTokens
	if keep < len(s.pages) {
		s.pool.pages = append(s.pool.pages, s.pages[keep:]...)
		s.pages = s.pages[:keep]
	}
	s.Len = min(s.Len, n)
}

// Close gives everything back; it may be called twice.
func (s *Sequence) Close() {
	s.Truncate(0)
	if s.Row >= 0 {
		s.pool.mu.Lock()
		s.pool.rows = append(s.pool.rows, s.Row)
		s.pool.mu.Unlock()
		s.Row = -1
	}
}
