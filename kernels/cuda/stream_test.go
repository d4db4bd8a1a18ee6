//go:build cgo

package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// A chain of copies over several streams, ordered by events alone, arrives, however the streams are
// delayed.
func TestEventsOrderStreams(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	const bytes, streams = 3000, 3
	var line [streams]*stream
	for i := range line {
		line[i] = newStream(t, d, string(rune('a'+i)))
	}
	buffers := [2]*kernels.Buffer{alloc(t, d, bytes), alloc(t, d, bytes)}
	in, out := pin(t, d, bytes), pin(t, d, bytes)
	for seed := range uint64(20) {
		p.ask("delays %d 2 200", seed)
		rng := rand.New(rand.NewPCG(seed, 1))
		fill(in.Host, byte(seed+1))
		line[0].Copy(buffers[0].All(), in.All())
		last := line[0].Record()
		for step := range 20 {
			s := line[rng.IntN(streams)]
			s.Wait(last)
			s.Copy(buffers[(step+1)%2].All(), buffers[step%2].All())
			last = s.Record()
		}
		line[2].Wait(last)
		line[2].Copy(out.All(), buffers[0].All())
		last = line[2].Record()
		if err := last.Wait(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !last.Done() {
			t.Errorf("seed %d: not done after Wait", seed)
		}
		holds(t, out.Host, byte(seed+1))
	}
}

func TestAnEventIsNotDoneBeforeItsWork(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s := newStream(t, d, "s")
	b, h := alloc(t, d, 100), pin(t, d, 100)
	before := s.Record()
	if err := before.Wait(); err != nil {
		t.Fatal(err)
	}
	p.ask("set hold %d", firstStream)
	s.Copy(b.All(), h.All())
	e := s.Record()
	if e.Done() {
		t.Error("done while the stream is held")
	}
	if !before.Done() {
		t.Error("an event that has passed is not done any more")
	}
	p.ask("set hold 0")
	if err := e.Wait(); err != nil || !e.Done() {
		t.Errorf("done %v, %v", e.Done(), err)
	}
}

// Events of the driver are used again; that must not make a mark wait for later work.
func TestAMarkWaitsForNothingLater(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	a, b := newStream(t, d, "a"), newStream(t, d, "b")
	m, h := alloc(t, d, 100), pin(t, d, 100)
	other, hb := alloc(t, d, 100), pin(t, d, 100)
	p.ask("set hold %d", firstStream+1) // b
	b.Copy(other.All(), hb.All())
	held := b.Record()
	a.Copy(m.All(), h.All())
	first := a.Record()
	a.Wait(held)
	second := a.Record()
	p.within("a mark before a wait", first)
	if second.Done() {
		t.Error("a mark behind a wait is done")
	}
	p.ask("set hold 0")
	p.within("a mark behind a wait", second)

	a.Copy(m.All(), h.All())
	third := a.Record()
	b.Wait(third) // not handed over yet
	p.within("a mark", third)
	p.ask("set hold %d", firstStream) // a
	for range 3 {
		a.Copy(m.All(), h.All())
		a.Record()
	}
	b.Copy(other.All(), hb.All())
	p.within("what waited for the third mark", b.Record())
	p.ask("set hold 0")
	if err := errors.Join(a.Sync(), b.Sync()); err != nil {
		t.Error(err)
	}
}

// within waits for an event that must come soon, though a stream is held.
func (p *standIn) within(what string, e kernels.Event) {
	p.t.Helper()
	const patience = 20 * time.Second
	for end := time.Now().Add(patience); !e.Done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			p.ask("set hold 0") // or closing would wait for ever
			p.t.Fatalf("%s does not come", what)
		}
	}
	if err := e.Wait(); err != nil {
		p.t.Errorf("%s: %v", what, err)
	}
}

