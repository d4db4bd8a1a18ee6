package conformance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

func memoryRound(dev, _ kernels.Device, rng *rand.Rand) error {
	info := dev.Info()
	if info.Name == "" || info.Unified != (info.MemoryBytes == 0) {
		return fmt.Errorf("info is %+v", info)
	}
	m := newMachine(dev, rng)
	for _, n := range []int64{1, 63, 64, 4096, 100_001} {
		b, p := m.keep(dev.Alloc(n)), m.keep(dev.Pin(n))
		if m.err != nil {
			break
		}
		if b.Bytes != n || b.Addr%64 != 0 || info.Unified != (b.Host != nil) {
			m.fail(fmt.Errorf("alloc of %d bytes: %d at %#x, host %v", n, b.Bytes, b.Addr,
				b.Host != nil))
		}
		if p.Bytes != n || int64(len(p.Host)) != n {
			m.fail(fmt.Errorf("pin of %d bytes: %d, %d for the host", n, p.Bytes, len(p.Host)))
		}
		for _, v := range m.download(b.All()) {
			if v != 0 {
				m.fail(fmt.Errorf("alloc of %d bytes: not zeroed", n))
				break
			}
		}
	}
	if _, err := dev.Alloc(-1); !errors.Is(err, kernels.ErrDevice) {
		m.fail(fmt.Errorf("alloc of -1 bytes: %v", err))
	}
	if _, err := dev.Pin(-1); !errors.Is(err, kernels.ErrDevice) {
		m.fail(fmt.Errorf("pin of -1 bytes: %v", err))
	}
	return m.close()
}

// copyRound takes bytes at any offset to the device, across it, and back.
func copyRound(dev, _ kernels.Device, rng *rand.Rand) error {
	m := newMachine(dev, rng)
	n := rng.Int64N(5000)
	from, to := rng.Int64N(100), rng.Int64N(100)
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	src, _ := m.place("source", data, from)
	dst, im := m.place("destination", make([]byte, n), to)
	im.from, im.to = dst.Offset, dst.Offset+n
	if m.err == nil {
		m.stream.Copy(dst, src)
	}
	for i, b := range m.download(dst) {
		if b != data[i] {
			m.fail(fmt.Errorf("%d bytes, offsets %d and %d: byte %d differs", n, from, to, i))
			break
		}
	}
	return m.close()
}

// failureRound: an op that cannot run fails its stream, keeps it failed, drops what follows, and
// leaves other streams alone.
func failureRound(dev, _ kernels.Device, rng *rand.Rand) error {
	m := newMachine(dev, rng)
	before, after := m.floats("before", []float32{1}), m.floats("after", []float32{2})
	m.read(before)
	s, err := dev.NewStream("failing")
	if m.fail(err); m.err != nil {
		return m.close()
	}
	if err := s.Sync(); err != nil {
		m.fail(fmt.Errorf("a new stream has failed: %w", err))
	}
	if rng.IntN(2) == 0 {
		s.Run(&kernels.RMSNorm{X: before, Out: before, Gain: before, Rows: 1, Dim: 1 << 20})
	} else {
		s.Copy(before, kernels.Span{Buffer: after.Buffer, Offset: after.Offset, Bytes: 2})
	}
	s.Copy(before, after)
	e := s.Record()
	for name, err := range map[string]error{"event": e.Wait(), "first sync": s.Sync(),
		"second sync": s.Sync()} {
		if !errors.Is(err, kernels.ErrDevice) {
			m.fail(fmt.Errorf("after a bad op, %s returns: %v", name, err))
		}
	}
	if !e.Done() {
		m.fail(errors.New("the event of a failed stream is not done after Wait"))
	}
	m.fail(errors.Join(s.Close(), s.Close()))
	return m.close() // finds that "before" is unchanged, through a stream that still works
}

// slots is the number of buffers that the event checks hand to and fro.
const slots = 2

