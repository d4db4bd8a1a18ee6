//go:build cgo

package cuda

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/moering/moering/internal/figures"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// The figures of tests/gpu/run.sh, one JSON line each. Nothing is asserted of a time; where a figure
// has a physical limit, the limit is measured in the same run and the share stands beside it.

// sizes are what the measurements are made with.
type sizes struct {
	full               bool
	copyBytes          int64
	sections           int
	sectionBytes       int64
	gemvRows, gemvCols int
	experts, tokens    int
	dim, width         int
	denseRows          int
	repeats, launches  int
}

func fullSizes() sizes {
	return sizes{full: true, copyBytes: 512 << 20, sections: 24, sectionBytes: 64 << 20, gemvRows: 16384,
		gemvCols: 8192, experts: 16, tokens: 256, dim: 4096, width: 2048,
		denseRows: 512, repeats: 7, launches: 2000}
}

func tinySizes() sizes {
	return sizes{copyBytes: 256 << 10, sections: 4, sectionBytes: 16 << 10, gemvRows: 32, gemvCols: 256,
		experts: 2, tokens: 3, dim: 256, width: 256, denseRows: 64,
		repeats: 2, launches: 4}
}

// bench is a device that is measured.
type bench struct {
	t    *testing.T
	d    *Device
	s    *stream
	size sizes
	// measured so far, bytes a second
	copyIn, memory float64
}

func TestMeasure(t *testing.T) {
	size := tinySizes()
	if figures.Full(t) {
		size = fullSizes()
	}
	b := openBench(t, size, Options{})
	b.copies()
	b.deviceMemory()
	b.launches()
	for _, kind := range []quant.Type{quant.BF16, quant.F16, quant.Q8_0, quant.Q4_K, quant.MXFP4} {
		b.gemv(kind)
	}
	for _, kind := range []quant.Type{quant.BF16, quant.Q8_0, quant.Q4_K} {
		b.experts(kind)
		b.overlap(kind)
	}
	halves := openBench(t, size, Options{HalfActivations: true})
	halves.copyIn, halves.memory = b.copyIn, b.memory
	halves.gemv(quant.BF16)
	halves.experts(quant.BF16)
	halves.overlap(quant.BF16)
	for _, rounded := range []bool{false, true} {
		dense := openBench(t, size, Options{HalfActivations: rounded, CuBLASLt: CuBLASLtFaster})
		dense.dense(quant.BF16)
		dense.dense(quant.F16)
	}
}

func openBench(t *testing.T, size sizes, o Options) *bench {
	t.Helper()
	o.Library = library(t)
	if !size.full {
		o.CuBLASLtLibrary = o.Library // the stand-in is both
	}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if d.declares && size.full {
		t.Fatal("the library is the stand-in: its times are not a GPU's, and must not be recorded as such")
	}
	return &bench{t: t, d: d, s: newStream(t, d, "compute"), size: size}
}

// record writes a result, and of which device it is.
func (b *bench) record(what string, fields map[string]any) {
	about := b.d.About()
	fields["device"], fields["uuid"] = about.Name, about.UUID
	fields["half_activations"] = b.d.halves
	fields["driver_cuda"] = versionText(about.DriverVersion)
	figures.Record(b.t, what, fields)
}

// seconds returns the median and the spread (largest less smallest) of f, which ends with all work
// done, after one run to warm up.
func (b *bench) seconds(f func()) (median, spread float64) {
	f()
	times := make([]float64, b.size.repeats)
	for i := range times {
		start := time.Now()
		f()
		times[i] = time.Since(start).Seconds()
	}
	slices.Sort(times)
	return times[len(times)/2], times[len(times)-1] - times[0]
}

