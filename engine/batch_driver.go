package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moering/moering/engine/internal/batch"
	"github.com/moering/moering/engine/internal/forward"
	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/engine/internal/sample"
	"github.com/moering/moering/sched"
)

// batchDriver owns the passes of a job: it puts together the rows of each, and hands out what comes
// of them. Which rows, and who joins, is decided by sched.WaveModel. It is one goroutine's.
type batchDriver struct {
	engine *Engine
	job    *batch.Job
	shapes []batchShape
	o      BatchOptions

	order  []int32 // requests that were not prepared yet, the first to start first
	ready  []*batchSlot
	active []*batchSlot

	candidates []*batchSlot // of ready, those that may join the next pass
	prefixes   prefixes
	model      sched.WaveModel
	state      sched.WaveState
	wave       sched.Wave
	rates      batchRates
	pass       forward.Batch
	logits     []*batchSlot // owners of the rows whose logits are wanted
	hidden     []*batchSlot
	prompted   int // rows of the pass that are a prompt's, computed for the first time
	scratch    sample.Scratch
	spill      batchSpill

	batchFigures
}

// batchReadyMax bounds requests that are prepared ahead: as many as a pass may admit.
const batchReadyMax = 512

func newBatchDriver(e *Engine, p *batchJob) *batchDriver {
	d := &batchDriver{engine: e, job: p.job, shapes: p.shapes, o: p.o,
		prefixes: prefixes{by: map[uint64]*prefix{}}, model: e.waveModel()}
	d.start()
	return d
}

// waveModel is what is known before anything was measured.
func (e *Engine) waveModel() sched.WaveModel {
	m, p := e.model, e.plan
	w := sched.WaveModel{Layers: len(m.Layers), Experts: max(m.Experts, 1), TopK: max(m.TopK, 1),
		GroupBytes: e.info.GroupBytes, ResidentGroups: p.CacheSlots, KVTokens: int64(p.KVTokens),
		KVTokenBytes: p.KV / int64(max(p.KVTokens, 1)), KVPageTokens: kv.PageTokens,
		RowsMax: p.Chunk, SequencesMax: e.options.Sequences}
	if p.Resident {
		w.ResidentGroups = p.Groups
	}
	if p.DenseSections < p.DenseLayers { // one of the sections is the ring's hand
		w.StreamBytes = p.Dense / int64(p.DenseSections) * int64(p.DenseLayers-p.DenseSections+1)
	}
	return w
}

// run computes every request that is not finished. When ctx ends, the pass under way is finished and
// what is half done is saved.
func (d *batchDriver) run(ctx context.Context) (err error) {
	d.queue()
	defer func() { err = errors.Join(err, d.release()) }()
	if err := d.openSpill(); err != nil {
		return err
	}
	d.show()
	for {
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), d.save())
		}
		if err := d.prepare(); err != nil {
			return err
		}
		if len(d.ready)+len(d.active) == 0 {
			return nil
		}
		some, err := d.choose()
		if err != nil {
			return err
		}
		if !some {
			return fmt.Errorf("%w: no request can start: sessions hold the memory for keys and values",
				ErrContext)
		}
		if err := d.compute(ctx); err != nil {
			return err
		}
		if err := d.settle(); err != nil {
			return err
		}
		d.show()
	}
}

// queue puts what is not finished into the order in which it starts: the longest first, so that none
// is left to run alone at the end.
func (d *batchDriver) queue() {
	var jobs []sched.Job
	var requests []int32
	for i, s := range d.shapes {
		if !d.job.Done(i) {
			requests = append(requests, int32(i))
			jobs = append(jobs, sched.Job{Prompt: int(s.prompt), MaxNew: int(s.new)})
		}
	}
	d.order = make([]int32, 0, len(jobs))
	for _, i := range sched.LongestFirst(jobs) {
		d.order = append(d.order, requests[i])
	}
	d.addUp(jobs)
}

// prepare reads the requests that may join next.
func (d *batchDriver) prepare() error {
	for len(d.ready) < min(batchReadyMax, d.model.RowsMax) && len(d.order) > 0 {
		s, err := d.newBatchSlot(int(d.order[0]))
		if err != nil {
			return batchError(err)
		}
		d.order = d.order[1:]
		if s.refused != nil {
			if err := d.job.Fail(s.index, s.request, s.refused); err != nil {
				return batchError(err)
			}
			continue
		}
		d.ready = append(d.ready, s)
	}
	return nil
}