// The device may be closed while its streams are in use: they fail, and nothing else happens.
func TestTheDeviceClosesUnderUse(t *testing.T) {
	p := play(t)
	for seed := range uint64(8) {
		p.ask("delays %d 4 100", seed)
		d := p.open(Options{})
		var work sync.WaitGroup
		for w := range 3 {
			s := newStream(t, d, "worker")
			memory, host := alloc(t, d, 1<<16), alloc(t, d, 1<<16)
			from, _ := kernels.HostBuffer(bounceBytes)
			to := alloc(t, d, bounceBytes)
			work.Go(func() {
				var err error
				for err == nil {
					switch w {
					case 0:
						compute(s, memory)
						err = s.Sync()
					case 1:
						s.Copy(to.All(), from.All())
						err = s.Record().Wait()
					default:
						for range 3 * flyingMax / 2 {
							s.Record()
						}
						s.Copy(memory.All(), host.All())
						err = s.Sync()
					}
				}
				if !errors.Is(err, kernels.ErrDevice) {
					t.Errorf("seed %d, worker %d: %v", seed, w, err)
				}
			})
		}
		time.Sleep(time.Duration(seed) * 500 * time.Microsecond)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		work.Wait()
	}
}

func TestCloseFinishesTheWork(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s, m, in, out := newStream(t, d, "s"), alloc(t, d, 100), pin(t, d, 100), pin(t, d, 100)
	fill(in.Host, 7)
	s.Copy(m.All(), in.All())
	s.Copy(out.All(), m.All())
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	holds(t, out.Host, 7)
}

// The driver refuses a command; when the event has passed, nothing before it is under way.
func TestARefusedCommandIsWaitedFor(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s, m, h := newStream(t, d, "s"), alloc(t, d, 100), pin(t, d, 100)
	p.ask("fail cuMemcpyHtoDAsync 2 1")
	s.Copy(m.All(), h.All())
	s.Copy(m.All(), h.All())
	if err := s.Record().Wait(); !errors.Is(err, kernels.ErrDevice) {
		t.Errorf("the event's error is %v", err)
	}
	if err := errors.Join(m.Free(), h.Free()); err != nil { // the stand-in knows if it is too early
		t.Error(err)
	}
}

