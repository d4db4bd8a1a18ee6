// Package trace writes timelines that Perfetto and chrome://tracing show: lanes for computing, waiting,
// reads and copies, so that one glance says what a token waited for. The format is the JSON of Chrome's
// trace events ("Trace Event Format", complete events).
package trace

import (
	"bufio"
	"io"
	"strconv"
	"sync"
	"time"
)

// Lane is a row of the timeline.
type Lane int

// The lanes. Fills that are under way at once take the first free of FillLanes lanes.
const (
	Passes Lane = iota
	Compute
	Processor // experts beside a device with memory of its own
	Waits
	Reads
	Copies      = Reads + FillLanes
	Layers      = Copies + FillLanes
	LayerCopies = Layers + FillLanes
	lanes       = LayerCopies + FillLanes
)

// FillLanes is how many fills of one tier are shown side by side.
const FillLanes = 8

// Recorder writes events as they happen. A nil Recorder is valid and records nothing. It is safe for
// concurrent use.
type Recorder struct {
	mu    sync.Mutex
	w     *bufio.Writer
	start time.Time
	line  []byte
	err   error
	ended bool
}

// New begins a timeline at the given time.
func New(w io.Writer, start time.Time) *Recorder {
	r := &Recorder{w: bufio.NewWriterSize(w, 64<<10), start: start}
	r.line = append(r.line, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"...)
	r.line = append(r.line, `{"ph":"M","pid":1,"name":"process_name","args":{"name":"moering"}}`...)
	for l := range lanes {
		r.line = append(r.line, ",\n"...)
		r.line = append(r.line, `{"ph":"M","pid":1,"name":"thread_name","tid":`...)
		r.line = strconv.AppendInt(r.line, int64(l), 10)
		r.line = append(r.line, `,"args":{"name":"`...)
		r.line = append(r.line, l.String()...)
		r.line = append(r.line, `"}},`...)
		r.line = append(r.line, "\n"+`{"ph":"M","pid":1,"name":"thread_sort_index","tid":`...)
		r.line = strconv.AppendInt(r.line, int64(l), 10)
		r.line = append(r.line, `,"args":{"sort_index":`...)
		r.line = strconv.AppendInt(r.line, int64(l), 10)
		r.line = append(r.line, `}}`...)
	}
	r.write()
	return r
}

// String names the lane.
func (l Lane) String() string {
	switch {
	case l == Passes:
		return "passes"
	case l == Compute:
		return "compute"
	case l == Processor:
		return "experts on the processor"
	case l == Waits:
		return "waits for weights"
	case l < Copies:
		return "expert reads " + strconv.Itoa(int(l-Reads)+1)
	case l < Layers:
		return "expert copies " + strconv.Itoa(int(l-Copies)+1)
	case l < LayerCopies:
		return "dense reads " + strconv.Itoa(int(l-Layers)+1)
	}
	return "dense copies " + strconv.Itoa(int(l-LayerCopies)+1)
}

// Now is the time for Span; it costs nothing where nothing is recorded.
func (r *Recorder) Now() (t time.Time) {
	if r != nil {
		t = time.Now()
	}
	return t
}

// Span records what went on in a lane from start to end: for a layer, an expert of it (-1: none), and
// bytes (0: none). In the lane of passes, layer is the number of rows.
func (r *Recorder) Span(l Lane, name string, layer, expert int, bytes int64, start, end time.Time) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	b := append(r.line[:0], ",\n"+`{"ph":"X","pid":1,"tid":`...)
	b = strconv.AppendInt(b, int64(l), 10)
	b = append(b, `,"name":"`...)
	b = append(b, name...)
	b = append(b, spanWord(l)...)
	b = strconv.AppendInt(b, int64(layer), 10)
	if expert >= 0 {
		b = append(b, ` E`...)
		b = strconv.AppendInt(b, int64(expert), 10)
	}
	b = append(b, `","ts":`...)
	b = microseconds(b, start.Sub(r.start))
	b = append(b, `,"dur":`...)
	b = microseconds(b, end.Sub(start))
	if bytes > 0 {
		b = append(b, `,"args":{"bytes":`...)
		b = strconv.AppendInt(b, bytes, 10)
		b = append(b, '}')
	}
	r.line = append(b, '}')
	r.write()
}

// spanWord says what the number behind a span's name is.
func spanWord(l Lane) string {
	if l == Passes {
		return ", rows "
	}
	return " L"
}

func microseconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d)/1e3, 'f', 3, 64)
}

func (r *Recorder) write() {
	if _, err := r.w.Write(r.line); err != nil && r.err == nil {
		r.err = err
	}
}

// Close ends the timeline and returns the first error of writing it. It does not close the writer, and
// may be called twice.
func (r *Recorder) Close() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return r.err
	}
	r.ended = true
	r.line = append(r.line[:0], "\n]}\n"...)
	r.write()
	if err := r.w.Flush(); err != nil && r.err == nil {
		r.err = err
	}
	return r.err
}