// choose plans the next pass and admits who joins it; false if nothing can be computed.
func (d *batchDriver) choose() (bool, error) {
	for {
		d.look()
		d.model.Next(d.state, &d.wave)
		if again, err := d.preempt(); err != nil {
			return false, err
		} else if again {
			continue
		}
		if err := d.admit(); err != nil {
			return false, err
		}
		left, err := d.grow()
		if err != nil {
			return false, err
		}
		if d.wave.Decode+d.wave.Prefill > 0 {
			if d.wave.KVLimited {
				d.prefixes.drop(true)
			}
			return true, nil
		}
		if !left && !d.prefixes.drop(false) {
			return false, nil
		}
	}
}

// look describes the sequences in flight, and those that may join: a prompt waits while the one that
// computes its beginning is not there yet.
func (d *batchDriver) look() {
	m, s := &d.model, &d.state
	free, rows := d.engine.pool.Free()
	d.memory(free)
	m.SequencesMax = len(d.active) + rows
	d.rates.apply(m)
	s.Active, s.Waiting = s.Active[:0], s.Waiting[:0]
	for _, a := range d.active {
		shape := a.shape()
		shape.Expect = d.expect(a)
		s.Active = append(s.Active, shape)
	}
	d.candidates = d.candidates[:0]
	for _, r := range d.ready {
		r.from, r.shared = nil, 0
		p, pages := d.prefixes.match(r.tokens, r.hashes)
		if pages > 0 {
			if p.computed() < pages {
				continue
			}
			r.from, r.shared = p, pages*kv.PageTokens
		}
		r.prefix = &prefix{tokens: r.tokens[:r.prompt], seq: &r.seq, hashes: r.hashes}
		d.prefixes.add(r.prefix)
		d.candidates = append(d.candidates, r)
		job := r.shape().Job
		job.Expect = d.expect(r)
		s.Waiting = append(s.Waiting, job)
	}
}

// admit gives sequences to those that join.
func (d *batchDriver) admit() error {
	joined := 0
	for i, rows := range d.wave.Admit {
		r := d.candidates[i]
		err := d.open(r)
		if errors.Is(err, kv.ErrFull) { // sessions took the memory meanwhile
			d.wave.Prefill -= rows
			continue
		} else if err != nil {
			return mapError(err)
		}
		joined++
		d.active = append(d.active, r)
		d.wave.Rows = append(d.wave.Rows, rows)
	}
	d.forget()
	if joined > 0 {
		kept := d.ready[:0]
		for _, r := range d.ready {
			if r.seq == nil {
				kept = append(kept, r)
			}
		}
		clear(d.ready[len(kept):])
		d.ready = kept
	}
	return nil
}

// forget makes the beginnings of requests that did not join unknown.
func (d *batchDriver) forget() {
	for _, r := range d.candidates {
		if r.seq == nil {
			d.prefixes.remove(r.prefix)
		}
	}
}

// open gives a request its sequence, with room for the most that it may become, or if it may be
// preempted for its prompt.
func (d *batchDriver) open(r *batchSlot) (err error) {
	seq := (*kv.Sequence)(nil)
	if r.from != nil {
		seq, err = d.prefixes.share(r.from, r.shared/kv.PageTokens, d.passes)
	} else {
		seq, err = d.engine.pool.Sequence()
	}
	if err != nil {
		return err
	}
	room := r.length()
	if d.spill.on() {
		room = r.prompt
	}
	if err := seq.Grow(room); err != nil {
		seq.Close()
		return err
	}
	r.seq = seq
	if r.begun.IsZero() {
		r.begun = clock()
		d.sharedTokens += int64(r.shared)
	}
	return d.bringIn(r)
}

// compute runs the pass that was chosen. It is not ended by ctx: an interrupted job finishes it.
func (d *batchDriver) compute(ctx context.Context) error {
	b := &d.pass
	b.Tokens, b.Seqs, b.Pos = b.Tokens[:0], b.Seqs[:0], b.Pos[:0]
	b.Logits, b.Hidden = b.Logits[:0], b.Hidden[:0]
	d.logits, d.hidden = d.logits[:0], d.hidden[:0]
	d.prompted = 0
	b.Sweep = true
	for i, s := range d.active {
		d.rows(s, d.wave.Rows[i])
	}
	d.before()
	err := d.engine.runner.compute(context.WithoutCancel(ctx), *b, d.wave.Decode, d.wave.Prefill,
		func(i int, logits []float32) { d.logits[i].step(d.engine, logits) },
		func(i int, state []float32) { d.hidden[i].add(state) })
	d.after()
	return err
}

