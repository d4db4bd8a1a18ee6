//go:build cgo

package bench

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/cpu"
	"github.com/moering/moering/kernels/quant"
)

const (
	memoryBytesDefault = 512 << 20
	repetitionsDefault = 5
	// The shapes of the yardstick model (Qwen3-MoE layout).
	dim, width, heads, kvHeads, headDim = 2048, 768, 32, 4, 128
	expertsMax                          = 128
)

// Names of ops.
const (
	opDecode  = "decode"  // one row, matrices of (2048, 2048), each read once
	opExperts = "experts" // gate, up, SiLU, down of experts of (768, 2048)
	opAttend  = "attention decode"
	opPrefill = "attention prefill"
)

// Ops returns the names that Options.Ops may have.
func Ops() []string { return []string{opDecode, opExperts, opAttend, opPrefill} }

// Run measures each case and hands out its result. It stops at the first failure, or where ctx ends.
func Run(ctx context.Context, o Options, each func(Result)) error {
	o.MemoryBytes = cmp.Or(o.MemoryBytes, memoryBytesDefault)
	o.Repetitions = cmp.Or(o.Repetitions, repetitionsDefault)
	cases, err := cases(o)
	if err != nil {
		return err
	}
	d, err := cpu.Open(cpu.Options{Threads: o.Threads, ISA: o.ISA})
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	for _, c := range cases {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := measure(d, c, o)
		if err != nil {
			return fmt.Errorf("bench: %s %s: %w", c.op, c.kind, err)
		}
		each(r)
	}
	return nil
}

// one is a case: an op, a type, a number of rows.
type one struct {
	op   string
	kind quant.Type
	rows int
}

func cases(o Options) ([]one, error) {
	kinds := []quant.Type{quant.Q4_0, quant.Q8_0, quant.Q4_K, quant.Q5_K, quant.Q6_K, quant.F16}
	caches := []quant.Type{quant.F32, quant.F16, quant.Q8_0}
	if len(o.Types) > 0 {
		kinds = nil
		for _, name := range o.Types {
			k, ok := quant.ParseType(name)
			if !ok || !k.CanDecode() {
				return nil, fmt.Errorf("bench: unknown type %q", name)
			}
			kinds = append(kinds, k)
		}
		caches = slices.DeleteFunc(caches, func(k quant.Type) bool { return !slices.Contains(kinds, k) })
	}
	rows := o.Rows
	if len(rows) == 0 {
		rows = []int{1, 2, 4, 8, 16, 64, 256}
	}
	for _, op := range o.Ops {
		if !slices.Contains(Ops(), op) {
			return nil, fmt.Errorf("bench: unknown op %q, know %s", op, strings.Join(Ops(), ", "))
		}
	}
	wanted := func(op string) bool { return len(o.Ops) == 0 || slices.Contains(o.Ops, op) }
	var list []one
	for _, k := range kinds {
		if wanted(opDecode) {
			list = append(list, one{opDecode, k, 1})
		}
		for _, m := range rows {
			if wanted(opExperts) {
				list = append(list, one{opExperts, k, m})
			}
		}
	}
	for _, k := range caches {
		if wanted(opAttend) {
			list = append(list, one{opAttend, k, 1}, one{opAttend, k, 16})
		}
		if wanted(opPrefill) {
			list = append(list, one{opPrefill, k, 512})
		}
	}
	return list, nil
}

// work is a case with its memory.
type work struct {
	ops        []kernels.Op
	shape      string
	memory     kernels.Span // that the limit of reading is measured with
	bytes      int64
	operations float64
	float      bool
	buffers    []*kernels.Buffer
}

func (w *work) free() {
	for _, b := range w.buffers {
		_ = b.Free()
	}
}

func (w *work) alloc(d *cpu.Device, bytes int64) (kernels.Span, error) {
	b, err := d.Alloc(bytes)
	if err != nil {
		return kernels.Span{}, err
	}
	w.buffers = append(w.buffers, b)
	return b.All(), nil
}

// values allocates n random activations.
func (w *work) values(d *cpu.Device, n int) (kernels.Span, error) {
	s, err := w.alloc(d, int64(n)*4)
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range s.Float32s() {
		s.Float32s()[i] = float32(rng.NormFloat64())
	}
	return s, err
}

func measure(d *cpu.Device, c one, o Options) (r Result, err error) {
	w := &work{}
	defer w.free()
	switch c.op {
	case opDecode:
		err = w.decode(d, c.kind, o.MemoryBytes)
	case opExperts:
		err = w.experts(d, c.kind, c.rows, o.MemoryBytes)
	case opAttend:
		err = w.attend(d, c.kind, c.rows, o.MemoryBytes)
	case opPrefill:
		err = w.prefill(d, c.kind, c.rows)
	}
	if err != nil {
		return r, err
	}
	r = Result{Op: c.op, Type: c.kind.String(), Rows: c.rows, Shape: w.shape, Device: d.Info().Detail,
		Bytes: w.bytes, Operations: w.operations, Repetitions: o.Repetitions}
	return r, w.run(d, &r)
}

type limits struct{ read, math float64 }

func (w *work) limits(d *cpu.Device) (l limits, err error) {
	if l.read, err = d.ReadRate(w.memory); err != nil {
		return l, err
	}
	if w.float {
		l.math, err = d.Float32Rate()
	} else {
		l.math, err = d.Int8Rate()
	}
	return l, err
}

func (w *work) run(d *cpu.Device, r *Result) error {
	stream, err := d.NewStream("bench")
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // failures are Sync's
	once := func() (time.Duration, error) {
		start := time.Now()
		for _, op := range w.ops {
			stream.Run(op)
		}
		err := stream.Sync()
		return max(time.Since(start), time.Nanosecond), err
	}
	if _, err := once(); err != nil { // page faults and command memory
		return err
	}
	var seconds, reads, maths, readShares, mathShares []float64
	before, err := w.limits(d)
	for range r.Repetitions {
		if err != nil {
			return err
		}
		took, e := once()
		if e != nil {
			return e
		}
		var after limits
		after, err = w.limits(d)
		s := took.Seconds()
		read, math := (before.read+after.read)/2, (before.math+after.math)/2
		seconds, reads, maths = append(seconds, s), append(reads, read), append(maths, math)
		readShares = append(readShares, float64(w.bytes)/s/read)
		mathShares = append(mathShares, w.operations/s/math)
		before = after
	}
	r.Seconds, r.SecondsBest = median(seconds), slices.Min(seconds)
	r.BytesPerS, r.OpsPerS = float64(w.bytes)/r.Seconds, w.operations/r.Seconds
	r.ReadLimit, r.MathLimit = median(reads), median(maths)
	r.ReadShare, r.MathShare = median(readShares), median(mathShares)
	r.ReadShareBest, r.MathShareBest = slices.Max(readShares), slices.Max(mathShares)
	return err
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
