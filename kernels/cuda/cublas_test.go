//go:build cgo

package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
)

// keeper frees at the end of a test what a table places.
type keeper struct {
	*Device
	t testing.TB
}

func (k keeper) Alloc(bytes int64) (*kernels.Buffer, error) { return alloc(k.t, k.Device, bytes), nil }
func (k keeper) Pin(bytes int64) (*kernels.Buffer, error)   { return pin(k.t, k.Device, bytes), nil }

// withCuBLASLt returns a device whose cuBLASLt is the stand-in, which is the driver's library too.
func (p *standIn) withCuBLASLt(o Options) *Device {
	p.t.Helper()
	o.CuBLASLtLibrary = library(p.t)
	if o.CuBLASLt == CuBLASLtOff {
		o.CuBLASLt = CuBLASLtAlways
	}
	return p.open(o)
}

// trial is a MatMul of one term, for several devices.
type trial struct {
	m            *matrixOf
	rows         int
	exact        bool
	bias, before []float32 // or nil
	x            []float32
}

func newTrial(rng *rand.Rand, kind quant.Type, rows, outputs, inputs int) *trial {
	return &trial{m: newMatrix(rng, kind, outputs, inputs), rows: rows, x: gaussian(rng, rows*inputs, 1)}
}

// on computes the first rows on a device.
func (c *trial) on(t *testing.T, d *Device, rows int, skew int64) []float32 {
	t.Helper()
	b := newTable(t, keeper{d, t})
	term := kernels.Term{W: c.m.on(b, skew), Out: b.out(rows * c.m.rows)}
	if c.bias != nil {
		term.Bias = b.floats(c.bias)
	}
	if c.before != nil {
		term.Accumulate, term.Out = true, b.floats(c.before[:rows*c.m.rows])
	}
	b.run(&kernels.MatMul{X: b.floats(c.x[:rows*c.m.cols]), Rows: rows, Exact: c.exact,
		Terms: []kernels.Term{term}})
	return b.read(term.Out)
}

// check compares a result with float64; what was added is taken off.
func (c *trial) check(t *testing.T, what string, got []float32, rounded bool) {
	t.Helper()
	n := c.m.rows
	for r := range len(got) / n {
		row := make([]float32, n)
		for o := range row {
			v := float64(got[r*n+o])
			if c.bias != nil {
				v -= float64(c.bias[o])
			}
			if c.before != nil {
				v -= float64(c.before[r*n+o])
			}
			row[o] = float32(v)
		}
		c.m.within(t, fmt.Sprintf("%s, row %d", what, r), row, c.x[r*c.m.cols:][:c.m.cols], rounded)
	}
}

// Products that cuBLASLt has are as accurate as those of the kernels here: float32 where activations
// are not rounded, whatever their size.
func TestCuBLASLtProductsAreWithinTheBounds(t *testing.T) {
	p := play(t)
	rng := rand.New(rand.NewPCG(15, 1))
	for _, halves := range []bool{false, true} {
		d := p.withCuBLASLt(Options{HalfActivations: halves})
		for _, kind := range []quant.Type{quant.F16, quant.BF16} {
			for i := range 6 {
				c := newTrial(rng, kind, 64+rng.IntN(20), 4*(1+rng.IntN(9)), 8*(1+rng.IntN(60)))
				c.exact = i%2 == 1
				if i%3 == 1 {
					c.bias = gaussian(rng, c.m.rows, 1)
				}
				if i%3 == 2 {
					c.before = gaussian(rng, c.rows*c.m.rows, 1)
				}
				if i >= 4 { // rows far beyond what a half holds, and far below
					for r := range c.rows {
						scale := float32(math.Ldexp(1, rng.IntN(120)-60))
						for k := range c.m.cols {
							c.x[r*c.m.cols+k] *= scale
						}
					}
					c.bias, c.before = nil, nil
				}
				got := c.on(t, d, c.rows, 0)
				c.check(t, fmt.Sprintf("%v, halves %v, trial %d", kind, halves, i), got,
					halves && !c.exact)
			}
		}
		used := 0
		for _, c := range d.DenseChoices() {
			if c.Used {
				used++
			}
		}
		if used < 8 {
			t.Errorf("halves %v: cuBLASLt had %d classes of products: %+v", halves, used, d.DenseChoices())
		}
	}
}

