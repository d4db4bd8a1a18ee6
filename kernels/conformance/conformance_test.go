package conformance

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
)

// mutant is the reference device with one fault.
type mutant struct {
	*ref.Device
	op     func(kernels.Op) kernels.Op              // changes ops
	stream func(kernels.Stream) kernels.Stream      // changes streams
	land   func(kernels.Weight, kernels.Span) error // spoils memory
	alloc  func(*kernels.Buffer)                    // spoils new buffers
}

func (m *mutant) NewStream(name string) (kernels.Stream, error) {
	s, err := m.Device.NewStream(name)
	if err == nil && m.op != nil {
		s = &mutantStream{s, m.op}
	}
	if err == nil && m.stream != nil {
		s = m.stream(s)
	}
	return s, err
}

func (m *mutant) Land(w kernels.Weight, memory kernels.Span) (kernels.Weight, error) {
	if m.land != nil {
		if err := m.land(w, memory); err != nil {
			return w, err
		}
	}
	return m.Device.Land(w, memory)
}

func (m *mutant) Alloc(n int64) (*kernels.Buffer, error) {
	b, err := m.Device.Alloc(n)
	if err == nil && m.alloc != nil {
		m.alloc(b)
	}
	return b, err
}

type mutantStream struct {
	kernels.Stream
	op func(kernels.Op) kernels.Op
}

func (s *mutantStream) Run(op kernels.Op) { s.Stream.Run(s.op(op)) }

// change makes a mutation of one kind of op.
func change[T any, P interface {
	*T
	kernels.Op
}](f func(P)) func(kernels.Op) kernels.Op {
	return func(op kernels.Op) kernels.Op {
		if o, ok := op.(P); ok {
			changed := *o
			f(&changed)
			return P(&changed)
		}
		return op
	}
}

// mute never reports a failure.
type mute struct{ kernels.Stream }

func (mute) Sync() error { return nil }

// terms copies the terms of a MatMul and changes them.
func terms(f func(*kernels.Term)) func(kernels.Op) kernels.Op {
	return change(func(o *kernels.MatMul) {
		o.Terms = append([]kernels.Term(nil), o.Terms...)
		for i := range o.Terms {
			f(&o.Terms[i])
		}
	})
}

// A suite that cannot fail proves nothing: each fault turns the check beside it red.
func TestEveryFaultIsFound(t *testing.T) {
	faults := []struct {
		name  string
		check string
		dev   mutant
	}{
		{"rows left out", "embed/Q8_0", mutant{op: change(func(o *kernels.Embed) { o.Rows-- })}},
		{"epsilon", "norm", mutant{op: change(func(o *kernels.RMSNorm) { o.Eps *= 1.5 })}},
		{"rows that depend on others", "norm", mutant{op: change(func(o *kernels.RMSNorm) {
			if o.Rows > 1 {
				o.Eps = math.Nextafter32(o.Eps, 1)
			}
		})}},
		{"interleaving", "rope", mutant{op: change(func(o *kernels.RoPE) {
			o.Interleaved = !o.Interleaved
		})}},
		{"sine for cosine", "rope", mutant{op: change(func(o *kernels.RoPE) {
			o.Cos, o.Sin = o.Sin, o.Cos
		})}},
		{"gathered rows", "gather", mutant{op: change(func(o *kernels.GatherRows) { o.Rows-- })}},
		{"layer", "kv append", mutant{op: change(func(o *kernels.KVAppend) { o.KV.Layer = 0 })}},
		{"keys for values", "kv append", mutant{op: change(func(o *kernels.KVAppend) { o.V = o.K })}},
		{"window", "attention", mutant{op: change(func(o *kernels.Attention) {
			if o.Window > 0 {
				o.Window++
			}
		})}},
		{"no window", "attention", mutant{op: change(func(o *kernels.Attention) { o.Window = 0 })}},
		{"scale", "attention", mutant{op: change(func(o *kernels.Attention) { o.Scale *= 1.0001 })}},
		{"normalised weights", "route", mutant{op: change(func(o *kernels.Route) {
			o.Normalize = !o.Normalize
		})}},
		{"an expert too few", "route", mutant{op: change(func(o *kernels.Route) {
			o.Experts = max(o.TopK, o.Experts-1)
		})}},
		{"shared gate", "combine", mutant{op: change(func(o *kernels.Combine) {
			o.SharedGate = kernels.Span{}
		})}},
		{"order of the sum", "combine", mutant{op: change(func(o *kernels.Combine) {
			if o.TopK > 2 {
				o.IDs = o.Weights // another order, of other numbers
			}
		})}},
		{"bias", "matmul/F32", mutant{op: terms(func(t *kernels.Term) { t.Bias = kernels.Span{} })}},
		{"accumulation", "matmul/Q4_K", mutant{op: terms(func(t *kernels.Term) {
			t.Accumulate = false
		})}},
		{"gate for up", "experts/Q8_0", mutant{op: change(func(o *kernels.ExpertFFN) {
			o.Experts = append([]kernels.Expert(nil), o.Experts...)
			for i := range o.Experts {
				e := &o.Experts[i]
				e.Gate, e.Up = e.Up, e.Gate
			}
		})}},
		{"the last expert", "experts exact/F16", mutant{op: change(func(o *kernels.ExpertFFN) {
			o.Experts = o.Experts[:len(o.Experts)-1]
		})}},
		{"infinities cut off", "extremes exact/F32", mutant{stream: func(s kernels.Stream) kernels.Stream {
			return cutOff{s}
		}}},
		{"infinite activations that are zero", "extremes/Q4_0",
			mutant{stream: func(s kernels.Stream) kernels.Stream { return cutOff{s} }}},
		{"bytes behind a matrix", "matmul/Q4_0", mutant{land: func(w kernels.Weight,
			_ kernels.Span) error {
			w.Data.Buffer.Host[w.Data.Offset+w.Data.Bytes] ^= 1
			return nil
		}}},
		{"bytes before its memory", "matmul/Q4_0", mutant{land: func(_ kernels.Weight,
			memory kernels.Span) error {
			memory.Buffer.Host[memory.Offset-1] ^= 1
			return nil
		}}},
		{"a required type declined", "matmul/Q5_K", mutant{land: func(w kernels.Weight,
			_ kernels.Span) error {
			if w.Type == quant.Q5_K {
				return kernels.ErrDevice
			}
			return nil
		}}},
		{"memory that is not zero", "memory", mutant{alloc: func(b *kernels.Buffer) {
			b.Host[b.Bytes/2] = 1
		}}},
		{"swallowed failures", "failure sticks", mutant{stream: func(s kernels.Stream) kernels.Stream {
			return mute{s}
		}}},
	}
	if roundsShare > 1 {
		t.Skip("under the race detector there are too few rounds to find every fault")
	}
	for _, f := range faults {
		f.dev.Device = ref.Open(ref.Options{})
		expect(t, f.name, f.check, &f.dev)
	}
}

