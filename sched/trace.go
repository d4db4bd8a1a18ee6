package sched

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A routing trace records which experts each token used, so that caches, policies and predictors
// can be replayed without the model. Format, all numbers unsigned LEB128, times in
// nanoseconds:
//
//	magic "MRTRACE" and the version byte, 1
//	layers, experts, topK, groupBytes, denseBytes
//	sections, places, prefetch (0 off, 1 auto, 2 on), bytesPerSecond, depth, pieces, length of the
//	    policy's name, name
//	passes, each:  rows (1 or more), sequences, then its layers, each:
//	    layer+1, k, flags, rows*k ids, with flag 1 rows*topK ids that were predicted for layer+1, with
//	    flag 2: before, experts, wait, hits, late (see LayerFigures)
//	    0 ends the pass, and then: outside, gap, bytesRead, reads, and 8 times (see PassFigures)
//
// A trace ends where the file ends; one that was cut off within a pass is read up to that pass.

// TraceShape is what a trace says about its model.
type TraceShape struct {
	Layers     int   `json:"layers"`
	Experts    int   `json:"experts"` // of a layer; the group of expert e of layer l is l*Experts+e
	TopK       int   `json:"top_k"`
	GroupBytes int64 `json:"group_bytes"` // of one expert
	DenseBytes int64 `json:"dense_bytes"` // of the weights of a pass that are not experts
	// Run is what the engine ran with that recorded the trace; zero where that is not known.
	Run TraceRun `json:"run"`
}

// TraceRun is how an engine that records a trace holds and reads experts.
type TraceRun struct {
	Sections       int      `json:"sections"` // of the ring
	Places         int      `json:"places"`   // beside it, that the policy keeps groups in
	Policy         string   `json:"policy"`
	Prefetch       Prefetch `json:"prefetch"`
	BytesPerSecond int64    `json:"bytes_per_second"` // of the disk by its probe; 0: it was not probed
	Depth          int      `json:"depth"`            // pieces that the disk reads at a time
	Pieces         int      `json:"pieces"`           // of an expert
}

// Prefetch says whether experts are read ahead on a guess.
type Prefetch uint8

// Settings of Prefetch.
const (
	PrefetchOff  Prefetch = iota
	PrefetchAuto          // where it pays
	PrefetchOn            // whatever it costs
)

// String returns "off", "auto" or "on".
func (p Prefetch) String() string {
	switch p {
	case PrefetchAuto:
		return "auto"
	case PrefetchOn:
		return "on"
	}
	return "off"
}

// MarshalText is String.
func (p Prefetch) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// PassFigures are what a pass took beside its layers. Nanoseconds.
type PassFigures struct {
	Outside   int64 // of the pass: embedding, layers without a choice, head
	Gap       int64 // since the pass before it
	BytesRead int64 // of experts
	Reads     ReadFigures
}

// ReadFigures are how experts came.
type ReadFigures struct {
	Reads int64           // experts that came
	At    [FillsMax]int64 // nanoseconds in which so many were on their way: At[0] one, At[1] two
}

// Sub returns what happened between an earlier snapshot and r.
func (r ReadFigures) Sub(e ReadFigures) ReadFigures {
	r.Reads -= e.Reads
	for i := range r.At {
		r.At[i] -= e.At[i]
	}
	return r
}

// Reading is the nanoseconds in which at least one was on its way.
func (r ReadFigures) Reading() (sum int64) {
	for _, n := range r.At {
		sum += n
	}
	return sum
}

// LayerFigures are what a layer took. Nanoseconds.
type LayerFigures struct {
	Before     int64 // until its router had spoken
	Experts    int64 // arithmetic from then on
	Wait       int64 // for experts, from then on
	Hits, Late int64 // groups found in memory, and on their way
}

// TracePass is one pass. Its memory is reused by the next one that is read into it.
type TracePass struct {
	Rows, Sequences int
	Layers          []TraceLayer
	Figures         PassFigures
}

