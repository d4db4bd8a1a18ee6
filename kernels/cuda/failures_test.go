//go:build cgo

package cuda

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

var failureSeeds = flag.Int("failure-seeds", 2000, "seeds of injected driver failures")

// A program on a driver that fails: whatever call fails, with whatever code, each error wraps
// ErrDevice, everything is given back, and the process lives.
func TestInjectedFailuresAreErrorsAndLeakNothing(t *testing.T) {
	p := play(t)
	p.ask("delays 1 0 0")
	failed, uses := 0, [...]CuBLASLt{CuBLASLtOff, CuBLASLtOff, CuBLASLtOff, CuBLASLtFaster, CuBLASLtOff,
		CuBLASLtAlways}
	for seed := range uint64(*failureSeeds) {
		p.ask("chance %d %d", seed, 1000<<(seed%6)) // from one call in 1000 to one in 30
		err := program(library(t), rand.New(rand.NewPCG(seed, 2)), uses[seed%uint64(len(uses))])
		p.ask("chance 0 0")
		if err != nil {
			failed++
		}
		if t.Failed() || !p.sound(err) {
			t.Fatalf("seed %d", seed)
		}
	}
	if failed < *failureSeeds/4 || failed == *failureSeeds {
		t.Errorf("%d of %d programs failed: that tries little", failed, *failureSeeds)
	}
}

// Each call in turn fails: as a refusal, and as a failure that ends the context.
func TestEveryCallMayFail(t *testing.T) {
	for _, use := range []CuBLASLt{CuBLASLtOff, CuBLASLtFaster} {
		t.Run("cuBLASLt "+use.String(), func(t *testing.T) {
			p := play(t)
			p.ask("delays 1 0 0")
			before := p.calls()
			if err := program(library(t), rand.New(rand.NewPCG(1, 2)), use); err != nil {
				t.Fatal(err)
			}
			calls := p.calls() - before
			for n := 1; n <= calls; n++ {
				for _, code := range []int{2, 700} {
					p.ask("fail any %d %d", n, code)
					err := program(library(t), rand.New(rand.NewPCG(1, 2)), use)
					p.ask("fail any 0 0")
					if t.Failed() || !p.sound(err) {
						t.Fatalf("call %d of %d, code %d", n, calls, code)
					}
				}
			}
		})
	}
}

// sound reports a program's end that is as it should be.
func (p *standIn) sound(err error) bool {
	p.t.Helper()
	if err != nil && !errors.Is(err, kernels.ErrDevice) {
		p.t.Errorf("an error that is no ErrDevice: %v", err)
		return false
	}
	if v, live := p.ask("violations"), p.ask("live"); v != "" || live != nothing {
		p.t.Errorf("violations %q, left %q, after %v", v, live, err)
		return false
	}
	return true
}

// program opens a device, streams buffers through it, or multiplies by cuBLASLt, and closes everything.
// It returns the first error; without one, it has checked what arrived.
func program(library string, rng *rand.Rand, use CuBLASLt) error {
	if _, err := Devices(library); err != nil {
		return err
	}
	d, err := Open(Options{Library: library, CuBLASLt: use, CuBLASLtLibrary: library,
		HalfActivations: true})
	if err != nil {
		return err
	}
	if use == CuBLASLtOff {
		err = traffic(d, rng)
	} else {
		err = multiply(d)
	}
	return errors.Join(err, d.Close())
}

// traffic sends random bytes over two streams and back, a few times.
func traffic(d *Device, rng *rand.Rand) (err error) {
	var buffers []*kernels.Buffer
	defer func() {
		for _, b := range buffers {
			err = errors.Join(err, b.Free())
		}
	}()
	keep := func(b *kernels.Buffer, e error) *kernels.Buffer {
		if e != nil {
			err = errors.Join(err, e)
			return nil
		}
		buffers = append(buffers, b)
		return b
	}
	bytes := 1 + rng.Int64N(9000)
	a, b := keep(d.Alloc(bytes)), keep(d.Alloc(bytes))
	in, out := keep(d.Pin(bytes)), keep(d.Pin(bytes))
	if err != nil {
		return err
	}
	load, e := d.NewStream("load")
	if e != nil {
		return e
	}
	store, e := d.NewStream("store")
	if e != nil {
		return errors.Join(e, load.Close())
	}
	weights := keep(d.Alloc(1 << 16))
	if err != nil {
		return errors.Join(err, load.Close(), store.Close())
	}
	compute(store, weights)
	var released kernels.Event
	for round := range 4 {
		if released != nil && released.Wait() != nil {
			break
		}
		fill(in.Host, byte(round+1))
		load.Wait(released)
		load.Copy(a.All(), in.All())
		load.Copy(b.All(), a.All())
		store.Wait(load.Record())
		store.Copy(out.All(), b.All())
		released = store.Record()
		released.Done()
		if released.Wait() == nil && (out.Host[0] != byte(round+1) ||
			out.Host[bytes-1] != byte(round+1)) {
			err = fmt.Errorf("round %d brought %d", round, out.Host[0])
		}
	}
	return errors.Join(err, load.Sync(), store.Sync(), load.Close(), store.Close())
}

// multiply multiplies 64 rows of ones with ones.
func multiply(d *Device) (err error) {
	const rows, dim = denseRowsLeast, 8
	memory, err := d.Alloc(2*rows*dim*4 + 2*dim*dim)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.Free()) }()
	host, err := d.Pin(2*rows*dim*4 + 2*dim*dim)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Free()) }()
	s, err := d.NewStream("dense")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	x, weights := host.All().Slice(0, rows*dim*4), host.All().Slice(rows*dim*4, 2*dim*dim)
	for i := range rows * dim {
		x.Float32s()[i] = 1
	}
	for i := range dim * dim {
		weights.Host()[2*i], weights.Host()[2*i+1] = 0x80, 0x3F
	}
	s.Copy(memory.All(), host.All())
	w := kernels.Weight{Data: memory.All().Slice(rows*dim*4, 2*dim*dim), Type: quant.BF16, Rows: dim,
		Cols: dim}
	out := memory.All().Slice(rows*dim*4+2*dim*dim, rows*dim*4)
	for range 2 {
		s.Run(&kernels.MatMul{X: memory.All().Slice(0, rows*dim*4), Rows: rows, Terms: []kernels.Term{
			{W: w, Out: out}}})
	}
	s.Copy(host.All(), memory.All())
	if err := s.Sync(); err != nil {
		return err
	}
	if got := host.All().Float32s()[(rows*dim*4+2*dim*dim)/4+rows*dim/2]; got != dim {
		return fmt.Errorf("the product of ones is %v", got)
	}
	return nil
}

// compute runs ops that need the memory of a stream: scratch, and lists that are uploaded.
func compute(s kernels.Stream, memory *kernels.Buffer) {
	at := int64(0)
	take := func(bytes int64) kernels.Span {
		at += bytes
		return memory.All().Slice(at-bytes, bytes)
	}
	const dim = 32
	w := kernels.Weight{Data: take(dim * 34), Type: quant.Q8_0, Rows: dim, Cols: dim}
	x, y := take(4*dim*4), take(4*dim*4)
	s.Run(&kernels.MatMul{X: x, Rows: 1, Terms: []kernels.Term{{W: w, Out: y}}})
	s.Run(&kernels.ExpertFFN{X: x, Out: y, Dim: dim, Width: dim, Experts: []kernels.Expert{
		{Gate: w, Up: w, Down: w, Rows: []int32{0, 2, 3}, Slots: []int32{3, 1, 0}}}})
}
