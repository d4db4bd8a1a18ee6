package forward

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/moering/moering/engine/internal/trace"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/sched"
)

// Beside computes experts on the processor, beside a device with memory of its own: those that lie in
// host memory, where moving them would take longer. The weights are computed with where they lie. Rows are
// brought to the host once a layer, outputs to the slots that Combine reads, both by the stream that
// computes the layer, so that one queue orders all that the device does.
type Beside struct {
	Device  kernels.Device // computes in host memory
	Experts *weights.Tier  // there; the device's tier is filled from it
	Rates   sched.Rates
	// Takes, if set, says which groups the processor computes. nil: those in host memory alone that it
	// computes sooner than they could be moved, by Rates.
	Takes func(group int) bool

	side
	forward  *Forward
	work     chan part
	done     chan error
	worker   sync.WaitGroup
	computed atomic.Int64

	busy        bool   // a part is under way
	taken, left []int  // the layer's groups, divided
	takes, move []bool // of the layer's groups; of those that may be taken
	counts      []int  // rows of those
	splitter    sched.Splitter
	chain       []int  // groups of the next layers, of a dense model, that are in host memory alone
	beneath     []bool // of them
	kept        []bool // group → the processor is to have it, of the layers that are decided
	decided     int    // how many layers after this one are
	rows, slots []bool // of the pass: that the part reads, and writes
}

// part is what the processor computes of a layer.
type part struct {
	ctx          context.Context
	groups       *weights.Acquisition
	bytes        int64
	rows         kernels.Event // the rows are on the host
	layer, width int
}

// Computed is how many groups the processor has computed. It is safe for concurrent use.
func (b *Beside) Computed() int64 { return b.computed.Load() }

// open allocates what a pass over the chunk takes, and starts the worker.
func (b *Beside) open(f *Forward, d kernels.Device) (err error) {
	m := f.Model
	experts, outputs := max(m.Experts, 1), f.Chunk*max(m.TopK, 1)
	if b.stream, err = b.Device.NewStream("experts"); err != nil {
		return err
	}
	if err := f.pinned(d, &b.x, int64(f.Chunk)*int64(m.Dim)*4); err != nil {
		return err
	}
	if err := f.pinned(d, &b.y, int64(outputs)*int64(m.Dim)*4); err != nil {
		return err
	}
	b.forward, b.list = f, expertList(m)
	b.taken, b.left, b.counts = make([]int, 0, experts), make([]int, 0, experts), make([]int, 0, experts)
	b.takes, b.move = make([]bool, experts), make([]bool, experts)
	b.rows, b.slots = make([]bool, f.Chunk), make([]bool, outputs)
	b.chain, b.beneath = make([]int, 0, besideChain), make([]bool, besideChain)
	b.kept = make([]bool, len(m.Groups))
	b.work, b.done = make(chan part), make(chan error)
	b.worker.Go(b.serve)
	return nil
}

// close ends the worker; no pass is under way. It may be called after a failed open.
func (b *Beside) close() error {
	if b.work != nil {
		close(b.work)
		b.worker.Wait()
		b.work = nil
	}
	if b.stream == nil {
		return nil
	}
	return b.stream.Close()
}

// begin divides the groups that the routes hit, sets off what the processor takes, and returns the rest.
func (b *Beside) begin(ctx context.Context, f *Forward, l, rows, width int) (left []int) {
	b.divide(f)
	if len(b.taken) == 0 {
		return b.left
	}
	f.Experts.Used(b.taken)
	p := part{ctx: ctx, groups: b.Experts.Acquire(l, b.taken), layer: l, width: width}
	for _, g := range b.taken {
		p.bytes += f.Experts.Bytes(g)
	}
	b.mark(f, rows)
	copyMarked(f.stream, b.x, f.n, b.rows, f.Model.Dim)
	p.rows = f.stream.Record()
	b.busy = true
	b.work <- p
	return b.left
}

// end waits for what begin set off, and enqueues the copies of its outputs.
func (b *Beside) end(f *Forward) error {
	if !b.busy {
		return nil
	}
	b.busy = false
	if err := <-b.done; err != nil {
		return err
	}
	b.computed.Add(int64(len(b.taken)))
	copyMarked(f.stream, f.y, b.y, b.slots, f.Model.Dim)
	return nil
}

func (b *Beside) serve() {
	for p := range b.work {
		b.done <- b.compute(p)
	}
}