// TraceLayer is a layer's routing in a pass. Layers without a choice are absent, or have the one
// expert 0.
type TraceLayer struct {
	Layer     int
	IDs       []int32 // (rows, k), best first
	Predicted []int32 // (rows, topK) for the next layer, best first; empty: nothing was predicted
	Figures   LayerFigures
}

// ErrTrace: the bytes are no routing trace, or a damaged one.
var ErrTrace = errors.New("malformed routing trace")

// Bounds on what a trace may say.
const (
	traceVersion    = 1
	traceLayersMax  = 1 << 12
	traceExpertsMax = 1 << 14
	traceGroupsMax  = 1 << 20 // layers times experts
	traceRowsMax    = 1 << 16
	traceBytesMax   = 1 << 50
	traceTimeMax    = 1 << 60
	tracePolicyMax  = 32
	traceBuffer     = 64 << 10
	tracePredicted  = 1 // flag: predicted ids follow
	traceTimed      = 2 // flag: figures follow
)

const traceMagic = "MRTRACE"

func (s TraceShape) check() error {
	switch {
	case s.Layers < 1 || s.Layers > traceLayersMax:
		return fmt.Errorf("%w: %d layers, outside 1 to %d", ErrTrace, s.Layers, traceLayersMax)
	case s.Experts < 1 || s.Experts > traceExpertsMax:
		return fmt.Errorf("%w: %d experts, outside 1 to %d", ErrTrace, s.Experts, traceExpertsMax)
	case s.Layers*s.Experts > traceGroupsMax:
		return fmt.Errorf("%w: %d layers of %d experts, more than %d groups", ErrTrace, s.Layers,
			s.Experts, traceGroupsMax)
	case s.TopK < 1 || s.TopK > s.Experts:
		return fmt.Errorf("%w: top-k %d of %d experts", ErrTrace, s.TopK, s.Experts)
	case s.GroupBytes < 0 || s.GroupBytes > traceBytesMax, s.DenseBytes < 0,
		s.DenseBytes > traceBytesMax:
		return fmt.Errorf("%w: groups of %d bytes, dense weights of %d", ErrTrace, s.GroupBytes,
			s.DenseBytes)
	}
	return s.Run.check()
}

func (r TraceRun) check() error {
	if r.Sections < 0 || r.Sections > traceGroupsMax || r.Places < 0 || r.Places > traceGroupsMax ||
		r.Prefetch > PrefetchOn || r.BytesPerSecond < 0 || r.BytesPerSecond > traceBytesMax ||
		r.Depth < 0 || r.Depth > traceRowsMax || r.Pieces < 0 || r.Pieces > traceRowsMax || len(r.Policy) > tracePolicyMax {
		return fmt.Errorf("%w: a run with %+v", ErrTrace, r)
	}
	return nil
}

// TraceWriter writes a trace. It buffers: Flush at the end. An error sticks. In steady state it
// allocates nothing. It is not safe for concurrent use.
type TraceWriter struct {
	w      io.Writer
	shape  TraceShape
	buffer []byte
	rows   int // of the pass; 0: none was begun
	layer  int // the last one written
	err    error
}

// NewTraceWriter begins a trace; the shape is written with the first flush.
func NewTraceWriter(w io.Writer, s TraceShape) (*TraceWriter, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	t := &TraceWriter{w: w, shape: s, buffer: make([]byte, 0, traceBuffer)}
	t.buffer = append(append(t.buffer, traceMagic...), traceVersion)
	for _, n := range []int64{int64(s.Layers), int64(s.Experts), int64(s.TopK), s.GroupBytes,
		s.DenseBytes, int64(s.Run.Sections), int64(s.Run.Places), int64(s.Run.Prefetch),
		s.Run.BytesPerSecond, int64(s.Run.Depth), int64(s.Run.Pieces), int64(len(s.Run.Policy))} {
		t.number(uint64(n))
	}
	t.buffer = append(t.buffer, s.Run.Policy...)
	return t, nil
}

