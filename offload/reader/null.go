package reader

import "fmt"

// Null completes every request at once and leaves its bytes untouched: what a run with it takes is
// the floor of everything but reading.
type Null struct {
	pool  *pool
	sizes []int64
}

// NewNull makes a store of files of the given sizes in bytes, which are only used to refuse reads
// past the end as a real store does.
func NewNull(sizes []int64, o Options) (*Null, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	laneOf, devices, err := group(make([]uint64, len(sizes)), o)
	if err != nil {
		return nil, err
	}
	n := &Null{sizes: append([]int64(nil), sizes...)}
	q := newQueue(numbered("null", len(sizes)), laneOf, devices, Align, o)
	n.pool = newPool(q, n, o.CloseWait, func() error { return nil })
	return n, nil
}

// numbered names n files without a name.
func numbered(kind string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s file %d", kind, i)
	}
	return names
}

func (n *Null) readAt(p *piece, buf []byte, offset int64) (int, error) {
	return int(max(0, min(int64(len(buf)), n.sizes[p.request.File]-offset))), nil
}

// Submit implements Reader.
func (n *Null) Submit(r *Request) error { return n.pool.queue.push(r) }

// Cancel implements Reader.
func (n *Null) Cancel(r *Request) bool { return n.pool.queue.cancel(r) }

// Promote implements Reader.
func (n *Null) Promote(r *Request, c Class) bool { return n.pool.queue.promote(r, c) }

// Close implements Reader.
func (n *Null) Close() error { return n.pool.close() }

// Stats implements Reader.
func (n *Null) Stats() Stats { return n.pool.queue.snapshot() }

// Info implements Reader.
func (n *Null) Info() string { return "null store: nothing is read" }

// Align implements Reader.
func (n *Null) Align() int { return Align }