func TestABatchThatIsFullIsHandedOverEarly(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s := newStream(t, d, "s")
	b, h := alloc(t, d, 4*commandsMax), pin(t, d, 4*commandsMax)
	for i := range h.Host {
		h.Host[i] = byte(i * 7)
	}
	for i := range h.Bytes { // several batches of copies of one byte
		s.Copy(b.All().Slice(i, 1), h.All().Slice(i, 1))
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	for i, v := range download(t, d, b) {
		if v != byte(i*7) {
			t.Fatalf("byte %d is %d", i, v)
		}
	}
}

func TestFailureSticksToItsStreamAndPassesOnByWait(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	bad, other, good := newStream(t, d, "bad"), newStream(t, d, "other"), newStream(t, d, "good")
	b, h := alloc(t, d, 100), pin(t, d, 100)
	bad.Copy(b.All().Slice(0, 50), h.All())
	e := bad.Record()
	other.Wait(e)
	for name, err := range map[string]error{"event": e.Wait(), "stream": bad.Sync(),
		"waiter": other.Sync()} {
		if !errors.Is(err, kernels.ErrDevice) || !strings.Contains(err.Error(), `stream "bad"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good.Copy(b.All(), h.All())
	if err := good.Sync(); err != nil {
		t.Errorf("a stream that has nothing to do with it: %v", err)
	}
}

func TestCopyRefusesWhatItCannotReach(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	b, h := alloc(t, d, 100), pin(t, d, 100)
	freed, _ := d.Alloc(100)
	if err := freed.Free(); err != nil {
		t.Fatal(err)
	}
	for name, spans := range map[string][2]kernels.Span{
		"host to host":    {h.All().Slice(0, 50), h.All().Slice(50, 50)},
		"freed":           {freed.All(), h.All()},
		"strange":         {{Buffer: &kernels.Buffer{Addr: 4096, Bytes: 100}, Bytes: 100}, h.All()},
		"out of bounds":   {{Buffer: b, Offset: 1, Bytes: 100}, h.All()},
		"of unequal size": {b.All().Slice(0, 99), h.All()},
		"overlapping":     {b.All().Slice(0, 50), b.All().Slice(49, 50)},
	} {
		s := newStream(t, d, name)
		s.Copy(spans[0], spans[1])
		if err := s.Sync(); !errors.Is(err, kernels.ErrDevice) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Memory that the driver has not locked passes through memory that it has.
func TestPageableMemoryIsCopiedThroughLockedMemory(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s := newStream(t, d, "s")
	const bytes = 3*bounceBytes + 77
	b := alloc(t, d, bytes)
	p.ask("fail cuMemHostRegister 1 2")
	h := pin(t, d, bytes)
	if h.Locked {
		t.Fatal("locked, though the driver refused")
	}
	for i := range h.Host {
		h.Host[i] = byte(i * 31)
	}
	back, err := kernels.HostBuffer(bytes) // of no device
	if err != nil {
		t.Fatal(err)
	}
	s.Copy(b.All(), h.All())
	fill(h.Host, 0) // it may change at once
	s.Copy(back.All(), b.All())
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	for i, v := range back.Host {
		if v != byte(i*31) {
			t.Fatalf("byte %d is %d", i, v)
		}
	}
}

// Streams are used from several goroutines, marks from others; the device closes among them.
func TestHammerStreamsAndMarks(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	const workers, steps, bytes = 4, 60, 4096
	marks := make(chan kernels.Event, workers*steps)
	var work, wait sync.WaitGroup
	for w := range workers {
		b, in, out := alloc(t, d, bytes), pin(t, d, bytes), pin(t, d, bytes)
		s := newStream(t, d, "worker")
		work.Go(func() {
			for i := range steps {
				fill(in.Host, byte(w*steps+i))
				s.Copy(b.All(), in.All())
				marks <- s.Record()
				s.Copy(out.All(), b.All())
				e := s.Record()
				marks <- e
				if err := e.Wait(); err != nil {
					t.Error(err)
				}
				if out.Host[0] != byte(w*steps+i) || out.Host[bytes-1] != byte(w*steps+i) {
					t.Errorf("worker %d, step %d: %d", w, i, out.Host[0])
				}
			}
		})
	}
	for range 2 {
		wait.Go(func() {
			for e := range marks {
				e.Done()
				if err := e.Wait(); err != nil || !e.Done() {
					t.Errorf("done %v, %v", e.Done(), err)
				}
			}
		})
	}
	work.Wait()
	close(marks)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	wait.Wait()
}

// A decode step of ops allocates nothing, neither in Go nor on the device.
func TestOpsInSteadyStateAllocateNothing(t *testing.T) {
	p := play(t)
	p.ask("delays 1 0 0")
	d := p.open(Options{})
	s := newStream(t, d, "s")
	const dim = 64
	f := func(n int64) kernels.Span { return alloc(t, d, 4*n).All() }
	w := kernels.Weight{Data: alloc(t, d, dim*dim/32*34).All(), Type: quant.Q8_0, Rows: dim, Cols: dim}
	x, y, z := f(4*dim), f(4*dim), f(8*dim)
	norm := &kernels.RMSNorm{X: x, Out: y, Gain: f(dim), Rows: 4, Dim: dim, Eps: 1}
	product := &kernels.MatMul{X: y, Rows: 4, Terms: []kernels.Term{{W: w, Out: x}, {W: w, Out: z}}}
	experts := &kernels.ExpertFFN{X: x, Out: z, Dim: dim, Width: dim, Experts: []kernels.Expert{
		{Gate: w, Up: w, Down: w, Rows: []int32{0, 2}, Slots: []int32{7, 1}},
		{Gate: w, Up: w, Down: w, Rows: []int32{3, 1}, Slots: []int32{0, 3}}}}
	step := func() {
		for range 3 {
			s.Run(norm)
			s.Run(product)
			s.Run(experts)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		step()
	}
	before := p.ask("live")
	if n := testing.AllocsPerRun(50, step); n > 0 {
		t.Errorf("%v allocations a step", n)
	}
	if after := p.ask("live"); after != before {
		t.Errorf("on the device: %s, before %s", after, before)
	}
}

// Lists of the host reach the kernels by a kernel that fetches them, or by a copy.
func TestListsReachKernelsBothWays(t *testing.T) {
	for _, pointer := range []int{1, 0} {
		t.Run(fmt.Sprint("host pointer ", pointer), func(t *testing.T) {
			p := play(t)
			p.ask("set host_pointer %d", pointer)
			d := p.open(Options{})
			d.spin = 1_000_000 // and waits may spin
			s := newStream(t, d, "s")
			const dim, rows = 32, 5
			w := kernels.Weight{Data: alloc(t, d, dim*dim*4).All(), Type: quant.F32, Rows: dim, Cols: dim}
			in, out := pin(t, d, dim*dim*4), pin(t, d, rows*dim*4)
			for i := range dim { // the identity
				in.All().Float32s()[i*dim+i] = 1
			}
			s.Copy(w.Data, in.All())
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			for i := range rows * dim {
				in.All().Float32s()[i] = float32(1 + i/dim)
			}
			x, y := alloc(t, d, rows*dim*4).All(), alloc(t, d, rows*dim*4).All()
			s.Copy(x, in.All().Slice(0, rows*dim*4))
			pick, slots := []int32{4, 0, 2}, []int32{1, 4, 0}
			s.Run(&kernels.ExpertFFN{X: x, Out: y, Dim: dim, Width: dim, Exact: true,
				Experts: []kernels.Expert{{Gate: w, Up: w, Down: w, Rows: pick, Slots: slots}}})
			clear(pick) // copied
			s.Copy(out.All(), y)
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			for slot, v := range map[int]float64{1: 5, 4: 1, 0: 3} {
				want := v * v / (1 + math.Exp(-v)) // down(silu(gate x) * up x)
				if got := float64(out.All().Float32s()[slot*dim]); math.Abs(got-want) > 1e-4*want {
					t.Errorf("slot %d is %v, must be %v", slot, got, want)
				}
			}
		})
	}
}

// The upload area is small beside what passes through it, so that it goes round.
func TestTheUploadAreaGoesRound(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s := newStream(t, d, "s")
	b, back := alloc(t, d, bounceBytes), pin(t, d, bounceBytes)
	from, _ := kernels.HostBuffer(bounceBytes)
	for i := range 5 * uploadBytesLeast / bounceBytes {
		fill(from.Host, byte(i))
		s.Copy(b.All(), from.All())
		s.Record()
		if i%11 == 0 {
			s.Copy(back.All(), b.All())
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
			holds(t, back.Host, byte(i))
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if s.uploads.size != uploadBytesLeast {
		t.Errorf("the area has grown to %d bytes", s.uploads.size)
	}
}

func TestCopiesAndMarksAllocateNothing(t *testing.T) {
	p := play(t)
	p.ask("delays 1 0 0")
	d := p.open(Options{})
	s, other := newStream(t, d, "s"), newStream(t, d, "other")
	b, h := alloc(t, d, 100), pin(t, d, 100)
	step := func() {
		s.Copy(b.All(), h.All())
		e := s.Record()
		other.Wait(e)
		other.Copy(h.All(), b.All())
		back := other.Record()
		s.Wait(back)
		if err := back.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * flyingMax {
		step()
	}
	// Marks come in chunks, so that two steps in marksChunk allocate.
	if n := testing.AllocsPerRun(4*marksChunk, step); n > 0 {
		t.Errorf("%v allocations a step", n)
	}
}