// Values that are no numbers stay so, and spoil no other row.
func TestCuBLASLtKeepsWhatIsNoNumber(t *testing.T) {
	p := play(t)
	d := p.withCuBLASLt(Options{})
	for _, kind := range []quant.Type{quant.F16, quant.BF16} {
		c := newTrial(rand.New(rand.NewPCG(15, 2)), kind, 64, 8, 32)
		for r, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0} {
			c.x[r*32+5] = float32(v)
			if v == 0 {
				clear(c.x[r*32:][:32])
			}
		}
		got := c.on(t, d, 64, 0)
		allNaN(t, kind.String(), got[:3*8])
		for i, v := range got[3*8 : 4*8] {
			if v != 0 {
				t.Errorf("%v: output %d of a row of zeros is %v", kind, i, v)
			}
		}
		c.x = c.x[4*32:]
		c.check(t, kind.String(), got[4*8:], false)
	}
}

// A dense feed-forward block is an ExpertFFN of one expert that has all rows: its three products are
// cuBLASLt's, the last of gated values.
func TestCuBLASLtHasADenseFeedForwardBlock(t *testing.T) {
	p := play(t)
	const rows, dim, width = 66, 64, 96
	for _, kind := range []quant.Type{quant.F16, quant.BF16} {
		rng := rand.New(rand.NewPCG(15, 3))
		gate, up := newMatrix(rng, kind, width, dim), newMatrix(rng, kind, width, dim)
		down, x := newMatrix(rng, kind, dim, width), gaussian(rng, rows*dim, 1)
		list := make([]int32, rows)
		for i := range list {
			list[i] = int32(i)
		}
		result := func(dev kernels.Device) []float32 {
			b := newTable(t, dev)
			op := &kernels.ExpertFFN{X: b.floats(x), Out: b.out(rows * dim), Dim: dim, Width: width,
				Exact: true, Experts: []kernels.Expert{{Gate: gate.on(b, 0), Up: up.on(b, 0),
					Down: down.on(b, 0), Rows: list, Slots: list}}}
			b.run(op)
			return b.read(op.Out)
		}
		oracle := ref.Open(ref.Options{})
		d := p.withCuBLASLt(Options{})
		got, want := result(keeper{d, t}), result(oracle)
		_ = oracle.Close()
		errs, norm := 0.0, 0.0
		for i := range want {
			errs += math.Pow(float64(got[i])-float64(want[i]), 2)
			norm += math.Pow(float64(want[i]), 2)
		}
		// Two float32 sums of up to 96 products, one after the other.
		if limit := 100.0 / (1 << 24); !(math.Sqrt(errs/norm) <= limit) {
			t.Errorf("%v: relative error %.3g, at most %.3g", kind, math.Sqrt(errs/norm), limit)
		}
		if c := d.DenseChoices(); len(c) != 2 || !c[0].Used || !c[1].Used {
			t.Errorf("%v: %+v", kind, c)
		}
	}
}

// Why it is no default: its bits depend on the neighbours. Without it they do not.
func TestCuBLASLtChangesBitsWithTheNeighbours(t *testing.T) {
	p := play(t)
	c := newTrial(rand.New(rand.NewPCG(15, 4)), quant.BF16, 66, 16, 256)
	for _, use := range []CuBLASLt{CuBLASLtOff, CuBLASLtAlways} {
		d := p.open(Options{CuBLASLt: use, CuBLASLtLibrary: library(t)})
		many, few := c.on(t, d, 66, 0), c.on(t, d, 65, 0)
		differ := false
		for i, v := range few {
			differ = differ || math.Float32bits(v) != math.Float32bits(many[i])
		}
		if differ != (use == CuBLASLtAlways) {
			t.Errorf("cuBLASLt %v: bits change with the neighbours: %v", use, differ)
		}
	}
}

