package sched

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A routing trace records which experts each token used, so that caches, policies and predictors
// can be replayed without the model. Format, version 1, all numbers unsigned LEB128:
//
//	magic "MRTRACE" and the version byte
//	layers, experts, topK, groupBytes, denseBytes
//	passes, each:  rows (1 or more), sequences, then its layers, each:
//	    layer+1, k, flags, rows*k ids, and with flag 1 rows*topK ids that were predicted for layer+1
//	    0 ends the pass
//
// A trace ends where the file ends; one that was cut off within a pass is read up to that pass.

// TraceShape is what a trace says about its model.
type TraceShape struct {
	Layers     int   `json:"layers"`
	Experts    int   `json:"experts"` // of a layer; the group of expert e of layer l is l*Experts+e
	TopK       int   `json:"top_k"`
	GroupBytes int64 `json:"group_bytes"` // of one expert
	DenseBytes int64 `json:"dense_bytes"` // of the weights of a pass that are not experts
}

// TracePass is one pass. Its memory is reused by the next one that is read into it.
type TracePass struct {
	Rows, Sequences int
	Layers          []TraceLayer
}

// TraceLayer is a layer's routing in a pass. Layers without a choice are absent, or have the one
// expert 0.
type TraceLayer struct {
	Layer     int
	IDs       []int32 // (rows, k), best first
	Predicted []int32 // (rows, topK) for the next layer, best first; empty: nothing was predicted
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
	traceBuffer     = 64 << 10
	tracePredicted  = 1 // flag: predicted ids follow
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
		s.DenseBytes} {
		t.number(uint64(n))
	}
	return t, nil
}

// Pass begins a pass of rows of so many sequences, and ends the one before.
func (t *TraceWriter) Pass(rows, sequences int) error {
	if rows < 1 || rows > traceRowsMax || sequences < 0 || sequences > rows {
		return t.fail(fmt.Errorf("%w: a pass of %d rows of %d sequences", ErrTrace, rows, sequences))
	}
	t.end()
	t.rows, t.layer = rows, -1
	t.number(uint64(rows))
	t.number(uint64(sequences))
	return t.err
}

// Layer writes what a layer of the pass chose, ids (rows, k), and what was predicted there for the
// layer after it, (rows, topK) or empty. Layers ascend.
func (t *TraceWriter) Layer(layer int, ids, predicted []int32) error {
	k := 0
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
	t.number(flags)
	t.ids(ids)
	t.ids(predicted)
	return t.err
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

// end closes the pass that was begun.
func (t *TraceWriter) end() {
	if t.rows > 0 {
		t.number(0)
		t.rows = 0
	}
}

// Flush ends the pass and writes what is buffered.
func (t *TraceWriter) Flush() error {
	t.end()
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
	for i, most := range []uint64{traceLayersMax, traceExpertsMax, traceExpertsMax, traceBytesMax,
		traceBytesMax} {
		var err error
		if n[i], err = t.number("the shape", most); err != nil {
			return nil, err
		}
	}
	t.shape = TraceShape{Layers: int(n[0]), Experts: int(n[1]), TopK: int(n[2]),
		GroupBytes: int64(n[3]), DenseBytes: int64(n[4])}
	return t, t.shape.check()
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
			return nil
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

// layer reads what follows a layer's number.
func (t *TraceReader) layer(layer, rows int, l *TraceLayer) error {
	k, err := t.number("k", uint64(t.shape.TopK))
	if err != nil {
		return err
	}
	flags, err := t.number("flags", tracePredicted)
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
		l.Predicted, err = t.ids(l.Predicted, rows*t.shape.TopK)
	}
	return err
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