// Pass begins a pass of rows of so many sequences, and ends the one before.
func (t *TraceWriter) Pass(rows, sequences int) error {
	if rows < 1 || rows > traceRowsMax || sequences < 0 || sequences > rows {
		return t.fail(fmt.Errorf("%w: a pass of %d rows of %d sequences", ErrTrace, rows, sequences))
	}
	t.Done(PassFigures{})
	t.rows, t.layer = rows, -1
	t.number(uint64(rows))
	t.number(uint64(sequences))
	return t.err
}

// Layer writes what a layer of the pass chose, ids (rows, k), what was predicted there for the layer
// after it, (rows, topK) or empty, and what it took. Layers ascend.
func (t *TraceWriter) Layer(l TraceLayer) error {
	k, layer, ids, predicted := 0, l.Layer, l.IDs, l.Predicted
	if t.rows > 0 {
		k = len(ids) / t.rows
	}
	if layer <= t.layer || layer >= t.shape.Layers || k < 1 || k > t.shape.TopK ||
		len(ids) != k*t.rows || len(predicted) != 0 && len(predicted) != t.shape.TopK*t.rows {
		return t.fail(fmt.Errorf("%w: layer %d after %d: %d ids and %d predicted for %d rows",
			ErrTrace, layer, t.layer, len(ids), len(predicted), t.rows))
	}
	t.layer = layer
	t.number(uint64(layer + 1))
	t.number(uint64(k))
	flags := uint64(0)
	if len(predicted) > 0 {
		flags = tracePredicted
	}
	if l.Figures != (LayerFigures{}) {
		flags |= traceTimed
	}
	t.number(flags)
	t.ids(ids)
	t.ids(predicted)
	if f := l.Figures; flags&traceTimed != 0 {
		t.figures(f.Before, f.Experts, f.Wait, f.Hits, f.Late)
	}
	return t.err
}

// figures writes numbers that are not negative and not beyond bounds.
func (t *TraceWriter) figures(list ...int64) {
	for _, n := range list {
		t.number(uint64(min(max(n, 0), traceTimeMax)))
	}
}

func (t *TraceWriter) ids(ids []int32) {
	for _, id := range ids {
		if id < 0 || int(id) >= t.shape.Experts {
			t.fail(fmt.Errorf("%w: expert %d of %d", ErrTrace, id, t.shape.Experts))
			return
		}
		t.number(uint64(id))
	}
}

// Done ends the pass with what it took. A pass that is ended by the next one or by Flush took nothing
// that is known.
func (t *TraceWriter) Done(f PassFigures) error {
	if t.rows > 0 {
		t.number(0)
		t.figures(f.Outside, f.Gap, f.BytesRead, f.Reads.Reads)
		t.figures(f.Reads.At[:]...)
		t.rows = 0
	}
	return t.err
}

// Flush ends the pass and writes what is buffered.
func (t *TraceWriter) Flush() error {
	t.Done(PassFigures{})
	t.drain()
	return t.err
}

func (t *TraceWriter) number(n uint64) {
	if t.err != nil {
		return
	}
	if len(t.buffer)+binary.MaxVarintLen64 > cap(t.buffer) {
		t.drain()
	}
	t.buffer = binary.AppendUvarint(t.buffer, n)
}

func (t *TraceWriter) drain() {
	if t.err == nil && len(t.buffer) > 0 {
		if _, err := t.w.Write(t.buffer); err != nil {
			t.fail(fmt.Errorf("writing the routing trace: %w", err))
		}
	}
	t.buffer = t.buffer[:0]
}

func (t *TraceWriter) fail(err error) error {
	if t.err == nil {
		t.err = err
	}
	return t.err
}

// TraceReader reads a trace pass by pass. It is not safe for concurrent use.
type TraceReader struct {
	r      io.Reader
	shape  TraceShape
	buffer []byte
	at     int // next byte of buffer
	offset int64
	ended  error // what the reader said after the last byte
}