// compute computes a part. Whatever becomes of it, nothing of it runs any more when it returns.
func (b *Beside) compute(p part) error {
	defer p.groups.Release()
	if err := p.rows.Wait(); err != nil {
		return err
	}
	t := b.forward.Trace
	start := t.Now()
	err := b.forward.compute(p.ctx, &b.side, p.groups, p.width, nil)
	err = join(err, b.stream.Sync())
	t.Span(trace.Processor, "experts", p.layer, -1, p.bytes, start, t.Now())
	return err
}

// divide sorts the groups that the routes hit into taken and left.
func (b *Beside) divide(f *Forward) {
	groups := f.routes.groups
	takes := b.takes[:len(groups)]
	if b.Takes == nil {
		b.sooner(f, groups, takes)
	}
	b.taken, b.left = b.taken[:0], b.left[:0]
	for i, g := range groups {
		if b.Takes != nil {
			takes[i] = b.Takes(g)
		}
		if takes[i] {
			b.taken = append(b.taken, g)
		} else {
			b.left = append(b.left, g)
		}
	}
}

// besideChain is for how many layers of a dense model it is decided together what is moved: enough for the
// bus to have its share where it is a few times slower than the processor.
const besideChain = 8

// keeps reports whether the processor is to have the group of the layer after l, which is then not read
// ahead. Decided are the next few layers together, and what of them is moved is read ahead at once, so that
// its copies run under what the processor computes until then.
func (b *Beside) keeps(f *Forward, l, rows, group int) bool {
	if b.Takes != nil {
		return b.Takes(group)
	}
	if b.decided--; b.decided < 0 || l == 0 {
		left := len(f.Model.Layers) - 1 - l
		if left == 0 { // of the next pass, whose rows may be others, the first alone
			left = 1
		}
		b.decided = min(besideChain, left) - 1
		b.decide(f, l, rows, b.decided+1)
	}
	return b.kept[group]
}

// decide divides the groups of so many layers after l: those that are in host memory alone.
func (b *Beside) decide(f *Forward, l, rows, layers int) {
	m := f.Model
	b.chain = b.chain[:0]
	for i := range layers {
		if after := (l + 1 + i) % len(m.Layers); !m.Layers[after].Sparse {
			b.chain = append(b.chain, m.ExpertAt(after, 0))
		}
	}
	beneath := b.beneath[:len(b.chain)]
	f.Experts.Beneath(b.chain, beneath)
	n := 0
	for i, g := range b.chain {
		b.kept[g] = false
		if beneath[i] {
			b.chain[n] = g
			n++
		}
	}
	if n == 0 {
		return
	}
	kept := n - b.Rates.Chain(f.Experts.Bytes(b.chain[0]), n, rows)
	for i, g := range b.chain[:n] {
		if b.kept[g] = i < kept; i >= kept {
			f.Experts.Ahead(b.chain[i:i+1], sched.ClassCertain, int64(l+1+i), nil)
		}
	}
}

// sooner marks the groups that are in host memory alone, and that sched has the processor compute.
func (b *Beside) sooner(f *Forward, groups []int, takes []bool) {
	f.Experts.Beneath(groups, takes)
	if len(groups) == 1 && b.kept[groups[0]] {
		b.kept[groups[0]] = false
		return
	}
	b.counts = b.counts[:0]
	for i, g := range groups {
		if takes[i] {
			rows, _ := f.routes.of(g)
			b.counts = append(b.counts, len(rows))
		}
	}
	move := b.move[:len(b.counts)]
	b.splitter.Split(b.Rates, f.Experts.Bytes(groups[0]), b.counts, move)
	k := 0
	for i := range takes {
		if takes[i] {
			takes[i] = !move[k]
			k++
		}
	}
}

// mark marks the rows that the groups taken read, and the slots that they write.
func (b *Beside) mark(f *Forward, rows int) {
	b.rows, b.slots = b.rows[:rows], b.slots[:rows*max(f.Model.TopK, 1)]
	clear(b.rows)
	clear(b.slots)
	for _, g := range b.taken {
		rows, slots := f.routes.of(g)
		for i := range rows {
			b.rows[rows[i]], b.slots[slots[i]] = true, true
		}
	}
}

// copyMarked enqueues copies of the marked rows, of dim values each; those that lie together are one.
func copyMarked(s kernels.Stream, to, from kernels.Span, marks []bool, dim int) {
	for first, end := 0, 0; first < len(marks); first = end {
		for end = first; end < len(marks) && marks[end] == marks[first]; end++ {
		}
		if marks[first] {
			at, bytes := int64(first)*int64(dim)*4, int64(end-first)*int64(dim)*4
			s.Copy(to.Slice(at, bytes), from.Slice(at, bytes))
		}
	}
}
