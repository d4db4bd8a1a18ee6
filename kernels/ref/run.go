package ref

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// run validates and executes one op. The first failure is returned; what the op has written by then
// is unspecified.
func (x *executor) run(op kernels.Op) error {
	if err := kernels.Validate(op); err != nil {
		return fmt.Errorf("stream %q: %w", x.name, err)
	}
	v := view{memory: x.memory}
	var err error
	switch o := op.(type) {
	case *kernels.Embed:
		err = x.embed(&v, o)
	case *kernels.RMSNorm:
		err = x.rmsNorm(&v, o)
	case *kernels.MatMul:
		err = x.matMul(&v, o)
	case *kernels.RoPE:
		err = x.rope(&v, o)
	case *kernels.KVAppend:
		err = x.kvAppend(&v, o)
	case *kernels.Attention:
		err = x.attention(&v, o)
	case *kernels.Route:
		err = x.route(&v, o)
	case *kernels.ExpertFFN:
		err = x.expertFFN(&v, o)
	case *kernels.Combine:
		err = x.combine(&v, o)
	case *kernels.GatherRows:
		err = x.gatherRows(&v, o)
	}
	if err != nil {
		return fmt.Errorf("stream %q: %T: %w", x.name, op, err)
	}
	return nil
}

// view reaches the memory of an op's spans, and keeps the first failure. Methods are not for
// concurrent use.
type view struct {
	memory *memory
	err    error
}

func (v *view) bytes(s kernels.Span) []byte {
	if s.IsZero() || v.err != nil {
		return nil
	}
	var b []byte
	if v.memory != nil {
		b, v.err = v.memory.find(s)
	} else if b = s.Host(); b == nil && s.Bytes > 0 {
		v.err = fmt.Errorf("%w: %d bytes at %#x are not memory of this device", kernels.ErrDevice,
			s.Bytes, s.Addr())
	}
	return b
}

// floats returns a span as n float32 values, nil for the zero span or after a failure.
func (v *view) floats(s kernels.Span, n int) []float32 { return cast[float32](v.bytes(s), n) }

func (v *view) ints(s kernels.Span, n int) []int32 { return cast[int32](v.bytes(s), n) }

func cast[T float32 | int32](b []byte, n int) []T {
	if b == nil || n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(b)/4)[:n:n]
}

// matrix is a weight whose rows decode to float32.
type matrix struct {
	kind     quant.Type
	rows     int
	cols     int
	rowBytes int
	data     []byte
}

func (v *view) matrix(w *kernels.Weight) matrix {
	if w.Layout != kernels.Published && v.err == nil {
		v.err = fmt.Errorf("%w: layout %d is not this device's", kernels.ErrDevice, w.Layout)
	}
	size, _ := w.Type.RowBytes(int64(w.Cols))
	return matrix{w.Type, w.Rows, w.Cols, int(size), v.bytes(w.Data)}
}

// row decodes row r into out, of cols values. The type and the lengths were validated.
func (m *matrix) row(r int, out []float32) {
	_ = quant.Decode(m.kind, out, m.data[r*m.rowBytes:][:m.rowBytes])
}

// parallelWork is the least work, in multiply-adds, worth a goroutine.
const parallelWork = 1 << 14

// parallel calls f for chunks that cover 0 .. n-1, on up to the device's threads; work is what one
// item costs. Each item is computed by one call in a fixed order, so results do not depend on how
// the range is cut.
func (x *executor) parallel(n, work int, f func(from, to int)) {
	threads := min(x.threads, n, n*work/parallelWork)
	if threads <= 1 {
		if n > 0 {
			f(0, n)
		}
		return
	}
	chunk := max(1, n/(threads*4))
	var next atomic.Int64
	var wait sync.WaitGroup
	for range threads {
		wait.Go(func() {
			for {
				from := int(next.Add(int64(chunk))) - chunk
				if from >= n {
					return
				}
				f(from, min(n, from+chunk))
			}
		})
	}
	wait.Wait()
}

// dot is the product of a row of weights and a vector, in float64. The order of the sum depends on
// the length alone.
func dot[T float32 | float64](w []float32, x []T) float64 {
	x = x[:len(w)]
	var a, b, c, d float64
	i := 0
	for ; i+4 <= len(w); i += 4 {
		a += float64(w[i]) * float64(x[i])
		b += float64(w[i+1]) * float64(x[i+1])
		c += float64(w[i+2]) * float64(x[i+2])
		d += float64(w[i+3]) * float64(x[i+3])
	}
	for ; i < len(w); i++ {
		a += float64(w[i]) * float64(x[i])
	}
	return (a + b) + (c + d)
}