func expect(t *testing.T, fault, name string, dev kernels.Device) {
	t.Helper()
	oracle := ref.Open(ref.Options{})
	for _, c := range checks() {
		if !strings.HasPrefix(c.name, name) {
			continue
		}
		err := c.do(dev, oracle, t.Logf)
		if err == nil {
			t.Errorf("%s: %q does not notice", fault, c.name)
		}
		t.Logf("%s: %v", fault, err)
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	t.Errorf("no check is named %q", name)
}

// quantised emulates what a device may do to activations, with a number of levels to each side.
func quantised(x []float32, levels float64) []float32 {
	out := make([]float32, len(x))
	for i := 0; i < len(x); i += 32 {
		top := 0.0
		for _, v := range x[i : i+32] {
			top = max(top, math.Abs(float64(v)))
		}
		for j, v := range x[i : i+32] {
			if step := top / levels; step > 0 {
				out[i+j] = float32(math.RoundToEven(float64(v)/step) * step)
			}
		}
	}
	return out
}

// The tolerance of integer products admits int8 activations, and refuses 5-bit ones
// in some round, and int8 where Exact was asked for.
func TestIntegerToleranceTakesInt8AndRefusesFiveBits(t *testing.T) {
	if roundsShare > 1 {
		t.Skip("under the race detector there are too few rounds to find a wrong tolerance")
	}
	for _, c := range []struct {
		check  string
		levels float64
		ok     bool
	}{{"matmul/Q4_0", 127, true}, {"matmul/Q8_0", 127, true}, {"matmul/Q4_K", 127, true},
		{"experts/Q8_0", 127, true}, {"matmul/Q4_0", 15, false}, {"matmul exact/Q4_0", 127, false},
		{"experts exact/Q8_0", 127, false}} {
		dev := &mutant{Device: ref.Open(ref.Options{}),
			stream: func(s kernels.Stream) kernels.Stream { return coarse{s, c.levels} }}
		err := only(c.check, dev)
		if (err == nil) != c.ok {
			t.Errorf("%s with %v levels: %v", c.check, c.levels, err)
		}
	}
}

// cutOff is a stream for which numbers that are not finite are zero.
type cutOff struct{ kernels.Stream }

func (s cutOff) Run(op kernels.Op) {
	if o, ok := op.(*kernels.MatMul); ok {
		x := o.X.Float32s()
		before := append([]float32(nil), x...)
		for i, v := range x {
			if !isFinite(v) {
				x[i] = 0
			}
		}
		defer copy(x, before)
	}
	s.Stream.Run(op)
}

// coarse is a stream that quantises activations for the time of a product.
type coarse struct {
	kernels.Stream
	levels float64
}

func (s coarse) Run(op kernels.Op) {
	var x []float32
	switch o := op.(type) {
	case *kernels.MatMul:
		x = o.X.Float32s()
	case *kernels.ExpertFFN:
		x = o.X.Float32s()
	}
	before := append([]float32(nil), x...)
	copy(x, quantised(x, s.levels))
	s.Stream.Run(op)
	copy(x, before)
}

// only runs one check.
func only(name string, dev kernels.Device) error {
	for _, c := range checks() {
		if c.name == name {
			return c.do(dev, ref.Open(ref.Options{}), func(string, ...any) {})
		}
	}
	return errors.New("no such check")
}
