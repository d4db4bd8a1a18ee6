package forward

import (
	"time"

	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/sched"
)

// record measures what a routing trace says of a pass and its layers. While a trace is written, each
// layer of experts ends with waiting for its kernels, so that its time is its own; otherwise the kernels
// of a layer's last experts run into the next layer's.
type record struct {
	begun, ended time.Time // of the pass under way, and of the one before
	layers       time.Duration
	atBegin      weights.Counters

	from, said time.Time // of the layer: its beginning, and when its router had spoken
	atSaid     weights.Counters
	figures    sched.LayerFigures
}

func (r *record) begin(now time.Time, c weights.Counters) {
	r.begun, r.atBegin, r.layers, r.from = now, c, 0, time.Time{}
}

// layer begins one: where the layer before ended, if that had experts, so that nothing between them is
// lost.
func (r *record) layer(now time.Time) {
	if r.from.IsZero() {
		r.from = now
	}
}

func (r *record) spoken(now time.Time, c weights.Counters) { r.said, r.atSaid = now, c }

func (r *record) acquired(c weights.Counters) {
	r.figures = sched.LayerFigures{Before: r.said.Sub(r.from).Nanoseconds(),
		Hits: c.Hits - r.atSaid.Hits, Late: c.Late - r.atSaid.Late}
}

// computed ends the layer.
func (r *record) computed(now time.Time, c weights.Counters) sched.LayerFigures {
	wait := c.Wait - r.atSaid.Wait
	r.figures.Wait = wait.Nanoseconds()
	r.figures.Experts = (now.Sub(r.said) - wait).Nanoseconds()
	r.layers += now.Sub(r.from)
	r.from = now
	return r.figures
}

func (r *record) end(now time.Time, c weights.Counters) sched.PassFigures {
	p := sched.PassFigures{Outside: (now.Sub(r.begun) - r.layers).Nanoseconds(),
		BytesRead: c.BytesRead - r.atBegin.BytesRead,
		Reads:     c.Fills.Sub(r.atBegin.Fills)}
	if !r.ended.IsZero() {
		p.Gap = r.begun.Sub(r.ended).Nanoseconds()
	}
	r.ended = now
	return p
}

// recordLayer waits for the layer's kernels and writes it to the trace.
func (f *Forward) recordLayer(l, rows int, guess bool) error {
	if err := f.stream.Sync(); err != nil {
		return err
	}
	n := rows * f.Model.TopK
	layer := sched.TraceLayer{Layer: l, IDs: f.ids.host.Int32s()[:n],
		Figures: f.record.computed(time.Now(), f.Experts.Counters())}
	if guess {
		layer.Predicted = f.nextIDs.host.Int32s()[:n]
	}
	f.routeErr = join(f.routeErr, f.Routes.Layer(layer))
	return nil
}