func (b *bench) sync(streams ...*stream) {
	for _, s := range streams {
		if err := s.Sync(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// copies measures pinned copies, each way and both at once.
func (b *bench) copies() {
	n := b.size.copyBytes
	device, back := alloc(b.t, b.d, n), alloc(b.t, b.d, n)
	in, out := pin(b.t, b.d, n), pin(b.t, b.d, n)
	other := newStream(b.t, b.d, "other")
	for _, c := range []struct {
		what string
		run  func()
		ways int64
	}{
		{"pinned copy to the device", func() { b.s.Copy(device.All(), in.All()); b.sync(b.s) }, 1},
		{"pinned copy to the host", func() { b.s.Copy(out.All(), back.All()); b.sync(b.s) }, 1},
		{"pinned copies both ways", func() {
			b.s.Copy(device.All(), in.All())
			other.Copy(out.All(), back.All())
			b.s.Record()
			b.sync(other, b.s)
		}, 2},
	} {
		t, spread := b.seconds(c.run)
		rate := float64(c.ways*n) / t
		if b.copyIn == 0 {
			b.copyIn = rate
		}
		b.record(c.what, map[string]any{"bytes": c.ways * n, "seconds_median": t,
			"seconds_spread": spread, "gb_per_s": rate / 1e9, "huge_pages": in.Huge})
	}
	for _, m := range []*kernels.Buffer{device, back, in, out} {
		_ = m.Free()
	}
}

// deviceMemory measures the bandwidth of the device's memory by a copy within it, which reads and
// writes each byte.
func (b *bench) deviceMemory() {
	n := b.size.copyBytes
	from, to := alloc(b.t, b.d, n), alloc(b.t, b.d, n)
	const copies = 8
	t, spread := b.seconds(func() {
		for range copies {
			b.s.Copy(to.All(), from.All())
		}
		b.sync(b.s)
	})
	b.memory = float64(2*copies*n) / t
	b.record("device memory by copy", map[string]any{"bytes": 2 * copies * n, "seconds_median": t,
		"seconds_spread": spread, "gb_per_s": b.memory / 1e9})
	_, _ = from.Free(), to.Free()
}

// launches measures what an op costs that computes next to nothing.
func (b *bench) launches() {
	x := alloc(b.t, b.d, 64*4).All()
	gain := alloc(b.t, b.d, 64*4).All()
	op := &kernels.RMSNorm{X: x, Out: x, Gain: gain, Rows: 1, Dim: 64, Eps: 1e-6}
	t, spread := b.seconds(func() {
		for range b.size.launches {
			b.s.Run(op)
		}
		b.sync(b.s)
	})
	n := float64(b.size.launches)
	b.record("launch of a small op", map[string]any{"ops": b.size.launches, "us_per_op": t / n * 1e6,
		"us_per_op_spread": spread / n * 1e6})
}

// matrices returns weights of a type with random valid contents, one behind the other.
func (b *bench) matrices(kind quant.Type, count, rows, cols int) []kernels.Weight {
	row, ok := kind.RowBytes(int64(cols))
	if !ok {
		b.t.Fatalf("%d columns of %v", cols, kind)
	}
	memory := alloc(b.t, b.d, int64(count)*int64(rows)*row).All()
	host := pin(b.t, b.d, int64(rows)*row)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range host.Host { // scales of any size: figures are of time, not of values
		host.Host[i] = byte(rng.Uint32()) & 0x3F
	}
	list := make([]kernels.Weight, count)
	for i := range list {
		list[i] = kernels.Weight{Data: memory.Slice(int64(i)*int64(rows)*row, int64(rows)*row),
			Type: kind, Rows: rows, Cols: cols}
		b.s.Copy(list[i].Data, host.All())
	}
	b.sync(b.s)
	_ = host.Free()
	return list
}

// gemv measures the product of a matrix with one row: as many bytes a second as memory gives.
func (b *bench) gemv(kind quant.Type) {
	const matrices = 8 // more than the second-level cache holds
	rows, cols := b.size.gemvRows, b.size.gemvCols
	list := b.matrices(kind, matrices, rows, cols)
	x, out := alloc(b.t, b.d, int64(cols)*4).All(), alloc(b.t, b.d, int64(rows)*4).All()
	t, spread := b.seconds(func() {
		for _, w := range list {
			b.s.Run(&kernels.MatMul{X: x, Rows: 1, Terms: []kernels.Term{{W: w, Out: out}}})
		}
		b.sync(b.s)
	})
	bytes := matrices * list[0].Data.Bytes
	b.record("gemv", map[string]any{"type": kind.String(), "rows": rows, "cols": cols, "bytes": bytes,
		"seconds_median": t, "seconds_spread": spread, "gb_per_s": float64(bytes) / t / 1e9,
		"share_of_memory": float64(bytes) / t / b.memory})
	_ = list[0].Data.Buffer.Free()
}

// layer is a feed-forward block of experts with their rows.
func (b *bench) layer(kind quant.Type) (*kernels.ExpertFFN, float64) {
	z := b.size
	op := &kernels.ExpertFFN{Dim: z.dim, Width: z.width,
		X:   alloc(b.t, b.d, int64(z.tokens*z.dim)*4).All(),
		Out: alloc(b.t, b.d, int64(z.experts*z.tokens*z.dim)*4).All()}
	gate := b.matrices(kind, 2*z.experts, z.width, z.dim)
	down := b.matrices(kind, z.experts, z.dim, z.width)
	for e := range z.experts {
		x := kernels.Expert{Gate: gate[2*e], Up: gate[2*e+1], Down: down[e]}
		for r := range z.tokens {
			x.Rows = append(x.Rows, int32(r))
			x.Slots = append(x.Slots, int32(e*z.tokens+r))
		}
		op.Experts = append(op.Experts, x)
	}
	return op, 2 * 3 * float64(z.experts) * float64(z.tokens) * float64(z.dim) * float64(z.width)
}

// dense measures a product of many rows by the kernels here and by cuBLASLt, as the device does at the
// first use of a shape.
func (b *bench) dense(kind quant.Type) {
	z := b.size
	list := b.matrices(kind, 1, z.dim, z.dim)
	x := alloc(b.t, b.d, int64(z.denseRows*z.dim)*4).All()
	out := alloc(b.t, b.d, int64(z.denseRows*z.dim)*4).All()
	b.s.Run(&kernels.MatMul{X: x, Rows: z.denseRows, Terms: []kernels.Term{{W: list[0], Out: out}}})
	b.sync(b.s)
	fields := map[string]any{"type": kind.String(), "rows": z.denseRows, "outputs": z.dim,
		"inputs": z.dim, "detail": b.d.Info().Detail}
	for _, c := range b.d.DenseChoices() {
		if c.Type == kind.String() {
			fields["pieces"], fields["cublaslt_used"], fields["why_not"] = c.Pieces, c.Used, c.Why
			fields["seconds_own"], fields["seconds_cublaslt"] = c.Own.Seconds(), c.CuBLASLt.Seconds()
		}
	}
	b.record("dense product", fields)
	for _, s := range []kernels.Span{list[0].Data, x, out} {
		_ = s.Buffer.Free()
	}
}

func (b *bench) freeLayer(op *kernels.ExpertFFN) {
	for _, s := range []kernels.Span{op.X, op.Out, op.Experts[0].Gate.Data, op.Experts[0].Down.Data} {
		_ = s.Buffer.Free()
	}
}

// experts measures the grouped product of many rows; run.sh puts the rate of PyTorch beside it.
func (b *bench) experts(kind quant.Type) {
	op, flops := b.layer(kind)
	t, spread := b.seconds(func() { b.s.Run(op); b.sync(b.s) })
	z, rate := b.size, flops/t/1e12
	fields := map[string]any{"type": kind.String(), "experts": z.experts, "tokens_an_expert": z.tokens,
		"dim": z.dim, "width": z.width, "seconds_median": t, "seconds_spread": spread,
		"tflop_per_s": rate}
	if peer, err := strconv.ParseFloat(os.Getenv("MOERING_TORCH_TFLOPS"), 64); err == nil && peer > 0 {
		fields["torch_tflop_per_s"], fields["share_of_torch"] = peer, rate/peer
	}
	b.record("grouped expert product", fields)
	b.freeLayer(op)
}

// overlap streams a layer's weights into sections while kernels run on others: the time of both
// together, beside the longer of the two alone.
func (b *bench) overlap(kind quant.Type) {
	op, _ := b.layer(kind)
	z := b.size
	loader := newStream(b.t, b.d, "loader")
	slab, sections := pin(b.t, b.d, z.sectionBytes), alloc(b.t, b.d, 2*z.sectionBytes).All()
	part := *op
	compute := func(e int) {
		part.Experts = op.Experts[e%z.experts:][:1]
		b.s.Run(&part)
	}
	load := func(i int) {
		loader.Copy(sections.Slice(int64(i%2)*z.sectionBytes, z.sectionBytes), slab.All())
	}
	copyTime, _ := b.seconds(func() {
		for i := range z.sections {
			load(i)
		}
		b.sync(loader)
	})
	computeTime, _ := b.seconds(func() {
		for i := range z.sections {
			compute(i)
		}
		b.sync(b.s)
	})
	both, spread := b.seconds(func() {
		var released [2]kernels.Event
		for i := range z.sections {
			loader.Wait(released[i%2])
			load(i)
			b.s.Wait(loader.Record())
			compute(i)
			released[i%2] = b.s.Record()
		}
		b.sync(b.s, loader)
	})
	bytes := float64(z.sections) * float64(z.sectionBytes)
	b.record("copies under kernels", map[string]any{"type": kind.String(), "sections": z.sections,
		"section_bytes": z.sectionBytes, "seconds_copies": copyTime, "seconds_kernels": computeTime,
		"seconds_both": both, "seconds_both_spread": spread,
		"ratio_to_longer":  both / max(copyTime, computeTime),
		"share_of_copy_in": bytes / both / b.copyIn})
	b.freeLayer(op)
	_, _ = slab.Free(), sections.Buffer.Free()
}

// TestListDevices prints what the driver sees, for the head of a report.
func TestListDevices(t *testing.T) {
	list, err := Devices(library(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		fmt.Println(d)
	}
}
