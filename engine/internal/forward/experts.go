package forward

import (
	"context"
	"time"

	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/sched"
)

// single computes a layer whose feed-forward block is one group.
func (f *Forward) single(ctx context.Context, l, rows int, dense *weights.Acquisition) error {
	m := f.Model
	f.routes.groups = append(f.routes.groups[:0], m.ExpertAt(l, 0))
	f.routes.everyone(f.all[:rows])
	a := f.acquire(ctx, l, rows, m.DenseWidth)
	if after := (l + 1) % len(m.Layers); !f.Experts.Complete() && !m.Layers[after].Sparse {
		f.next = append(f.next[:0], m.ExpertAt(after, 0))
		if f.Beside == nil || !f.Beside.keeps(f, l, rows, f.next[0]) {
			f.Experts.Ahead(f.next, sched.ClassCertain, int64(l+1), nil)
		}
	}
	if err := f.experts(ctx, a, m.DenseWidth, dense); err != nil {
		return err
	}
	f.ops.combine = kernels.Combine{X: f.x, Y: f.y, Rows: rows, Dim: m.Dim, TopK: 1}
	f.stream.Run(&f.ops.combine)
	return nil
}

// sparse computes a layer of experts. The router's choice coming back to the host is its only round
// trip; where the next layer's is guessed, the guess comes with it.
func (f *Forward) sparse(ctx context.Context, l, rows int, dense *weights.Acquisition) error {
	m, w, s := f.Model, &f.layer, f.stream
	guess := f.guesses(l)
	recorded := f.Routes != nil
	if recorded {
		f.record.layer(time.Now())
	}
	f.route(l, rows, guess)
	if m.SharedWidth > 0 {
		f.ops.shared[0] = kernels.Expert{Gate: w.SharedGate, Up: w.SharedUp, Down: w.SharedDown,
			Rows: f.all[:rows], Slots: f.all[:rows]}
		f.own.op = kernels.ExpertFFN{X: f.n, Out: f.shared, Dim: m.Dim, Width: m.SharedWidth,
			Exact: f.Exact, Experts: f.ops.shared[:]}
		s.Run(&f.own.op)
	}
	if err := s.Sync(); err != nil {
		return err
	}
	dense.Release() // the kernels that read it are done
	ids := f.ids.host.Int32s()[:rows*m.TopK]
	if f.OnRoute != nil {
		f.OnRoute(l, ids, f.probs.host.Float32s()[:rows*m.TopK])
	}
	f.routes.build(ids, m, l)
	if recorded {
		f.record.spoken(time.Now(), f.Experts.Counters())
	}
	a := f.acquire(ctx, l, rows, m.ExpertWidth)
	if recorded {
		f.record.acquired(f.Experts.Counters())
	}
	f.ahead(l, rows, ids, guess)
	if err := f.experts(ctx, a, m.ExpertWidth, nil); err != nil {
		return err
	}
	c := kernels.Combine{X: f.x, Y: f.y, IDs: f.ids.device, Weights: f.probs.device, Rows: rows, Dim: m.Dim,
		TopK: m.TopK}
	if m.SharedWidth > 0 {
		c.Shared, c.SharedGate = f.shared, f.gate
	}
	f.ops.combine = c
	s.Run(&f.ops.combine)
	if recorded {
		return f.recordLayer(l, rows, guess)
	}
	return nil
}

// guesses reports whether the next layer's router is run on this layer's hidden state.
func (f *Forward) guesses(l int) bool {
	m := f.Model
	return f.Predictor != nil && f.regime == sched.Latency && l+1 < len(m.Layers) &&
		m.Layers[l+1].Sparse && !f.Experts.Complete()
}

// route records the layer's router, and the next one's on the same hidden state.
func (f *Forward) route(l, rows int, guess bool) {
	m, o := f.Model, &f.ops
	o.terms[0] = kernels.Term{W: f.layer.Router, Out: f.router}
	n := 1
	if !f.layer.SharedRouter.IsZero() {
		o.terms[n] = kernels.Term{W: f.layer.SharedRouter, Out: f.gate}
		n++
	}
	if guess {
		o.terms[n] = kernels.Term{W: f.Resident.Layers[l+1].Router, Out: f.nextRouter}
		n++
	}
	f.matmul(f.n, rows, n, true)
	o.route = kernels.Route{Logits: f.router, IDs: f.ids.device, Weights: f.probs.device, Rows: rows,
		Experts: m.Experts, TopK: m.TopK, Normalize: m.Normalize}
	f.stream.Run(&o.route)
	f.down(f.ids, int64(rows*m.TopK)*4)
	if f.OnRoute != nil {
		f.down(f.probs, int64(rows*m.TopK)*4)
	}
	if guess {
		o.route.Logits, o.route.IDs, o.route.Weights = f.nextRouter, f.nextIDs.device, f.nextProbs
		f.stream.Run(&o.route)
		f.down(f.nextIDs, int64(rows*m.TopK)*4)
	}
}