// Where it is to be faster, the device measures both, once a class of shapes.
func TestCuBLASLtIsMeasured(t *testing.T) {
	const launch = 1000 // what a kernel costs on the stand-in, nanoseconds
	for product, used := range map[int]bool{600: true, 1500: false} {
		t.Run(fmt.Sprint(product, " ns"), func(t *testing.T) {
			p := play(t)
			p.ask("set launch_ns %d", launch)
			p.ask("set product_ns %d", product)
			d := p.withCuBLASLt(Options{CuBLASLt: CuBLASLtFaster, HalfActivations: true})
			trial := newTrial(rand.New(rand.NewPCG(15, 5)), quant.BF16, 100, 16, 64)
			for _, rows := range []int{100, 90} { // of one class
				trial.check(t, fmt.Sprint(rows, " rows"), trial.on(t, d, rows, 0), true)
			}
			want := DenseChoice{Type: "BF16", Pieces: 1, Rows: 128, Outputs: 16, Inputs: 64, Used: used,
				Own:      2 * launch,                      // mr_prepare, and a product
				CuBLASLt: time.Duration(launch + product)} // mr_split, and a product
			if got := d.DenseChoices(); len(got) != 1 || !near(got[0], want) {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// near allows the driver's milliseconds, which are float32, some nanoseconds.
func near(a, b DenseChoice) bool {
	const nanoseconds = 10
	own, theirs := a.Own-b.Own, a.CuBLASLt-b.CuBLASLt
	a.Own, a.CuBLASLt = b.Own, b.CuBLASLt
	return a == b && max(own, -own, theirs, -theirs) <= nanoseconds
}

// What is not for cuBLASLt stays with the kernels here, to the bit.
func TestProductsThatAreNotForCuBLASLt(t *testing.T) {
	p := play(t)
	with, without := p.withCuBLASLt(Options{}), p.open(Options{})
	for what, c := range map[string]struct {
		kind                  quant.Type
		rows, outputs, inputs int
		skew                  int64
	}{
		"few rows":        {quant.BF16, 63, 16, 64, 0},
		"odd inputs":      {quant.BF16, 64, 16, 60, 0},
		"odd outputs":     {quant.F16, 64, 18, 64, 0},
		"an odd address":  {quant.F16, 64, 16, 64, 2},
		"float32 weights": {quant.F32, 64, 16, 64, 0},
		"block formats":   {quant.Q8_0, 64, 16, 64, 0},
	} {
		trial := newTrial(rand.New(rand.NewPCG(15, 6)), c.kind, c.rows, c.outputs, c.inputs)
		want := trial.on(t, without, c.rows, c.skew)
		for i, v := range trial.on(t, with, c.rows, c.skew) {
			if math.Float32bits(v) != math.Float32bits(want[i]) {
				t.Fatalf("%s: value %d differs", what, i)
			}
		}
	}
	if c := with.DenseChoices(); len(c) != 0 {
		t.Errorf("%+v", c)
	}
}

// A library that is not there, is none, is of another version or does not start: the device says so,
// and computes.
func TestWithoutCuBLASLtTheDeviceSaysSo(t *testing.T) {
	for _, c := range []struct{ library, ask, want string }{
		{"libcublasLt-is-not-here.so.1", "", "cannot open"},
		{"libc.so.6", "", "missing entry point"},
		{"", "set cublas_major 10", "version 10.4; 11 to 13"},
		{"", "set cublas_major 14", "version 14.4; 11 to 13"},
		{"", "fail cublasLtGetProperty 1 7", "CUBLAS_STATUS_INVALID_VALUE"},
		{"", "fail cublasLtCreate 1 1", "CUBLAS_STATUS_NOT_INITIALIZED"},
		{"", "fail cublasLtCreate 1 99", "status 99"},
	} {
		t.Run(c.library+c.ask, func(t *testing.T) {
			p := play(t)
			o := Options{CuBLASLt: CuBLASLtAlways, CuBLASLtLibrary: c.library}
			if c.ask != "" {
				o.CuBLASLtLibrary = library(t)
				p.ask("%s", c.ask)
			}
			d := p.open(o)
			if s := d.Info().Detail; !strings.Contains(s, "no cuBLASLt") || !strings.Contains(s, c.want) {
				t.Errorf("%q does not say %q", s, c.want)
			}
			trial := newTrial(rand.New(rand.NewPCG(15, 7)), quant.BF16, 64, 8, 16)
			trial.check(t, c.want, trial.on(t, d, 64, 0), false)
		})
	}
	p := play(t)
	for major := 11; major <= 13; major++ {
		p.ask("set cublas_major %d", major)
		if s := p.withCuBLASLt(Options{}).Info().Detail; !strings.Contains(s,
			fmt.Sprintf("cuBLASLt %d.4.5 always", major)) {
			t.Errorf("version %d: %q", major, s)
		}
	}
	if s := p.open(Options{}).Info().Detail; strings.Contains(s, "cuBLASLt") {
		t.Errorf("not asked for: %q", s)
	}
}

// What the library refuses on the way to its first product is a reason to do without it.
func TestCuBLASLtFailuresFallBack(t *testing.T) {
	for i, ask := range []string{"fail cublasLtMatmulDescCreate 1 3",
		"fail cublasLtMatmulDescSetAttribute 1 7", "fail cublasLtMatrixLayoutCreate 1 3",
		"fail cublasLtMatrixLayoutCreate 2 3", "fail cublasLtMatrixLayoutCreate 3 3",
		"fail cublasLtMatmulPreferenceCreate 1 3", "fail cublasLtMatmulPreferenceSetAttribute 1 7",
		"fail cublasLtMatmulPreferenceSetAttribute 5 7", "fail cublasLtMatmulAlgoGetHeuristic 1 15",
		"fail cublasLtMatmul 1 8", "fail cublasLtMatmul 3 13", "set cublas_algorithms 0"} {
		t.Run(ask, func(t *testing.T) {
			p := play(t)
			d := p.withCuBLASLt(Options{CuBLASLt: CuBLASLtFaster + CuBLASLt(i%2)})
			p.ask("%s", ask)
			trial := newTrial(rand.New(rand.NewPCG(15, 8)), quant.BF16, 64, 8, 16)
			for range 2 {
				trial.check(t, ask, trial.on(t, d, 64, 0), false)
			}
			if c := d.DenseChoices(); len(c) != 1 || c[0].Used ||
				!strings.Contains(c[0].Why, "CUBLAS_STATUS") {
				t.Errorf("%+v", c)
			}
		})
	}
}

// Later, what was promised fails: an error that says whose it is, and nothing is left.
func TestCuBLASLtFailingLaterIsAnError(t *testing.T) {
	p := play(t)
	d := p.withCuBLASLt(Options{})
	trial := newTrial(rand.New(rand.NewPCG(15, 9)), quant.BF16, 64, 16, 64)
	trial.check(t, "before", trial.on(t, d, 64, 0), false)
	p.ask("fail cublasLtMatmul 2 14")
	b := newTable(t, keeper{d, t})
	b.s.Run(&kernels.MatMul{X: b.floats(trial.x), Rows: 64, Terms: []kernels.Term{
		{W: trial.m.on(b, 0), Out: b.out(64 * 16)}}})
	err := b.s.Sync()
	if !errors.Is(err, kernels.ErrDevice) ||
		!strings.Contains(err.Error(), "cuBLASLt fails: CUBLAS_STATUS_INTERNAL_ERROR") {
		t.Errorf("%v", err)
	}
	trial.check(t, "on another stream", trial.on(t, d, 64, 0), false)
}

// Device memory that is too short for cuBLASLt is enough without it.
func TestCuBLASLtGoesWhereMemoryIsShort(t *testing.T) {
	p := play(t)
	d := p.withCuBLASLt(Options{MemoryBytes: workspaceBytesBefore})
	trial := newTrial(rand.New(rand.NewPCG(15, 10)), quant.BF16, 64, 16, 64)
	trial.check(t, "in little memory", trial.on(t, d, 64, 0), false)
	if c := d.DenseChoices(); len(c) != 1 || c[0].Used || !strings.Contains(c[0].Why, "memory") {
		t.Errorf("%+v", c)
	}
	// What fits for the first rows of a class need not fit for more: 400 KB for the operands, and 540 of
	// scratch for 520 rows, 848 for 1000, 400 without cuBLASLt.
	d = p.withCuBLASLt(Options{MemoryBytes: 1000 << 10})
	d.cublas.workspace = 64 << 10
	trial = newTrial(rand.New(rand.NewPCG(15, 11)), quant.F16, 1000, 64, 32)
	s := newStream(t, d, "s")
	b := &table{t, keeper{d, t}, s}
	w := trial.m.on(b, 0)
	x, out := b.floats(trial.x), b.out(1000*64)
	for _, rows := range []int{520, 1000} {
		b.run(&kernels.MatMul{X: x, Rows: rows, Terms: []kernels.Term{{W: w, Out: out}}})
		if uses := s.plan.workspace > 0; uses != (rows == 520) {
			t.Errorf("%d rows: with cuBLASLt %v", rows, uses)
		}
		trial.check(t, fmt.Sprint(rows, " rows"), b.read(out)[:rows*64], false)
	}
}

// More shapes than plans are kept of.
func TestCuBLASLtForgetsPlans(t *testing.T) {
	p := play(t)
	p.ask("delays 1 0 0")
	d := p.withCuBLASLt(Options{})
	trial := newTrial(rand.New(rand.NewPCG(15, 12)), quant.BF16, 64+densePlansMost+9, 4, 8)
	s := newStream(t, d, "s")
	b := &table{t, keeper{d, t}, s}
	w, x := trial.m.on(b, 0), b.floats(trial.x)
	out := b.out(trial.rows * 4)
	for rows := 64; rows <= trial.rows; rows++ {
		s.Run(&kernels.MatMul{X: x, Rows: rows, Terms: []kernels.Term{{W: w, Out: out}}})
		if len(s.plan.dense) > densePlansMost {
			t.Fatalf("%d plans", len(s.plan.dense))
		}
	}
	trial.check(t, "the last", b.read(out), false)
	if n := len(s.plan.dense); n < 1 || n > 10 {
		t.Errorf("%d plans at the end", n)
	}
}

func TestCuBLASLtInSteadyStateAllocatesNothing(t *testing.T) {
	p := play(t)
	p.ask("delays 1 0 0")
	d := p.withCuBLASLt(Options{})
	trial := newTrial(rand.New(rand.NewPCG(15, 13)), quant.F16, 64, 8, 16)
	s := newStream(t, d, "s")
	b := &table{t, keeper{d, t}, s}
	op := &kernels.MatMul{X: b.floats(trial.x), Rows: 64, Terms: []kernels.Term{
		{W: trial.m.on(b, 0), Out: b.out(64 * 8)}}}
	step := func() {
		s.Run(op)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		step()
	}
	if n := testing.AllocsPerRun(50, step); n > 0 {
		t.Errorf("%v allocations a step", n)
	}
}

// What the library would answer with wrong numbers now and then is an error on the stand-in.
func TestPlantedMistakesWithCuBLASLtAreCaught(t *testing.T) {
	for want, spoil := range map[string]func(l *launch){
		"C is not aligned as was promised":                func(l *launch) { addTo(l, 2, 4) },
		"B is not aligned as was promised":                func(l *launch) { addTo(l, 1, 2) },
		"A has 2048 bytes at":                             func(l *launch) { addTo(l, 0, 1<<40) },
		"the workspace has 1048576 bytes at":              func(l *launch) { addTo(l, 3, 1<<40) },
		"missing wait: a product of cuBLASLt on stream 2": func(*launch) {},
	} {
		t.Run(want, func(t *testing.T) {
			p := play(t)
			d := p.withCuBLASLt(Options{})
			s, other := newStream(t, d, "s"), newStream(t, d, "other")
			b := &table{t, keeper{d, t}, s}
			trial := newTrial(rand.New(rand.NewPCG(15, 14)), quant.BF16, 64, 16, 64)
			op := &kernels.MatMul{X: b.floats(trial.x), Rows: 64, Terms: []kernels.Term{
				{W: trial.m.on(b, 0), Out: b.out(64 * 16)}}}
			b.run(op)
			section := op.Terms[0].W.Data
			other.Copy(section, pin(t, d, section.Bytes).All())
			if loaded := other.Record(); !strings.HasPrefix(want, "missing wait") {
				s.Wait(loaded)
			}
			for _, l := range s.plan.plan(op, nil) {
				if l.plan != nil {
					spoil(&l)
				}
				s.mu.Lock()
				err := s.launchAny(&l)
				s.mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
			}
			p.expect(s.Sync(), want)
		})
	}
}

// addTo adds to a word of a launch's arguments.
func addTo(l *launch, word int, n uint64) {
	at := l.args[8*word:]
	binary.NativeEndian.PutUint64(at, binary.NativeEndian.Uint64(at)+n)
}