// NewTraceReader reads a trace's beginning. Errors wrap ErrTrace, or are the reader's own.
func NewTraceReader(r io.Reader) (*TraceReader, error) {
	t := &TraceReader{r: r, buffer: make([]byte, 0, traceBuffer)}
	for i := range len(traceMagic) + 1 {
		b, err := t.byte()
		if err != nil {
			return nil, t.fail("the beginning", err)
		}
		if i < len(traceMagic) && b != traceMagic[i] {
			return nil, fmt.Errorf("%w: it does not begin with %q", ErrTrace, traceMagic)
		}
		if i == len(traceMagic) && b != traceVersion {
			return nil, fmt.Errorf("%w: version %d; this build reads %d", ErrTrace, b, traceVersion)
		}
	}
	var n [5]uint64
	err := t.numbers(n[:], "the shape", traceLayersMax, traceExpertsMax, traceExpertsMax, traceBytesMax,
		traceBytesMax)
	if err != nil {
		return nil, err
	}
	t.shape = TraceShape{Layers: int(n[0]), Experts: int(n[1]), TopK: int(n[2]),
		GroupBytes: int64(n[3]), DenseBytes: int64(n[4])}
	if t.shape.Run, err = t.run(); err != nil {
		return nil, err
	}
	return t, t.shape.check()
}

// numbers reads as many as there are bounds.
func (t *TraceReader) numbers(to []uint64, what string, most ...uint64) (err error) {
	for i, m := range most {
		if to[i], err = t.number(what, m); err != nil {
			return err
		}
	}
	return nil
}

// run reads what the recording engine ran with.
func (t *TraceReader) run() (r TraceRun, err error) {
	var n [7]uint64
	err = t.numbers(n[:], "the run", traceGroupsMax, traceGroupsMax, uint64(PrefetchOn), traceBytesMax,
		traceRowsMax, traceRowsMax, tracePolicyMax)
	if err != nil {
		return r, err
	}
	name := make([]byte, n[6])
	for i := range name {
		if name[i], err = t.byte(); err != nil {
			return r, t.fail("the policy", err)
		}
	}
	return TraceRun{Sections: int(n[0]), Places: int(n[1]), Prefetch: Prefetch(n[2]),
		BytesPerSecond: int64(n[3]), Depth: int(n[4]), Pieces: int(n[5]), Policy: string(name)}, nil
}

// Shape is what the trace says about its model.
func (t *TraceReader) Shape() TraceShape { return t.shape }

// Next reads a pass into p. It returns io.EOF after the last one, and an error that wraps ErrTrace
// and io.ErrUnexpectedEOF where the trace was cut off; p is then without meaning.
func (t *TraceReader) Next(p *TracePass) error {
	if t.at == len(t.buffer) && !t.fill() {
		return t.ended
	}
	rows, err := t.number("rows", traceRowsMax)
	if err != nil {
		return err
	}
	sequences, err := t.number("sequences", rows)
	if err != nil {
		return err
	}
	if rows == 0 {
		return t.fail("rows", fmt.Errorf("%w: a pass without rows", ErrTrace))
	}
	p.Rows, p.Sequences = int(rows), int(sequences)
	layers, last := p.Layers[:0], -1
	for {
		n, err := t.number("layer", uint64(t.shape.Layers))
		if err != nil {
			return err
		}
		if n == 0 {
			p.Layers = layers
			return t.done(p)
		}
		if int(n)-1 <= last {
			return t.fail("layer", fmt.Errorf("%w: layer %d after %d", ErrTrace, n-1, last))
		}
		last = int(n) - 1
		if len(layers) < cap(layers) {
			layers = layers[:len(layers)+1]
		} else {
			layers = append(layers, TraceLayer{})
		}
		if err := t.layer(last, p.Rows, &layers[len(layers)-1]); err != nil {
			return err
		}
	}
}

// done reads what follows a pass's layers.
func (t *TraceReader) done(p *TracePass) error {
	const what = "a pass's figures"
	var n [4]uint64
	err := t.numbers(n[:], what, traceTimeMax, traceTimeMax, traceTimeMax, traceTimeMax)
	f := PassFigures{Outside: int64(n[0]), Gap: int64(n[1]), BytesRead: int64(n[2])}
	f.Reads.Reads = int64(n[3])
	for i := range f.Reads.At {
		if err == nil {
			err = t.numbers(n[:], what, traceTimeMax)
			f.Reads.At[i] = int64(n[0])
		}
	}
	p.Figures = f
	return err
}