// ahead names what the next layer will want: every expert of it when this pass hits nearly all, or a
// guess that pays.
func (f *Forward) ahead(l, rows int, ids []int32, guess bool) {
	m := f.Model
	var next []int32
	if guess {
		next = f.nextIDs.host.Int32s()[:rows*m.TopK]
	}
	if f.Experts.Complete() {
		return
	}
	after := (l + 1) % len(m.Layers)
	f.next, f.chances = f.next[:0], f.chances[:0]
	if f.regime == sched.Throughput {
		if m.Layers[after].Sparse {
			for e := range m.Experts {
				f.next = append(f.next, m.ExpertAt(after, e))
			}
			f.Experts.Ahead(f.next, sched.ClassCertain, int64(l+1), nil)
		}
		return
	}
	if f.Predictor == nil {
		return
	}
	f.booksMu.Lock()
	f.Predictor.Observe(l, ids)
	if guess {
		for _, g := range f.Predictor.Propose(l+1, next) {
			f.next = append(f.next, m.ExpertAt(l+1, g.Expert))
			f.chances = append(f.chances, g.Probability)
		}
	}
	f.booksMu.Unlock()
	f.Experts.Ahead(f.next, sched.ClassPredicted, int64(l+1), f.chances)
}

// side is a device that computes experts: what it reads of a pass, and where it puts outputs.
type side struct {
	stream kernels.Stream
	x, y   kernels.Span // (rows, dim), (slots, dim)
	op     kernels.ExpertFFN
	list   []kernels.Expert
}

// acquire asks for the groups that the routes hit, but for those that the processor takes.
func (f *Forward) acquire(ctx context.Context, l, rows, width int) *weights.Acquisition {
	groups := f.routes.groups
	if f.Beside != nil {
		groups = f.Beside.begin(ctx, f, l, rows, width)
	}
	return f.Experts.Acquire(l, groups)
}

// experts computes what was acquired, and waits for the processor. dense, if not nil, is given back
// behind the last kernel; where all is the processor's, it has waited for those that read dense weights.
func (f *Forward) experts(ctx context.Context, a *weights.Acquisition, width int,
	dense *weights.Acquisition) error {
	err := f.compute(ctx, &f.own, a, width, dense)
	a.Release()
	if f.Beside != nil {
		err = join(err, f.Beside.end(f))
	}
	return err
}

// compute computes groups on a side in the order in which they become ready.
func (f *Forward) compute(ctx context.Context, s *side, a *weights.Acquisition, width int,
	dense *weights.Acquisition) error {
	for {
		leases, err := a.Next(ctx)
		if err != nil || len(leases) == 0 {
			return err
		}
		s.list = s.list[:0]
		for _, l := range leases {
			rows, slots := f.routes.of(l.Group)
			s.list = append(s.list, kernels.Expert{Gate: l.Weights[0], Up: l.Weights[1],
				Down: l.Weights[2], Rows: rows, Slots: slots})
		}
		s.op = kernels.ExpertFFN{X: s.x, Out: s.y, Dim: f.Model.Dim, Width: width, Exact: f.Exact,
			Experts: s.list}
		s.stream.Run(&s.op)
		e := s.stream.Record()
		a.Computed(e)
		if dense != nil {
			dense.Computed(e)
		}
	}
}

// Outcome books what became of bytes that were read ahead on a guess.
func (f *Forward) Outcome(layer int, o sched.Outcome, bytes int64) {
	f.booksMu.Lock()
	defer f.booksMu.Unlock()
	f.Predictor.Outcome(layer, o, bytes)
}

// Prediction reports the books; it is safe for concurrent use with Run.
func (f *Forward) Prediction() (r sched.PredictorReport) {
	f.booksMu.Lock()
	defer f.booksMu.Unlock()
	if f.Predictor != nil {
		r = f.Predictor.Report()
	}
	return r
}

// adapt tells the predictor how busy the disk is.
func (f *Forward) adapt(pass time.Duration) {
	if f.Predictor == nil || !f.Adapt {
		return
	}
	wait := f.Experts.Counters().Wait
	f.booksMu.Lock()
	f.Predictor.Passed(float64(wait-f.waited), float64(pass))
	f.booksMu.Unlock()
	f.waited = wait
}

// Guesses counts, over all passes, the experts that were guessed and worth reading ahead, those of them
// that were used, and all that were used in layers with a guess. It allocates nothing, and is safe for
// concurrent use with Run.
func (f *Forward) Guesses() (guessed, came, used int64) {
	f.booksMu.Lock()
	defer f.booksMu.Unlock()
	if f.Predictor != nil {
		guessed, came, used = f.Predictor.Counts()
	}
	return guessed, came, used
}
