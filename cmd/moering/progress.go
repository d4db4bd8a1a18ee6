package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// plainInterval is the time between lines where there is no terminal to draw a bar on.
const plainInterval = 5 * time.Second

// progress shows how far something is: a bar on a terminal, a line now and then elsewhere. It is
// safe for concurrent use.
type progress struct {
	mu     sync.Mutex
	out    io.Writer
	name   string
	bytes  bool // counts are bytes
	bars   *mpb.Progress
	bar    *mpb.Bar
	begun  time.Time
	shown  time.Time
	closed bool
}

func (a *app) newProgress(name string, bytes bool) *progress {
	now := time.Now()
	p := &progress{out: a.stderr, name: name, bytes: bytes, begun: now, shown: now}
	if isTerminal(a.stderr) {
		p.bars = mpb.New(mpb.WithOutput(a.stderr))
	}
	return p
}

// update takes how much is done; total may change from call to call.
func (p *progress) update(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
	case p.bars == nil:
		p.line(done, total)
	default:
		if p.bar == nil {
			p.bar = p.newBar(total)
		}
		p.bar.SetTotal(total, false)
		p.bar.SetCurrent(done)
	}
}

func (p *progress) newBar(total int64) *mpb.Bar {
	counters, rate := decor.CountersNoUnit("%d / %d"), decor.Name("")
	if p.bytes {
		counters = decor.Counters(decor.SizeB1000(0), "% .1f / % .1f")
		rate = decor.AverageSpeed(decor.SizeB1000(0), " % .1f")
	}
	return p.bars.AddBar(total, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(p.name+" "), counters),
		mpb.AppendDecorators(decor.Percentage(), rate, decor.Name(" "),
			decor.AverageETA(decor.ET_STYLE_GO)))
}

func (p *progress) line(done, total int64) {
	if time.Since(p.shown) < plainInterval || total <= 0 {
		return
	}
	p.shown = time.Now()
	if p.bytes {
		rate := float64(done) / time.Since(p.begun).Seconds()
		left := time.Duration(float64(total-done) / max(rate, 1) * float64(time.Second))
		fmt.Fprintf(p.out, "%s: %s of %s, %s/s, %v left\n", p.name, formatBytes(float64(done)),
			formatBytes(float64(total)), formatBytes(rate), left.Round(time.Second))
		return
	}
	fmt.Fprintf(p.out, "%s: %d of %d\n", p.name, done, total)
}

// close takes the bar away; it may be called twice.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	if p.bars != nil {
		if p.bar != nil {
			p.bar.Abort(true)
		}
		p.bars.Wait()
	}
}

// isTerminal reports whether a stream is a character device other than the null device.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok || f.Name() == os.DevNull {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && !os.SameFile(info, null)
}