// layer reads what follows a layer's number.
func (t *TraceReader) layer(layer, rows int, l *TraceLayer) error {
	k, err := t.number("k", uint64(t.shape.TopK))
	if err != nil {
		return err
	}
	flags, err := t.number("flags", tracePredicted|traceTimed)
	if err != nil {
		return err
	}
	if k == 0 {
		return t.fail("k", fmt.Errorf("%w: a layer of 0 ids", ErrTrace))
	}
	l.Layer = layer
	if l.IDs, err = t.ids(l.IDs[:0], rows*int(k)); err != nil {
		return err
	}
	l.Predicted = l.Predicted[:0]
	if flags&tracePredicted != 0 {
		if l.Predicted, err = t.ids(l.Predicted, rows*t.shape.TopK); err != nil {
			return err
		}
	}
	l.Figures = LayerFigures{}
	if flags&traceTimed == 0 {
		return nil
	}
	var n [5]uint64
	if err = t.numbers(n[:], "a layer's figures", traceTimeMax, traceTimeMax, traceTimeMax,
		traceExpertsMax, traceExpertsMax); err != nil {
		return err
	}
	l.Figures = LayerFigures{Before: int64(n[0]), Experts: int64(n[1]), Wait: int64(n[2]),
		Hits: int64(n[3]), Late: int64(n[4])}
	if l.Figures == (LayerFigures{}) {
		return t.fail("a layer's figures", fmt.Errorf("%w: there are none", ErrTrace))
	}
	return nil
}

// ids reads n ids. Memory grows with what is read, not with what the header claims.
func (t *TraceReader) ids(to []int32, n int) ([]int32, error) {
	for range n {
		id, err := t.number("id", uint64(t.shape.Experts-1))
		if err != nil {
			return to, err
		}
		to = append(to, int32(id))
	}
	return to, nil
}

// number reads a number of at most that size, in the fewest bytes.
func (t *TraceReader) number(what string, most uint64) (uint64, error) {
	var n uint64
	for i := range binary.MaxVarintLen64 {
		b, err := t.byte()
		if err != nil {
			return 0, t.fail(what, err)
		}
		n |= uint64(b&0x7f) << (7 * i)
		if b >= 0x80 {
			continue
		}
		if n > most || b == 0 && i > 0 {
			return 0, t.fail(what, fmt.Errorf("%w: %d, outside 0 to %d", ErrTrace, n, most))
		}
		return n, nil
	}
	return 0, t.fail(what, fmt.Errorf("%w: a number without end", ErrTrace))
}

func (t *TraceReader) byte() (byte, error) {
	if t.at == len(t.buffer) && !t.fill() {
		return 0, t.ended
	}
	b := t.buffer[t.at]
	t.at++
	return b, nil
}

// emptyReadsMax is how often a reader may give neither bytes nor an error.
const emptyReadsMax = 100

// fill reads on, and reports whether there is a byte.
func (t *TraceReader) fill() bool {
	t.offset += int64(t.at)
	t.at, t.buffer = 0, t.buffer[:0]
	for i := 0; t.ended == nil && len(t.buffer) == 0; i++ {
		n, err := t.r.Read(t.buffer[:cap(t.buffer)])
		t.buffer = t.buffer[:n]
		if t.ended = err; err == nil && n == 0 && i == emptyReadsMax {
			t.ended = io.ErrNoProgress
		}
	}
	return len(t.buffer) > 0
}

// fail says where reading failed. The end of the file is a cut here.
func (t *TraceReader) fail(what string, err error) error {
	at := t.offset + int64(t.at)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: cut off in %s at byte %d: %w", ErrTrace, what, at, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("routing trace: %s before byte %d: %w", what, at, err)
}
