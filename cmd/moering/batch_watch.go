package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/moering/moering/engine"
)

// batchInterval is the time between lines where there is no terminal.
const batchInterval = 30 * time.Second

// batchWatch shows a job's progress, and keeps the latest for the metrics. It is safe for concurrent
// use.
type batchWatch struct {
	mu     sync.Mutex
	out    io.Writer
	last   engine.BatchProgress
	bars   *mpb.Progress
	bar    *mpb.Bar
	shown  time.Time
	closed bool
}

func (a *app) newBatchWatch() *batchWatch {
	w := &batchWatch{out: a.stderr, shown: time.Now()}
	if isTerminal(a.stderr) {
		w.bars = mpb.New(mpb.WithOutput(a.stderr))
	}
	return w
}

func (w *batchWatch) update(p engine.BatchProgress) {
	w.mu.Lock()
	w.last = p
	closed := w.closed
	w.mu.Unlock()
	switch { // the bar draws from its own goroutine, which asks for the latest
	case closed:
	case w.bars == nil:
		if time.Since(w.shown) >= batchInterval {
			w.shown = time.Now()
			fmt.Fprintf(w.out, "%d of %d requests; %s\n", p.Finished, p.Requests, describeProgress(p))
		}
	default:
		if w.bar == nil {
			w.bar = w.bars.AddBar(int64(p.Requests), mpb.BarRemoveOnComplete(),
				mpb.PrependDecorators(decor.CountersNoUnit("%d / %d requests")),
				mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
					return describeProgress(w.latest())
				})))
		}
		w.bar.SetCurrent(int64(p.Finished))
	}
}

func (w *batchWatch) latest() engine.BatchProgress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// close takes the bar away; it may be called twice.
func (w *batchWatch) close() {
	w.mu.Lock()
	closed := w.closed
	w.closed = true
	w.mu.Unlock()
	if closed || w.bars == nil {
		return
	}
	if w.bar != nil {
		w.bar.Abort(true)
	}
	w.bars.Wait()
}

func describeProgress(p engine.BatchProgress) string {
	left := "?"
	if p.Left > 0 {
		left = p.Left.Round(time.Second).String()
	}
	return fmt.Sprintf("prefill %.1f/s, decode %.1f/s, %s left; %d sequences, %d tokens in flight; "+
		"waiting %.0f %%, hits %.0f %%; %s of %s", p.PrefillPerS, p.DecodePerS, left, p.Active,
		p.TokensInFlight, 100*p.Stats.WaitShare(), 100*p.Stats.HitRate(),
		formatBytes(float64(p.Memory)), formatBytes(float64(p.Budget)))
}