// eventsRound has one stream write a buffer that the other reads, again and again; each waits for
// the other by events alone.
func eventsRound(dev, _ kernels.Device, rng *rand.Rand) error {
	m := newMachine(dev, rng)
	const steps, n = 40, 1000
	var rows [steps][]float32
	var inputs [steps]kernels.Span
	for i := range rows {
		rows[i] = gaussian(rng, n, 1)
		inputs[i] = m.floats("input", rows[i])
	}
	var section [slots]kernels.Span
	for i := range section {
		section[i] = m.changing("section", make([]float32, n))
	}
	out, zero := m.output("out", steps*n), m.ints("index", []int32{0})
	if m.err == nil {
		m.fail(m.stream.Sync())
	}
	loader, err := dev.NewStream("loader")
	if m.fail(err); m.err != nil {
		return m.close()
	}
	var released [slots]kernels.Event
	for i := range steps {
		k := i % slots
		loader.Wait(released[k]) // nil at first: complete
		loader.Copy(section[k], inputs[i])
		m.stream.Wait(loader.Record())
		m.stream.Run(&kernels.GatherRows{X: section[k], Index: zero,
			Out: out.Slice(int64(i*n*4), n*4), Rows: 1, Dim: n})
		released[k] = m.stream.Record()
	}
	m.fail(m.stream.Sync())
	for k := range released {
		if !released[k].Done() {
			m.fail(errors.New("an event is not done after Sync"))
		}
	}
	got := m.read(out)
	for i := range rows {
		if m.err == nil {
			if err := near(got[i*n:][:n], rows[i], 0); err != nil {
				m.fail(fmt.Errorf("step %d: %w", i, err))
			}
		}
	}
	m.fail(errors.Join(loader.Sync(), loader.Close()))
	return m.close()
}

// ringRound streams weights through a ring of sections, as the engine does: pinned slab, copy,
// land, multiply, release.
func ringRound(dev, oracle kernels.Device, rng *rand.Rand) error {
	const layers, dim = 8, 64
	kind := quant.Q4_0
	x := gaussian(rng, dim, 1)
	var weights [layers]*hostWeight
	for i := range weights {
		weights[i] = newWeight(rng, kind, dim, dim)
	}
	m := newMachine(dev, rng)
	loader, err := dev.NewStream("loader")
	if m.fail(err); m.err != nil {
		return m.close()
	}
	size := int64(len(weights[0].data))
	var section, slab [slots]*kernels.Buffer
	for k := range slots {
		section[k], slab[k] = m.keep(dev.Alloc(size)), m.keep(dev.Pin(size))
	}
	in, out := m.floats("X", x), m.output("Out", layers*dim)
	var released [slots]kernels.Event
	for i := 0; i < layers && m.err == nil; i++ {
		k := i % slots
		loader.Wait(released[k])
		m.fail(loader.Sync()) // the slab is free, and so is the section
		copy(slab[k].Host, weights[i].data)
		loader.Copy(section[k].All(), slab[k].All())
		m.fail(loader.Record().Wait())
		w, err := dev.Land(kernels.Weight{Data: section[k].All(), Type: kind, Rows: dim, Cols: dim},
			section[k].All())
		m.fail(err)
		m.run(&kernels.MatMul{X: in, Rows: 1, Exact: true,
			Terms: []kernels.Term{{W: w, Out: out.Slice(int64(i*dim*4), dim*4)}}})
		released[k] = m.stream.Record()
	}
	got := m.read(out)
	for i := 0; i < layers && m.err == nil; i++ {
		p := product{w: weights[i]}
		want := make([]float32, dim)
		for r := range want {
			want[r] = float32(weights[i].dot(r, x))
		}
		m.fail(near(got[i*dim:][:dim], want, p.tolerance(0, x, want, false)))
	}
	m.fail(errors.Join(loader.Sync(), loader.Close()))
	return m.close()
}

// togetherRound computes the same product on several streams at once, from several goroutines.
func togetherRound(dev, _ kernels.Device, rng *rand.Rand) error {
	const streams, repeats = 4, 10
	tr := matMulTrial(quant.Q8_0, false)(rng)
	pick := make([]int, tr.rows)
	for i := range pick {
		pick[i] = i
	}
	want, err := tr.on(dev, rng, pick)
	if err != nil {
		return err
	}
	var wait sync.WaitGroup
	var errs [streams]error
	for s := range streams {
		seed := rng.Uint64()
		wait.Go(func() {
			own := rand.New(rand.NewPCG(seed, uint64(s)))
			for range repeats {
				got, err := tr.on(dev, own, pick)
				if err == nil {
					err = sameBits(got, want, pick, tr.rows)
				}
				errs[s] = errors.Join(errs[s], err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs[:]...)
}