// rows adds n rows of a sequence to the pass.
func (d *batchDriver) rows(s *batchSlot, n int) {
	b := &d.pass
	for i := range n {
		at := s.seq.Len + i
		row := int32(len(b.Tokens))
		b.Tokens = append(b.Tokens, s.tokens[at])
		b.Seqs = append(b.Seqs, s.seq.Row)
		b.Pos = append(b.Pos, int32(at))
		switch {
		case at < s.seen:
			d.spill.recomputed++
		case at < s.fed:
			d.prompted++
		}
		switch {
		case s.sampler == nil:
			b.Hidden, d.hidden = append(b.Hidden, row), append(d.hidden, s)
		case at == len(s.tokens)-1:
			b.Logits, d.logits = append(b.Logits, row), append(d.logits, s)
		}
	}
}

// settle advances the sequences and lets go of those that are done.
func (d *batchDriver) settle() error {
	kept := d.active[:0]
	for i, s := range d.active {
		s.seq.Len += d.wave.Rows[i]
		if s.sampler == nil && s.seq.Len == s.prompt {
			s.pooled(d)
		}
		if !s.done {
			kept = append(kept, s)
			continue
		}
		d.leave(s)
		if err := d.finish(s); err != nil {
			return batchError(err)
		}
	}
	clear(d.active[len(kept):])
	d.active = kept
	return nil
}

func (d *batchDriver) leave(s *batchSlot) {
	d.prefixes.remove(s.prefix)
	s.seq.Close()
}

func (d *batchDriver) finish(s *batchSlot) error {
	d.ended(s)
	if s.refused != nil {
		return d.job.Fail(s.index, s.request, s.refused)
	}
	return d.job.Finish(s.index, s.request, &s.answer)
}

// save keeps what is half done, so that a later run need not make it again.
func (d *batchDriver) save() error {
	for _, s := range append(d.active, d.ready...) {
		if state := s.save(); state != nil {
			if err := d.job.SavePartial(s.index, state); err != nil {
				return batchError(err)
			}
		}
	}
	return nil
}

// release gives all sequences back.
func (d *batchDriver) release() error {
	for _, s := range d.active {
		s.seq.Close()
	}
	for d.prefixes.drop(false) {
	}
	if !d.spill.on() {
		return nil
	}
	if t := d.o.spillTest; t != nil {
		t.left = d.spill.Used()
	}
	return d.spill.Close()
}

// batchRates is what running passes show of the machine.
type batchRates struct {
	passes    int
	bandwidth float64 // bytes a second
	row       float64 // seconds of arithmetic
}

// rateShare is how much one pass counts against all before it.
const rateShare = 0.2

// add takes the figures of a pass. The first one is left out: it finds nothing in memory.
func (r *batchRates) add(rows int, s Stats) {
	if r.passes++; r.passes == 1 || rows == 0 || s.Busy <= 0 {
		return
	}
	busy := s.Busy.Seconds()
	row := max(busy-s.Wait.Seconds(), busy/1e3) / float64(rows)
	if r.row == 0 {
		r.row = row
	}
	r.row += rateShare * (row - r.row)
	if s.ReadBusy <= 0 {
		return
	}
	read := float64(s.BytesRead+s.DenseBytesRead) / s.ReadBusy.Seconds()
	if r.bandwidth == 0 {
		r.bandwidth = read
	}
	r.bandwidth += rateShare * (read - r.bandwidth)
}

// apply gives the rates to the arithmetic of waves. As long as nothing is known, and where computing
// half of the rows takes longer than loading anyway, prompts are fed as fast as rows allow.
func (r *batchRates) apply(m *sched.WaveModel) {
	m.Bandwidth, m.PrefillRowSeconds, m.DecodeRowSeconds = r.bandwidth, r.row, r.row
	m.PrefillBefore = r.passes < 2 || 2*m.BalancedRows() <= m.RowsMax
}

// batchNow is time since a job began.
func (f *batchFigures) now() time.Duration { return clock().Sub(f.began) }
