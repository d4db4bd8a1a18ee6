//go:build cgo

package cuda

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/moering/moering/kernels"
)

// The mistakes that a GPU would answer with wrong numbers now and then are errors on the stand-in,
// every time.

// read enqueues a kernel that copies a section of n float32 values to out.
func read(s *stream, section, out, index *kernels.Buffer) {
	s.Run(&kernels.GatherRows{X: section.All(), Index: index.All(), Out: out.All(), Rows: 1,
		Dim: int(out.Bytes / 4)})
}

func TestAPlantedMissingWaitIsCaught(t *testing.T) {
	for _, wait := range []bool{true, false} {
		t.Run(fmt.Sprintf("waiting %v", wait), func(t *testing.T) {
			p := play(t)
			d := p.open(Options{})
			loader, compute := newStream(t, d, "loader"), newStream(t, d, "compute")
			section, in, out := alloc(t, d, 5000), pin(t, d, 5000), alloc(t, d, 5000)
			loader.Copy(section.All(), in.All())
			e := loader.Record()
			if wait {
				compute.Wait(e)
			}
			read(compute, section, out, alloc(t, d, 4))
			err := compute.Sync()
			if wait && err != nil {
				t.Error(err)
			} else if !wait {
				p.expect(err, "missing wait: kernel mr_gather_rows on stream 3 reads 5000 bytes")
			}
		})
	}
}

// A section is refilled while something that reads it may still run.
func TestAPlantedEarlyReuseOfASectionIsCaught(t *testing.T) {
	for _, wait := range []bool{true, false} {
		t.Run(fmt.Sprintf("waiting %v", wait), func(t *testing.T) {
			p := play(t)
			d := p.open(Options{})
			loader, compute := newStream(t, d, "loader"), newStream(t, d, "compute")
			section, in, out := alloc(t, d, 5000), pin(t, d, 5000), alloc(t, d, 5000)
			loader.Copy(section.All(), in.All())
			compute.Wait(loader.Record())
			read(compute, section, out, alloc(t, d, 4))
			released := compute.Record()
			if wait {
				loader.Wait(released)
			}
			loader.Copy(section.All(), in.All())
			err := errors.Join(loader.Sync(), compute.Sync())
			if wait && err != nil {
				t.Error(err)
			} else if !wait {
				p.expect(err, "missing wait: the copy to the device on stream 2 writes 5000 bytes")
			}
		})
	}
}

// A slab is refilled by the host while the copy that leaves from it has not run.
func TestAPlantedEarlyReuseOfASlabIsCaught(t *testing.T) {
	for _, wait := range []bool{true, false} {
		t.Run(fmt.Sprintf("waiting %v", wait), func(t *testing.T) {
			p := play(t)
			d := p.open(Options{})
			s := newStream(t, d, "loader")
			section, slab := alloc(t, d, 5000), pin(t, d, 5000)
			if !wait {
				p.ask("set hold %d", firstStream)
			}
			s.Copy(section.All(), slab.All())
			e := s.Record()
			if wait {
				if err := e.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			slab.Host[4321] = 1
			p.ask("set hold 0")
			err := s.Sync()
			if wait && err != nil {
				t.Error(err)
			} else if !wait {
				p.expect(err, "early reuse")
			}
		})
	}
}

// The host declares that it writes memory from which a copy has not been waited for.
func TestAPlantedEarlyReuseOfTheUploadAreaIsCaught(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s := newStream(t, d, "s")
	b := alloc(t, d, bounceBytes)
	from, _ := kernels.HostBuffer(bounceBytes)
	s.Copy(b.All(), from.All())
	s.Record()
	s.uploads.tail = s.uploads.head // as if the copies had run
	for range uploadBytesLeast / bounceBytes * 2 {
		s.Copy(b.All(), from.All())
		s.uploads.tail = s.uploads.head
		s.flush()
	}
	p.expect(s.Sync(), "missing wait: the host writes")
}

func TestAPlantedPageableCopyIsCaught(t *testing.T) {
	for name, kind := range map[string]kind{"known": pageable, "taken for locked": registered} {
		t.Run(name, func(t *testing.T) {
			p := play(t)
			d := p.open(Options{})
			s := newStream(t, d, "s")
			b := alloc(t, d, 5000)
			h, _ := kernels.HostBuffer(5000)
			d.remember(h, kind) // the second time a lie
			s.Copy(b.All(), h.All())
			err := s.Sync()
			if kind == pageable && err != nil {
				t.Error(err)
			} else if kind == registered {
				p.expect(err, "pageable")
			}
			d.forget(h)
		})
	}
}

// What a GPU would refuse at the launch, or answer with an illegal address.
func TestPlantedLaunchesThatAGPURefusesAreCaught(t *testing.T) {
	for want, spoil := range map[string]func(*launch){
		"blocks of 2048 threads":                  func(l *launch) { l.block[0] = 2048 },
		"a grid of 1 x 65536 x 1":                 func(l *launch) { l.grid[1] = 65536 },
		"49156 bytes of shared memory":            func(l *launch) { l.shared = sharedBytesMax + 4 },
		"bytes of arguments, the kernel has":      func(l *launch) { l.args = l.args[:len(l.args)-8] },
		"says nothing of the memory":              func(l *launch) { l.reads, l.writes = nil, nil },
		"which are not allocated":                 func(l *launch) { l.writes = []kernels.Span{beyond(l)} },
		"the block is not of the kernel's number": func(l *launch) { l.block[0] = 32 },
	} {
		t.Run(want, func(t *testing.T) {
			p := play(t)
			d := p.open(Options{})
			s := newStream(t, d, "s")
			x := alloc(t, d, 256).All()
			plan := planner{declare: true}
			launches := plan.plan(&kernels.RMSNorm{X: x, Out: x, Gain: alloc(t, d, 256).All(), Rows: 1,
				Dim: 64, Eps: 1}, nil)
			spoil(&launches[0])
			s.mu.Lock()
			err := s.launch(&launches[0])
			s.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			p.expect(s.Sync(), want)
		})
	}
}

// beyond returns memory that ends one byte behind what a launch may write.
func beyond(l *launch) kernels.Span {
	s := l.writes[0]
	s.Bytes++
	return s
}

func TestAnOpOnHostMemoryIsRefused(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s := newStream(t, d, "s")
	x, h := alloc(t, d, 256).All(), pin(t, d, 256).All()
	s.Run(&kernels.RMSNorm{X: x, Out: x, Gain: h, Rows: 1, Dim: 64, Eps: 1})
	if err := s.Sync(); !errors.Is(err, kernels.ErrDevice) ||
		!strings.Contains(err.Error(), "host memory") {
		t.Error(err)
	}
}

func TestMemoryFreedUnderACopyIsCaught(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s := newStream(t, d, "s")
	b, h := alloc(t, d, 5000), pin(t, d, 5000)
	s.Copy(b.All(), h.All())
	s.Record()
	_ = b.Free()
	p.expect(s.Sync(), "missing wait: cuMemFree")
}

func TestMemoryUsedAfterFreeIsCaught(t *testing.T) {
	p := play(t)
	d := p.open(Options{})
	s := newStream(t, d, "s")
	b, h := alloc(t, d, 5000), pin(t, d, 5000)
	if err := b.Free(); err != nil {
		t.Fatal(err)
	}
	d.remember(b, deviceMemory) // what the device itself would refuse
	s.Copy(b.All(), h.All())
	p.expect(s.Sync(), "not allocated device memory")
	d.forget(b)
}

func TestADeviceLostInMidStreamFailsEverythingAndClosesClean(t *testing.T) {
	for _, c := range []struct{ fail, want string }{
		{"fail cuMemcpyHtoDAsync 10 999", "the device is lost"},
		{"fail cuMemcpyDtoHAsync 10 719", "a kernel failed"},
		{"fail cuEventSynchronize 2 700", "illegal address"},
		{"fail cuEventQuery 3 214", "the device is lost"},
		{"fail cuStreamWaitEvent 5 702", "time limit"},
		{"fail cuEventRecord 7 46", "the device is lost"},
	} {
		t.Run(c.fail, func(t *testing.T) {
			p := play(t)
			d := p.open(Options{})
			a, b := newStream(t, d, "a"), newStream(t, d, "b")
			m, h := alloc(t, d, 5000), pin(t, d, 5000)
			p.ask("%s", c.fail)
			var last kernels.Event
			for range 20 {
				a.Wait(last)
				a.Copy(m.All(), h.All())
				b.Wait(a.Record())
				b.Copy(h.All(), m.All())
				last = b.Record()
				_ = last.Wait()
			}
			for name, err := range map[string]error{"event": last.Wait(), "a": a.Sync(),
				"b": b.Sync()} {
				if !errors.Is(err, kernels.ErrDevice) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v; it should say %q", name, err, c.want)
				}
			}
			if !last.Done() {
				t.Error("an event on a lost device never comes")
			}
			if _, err := d.Alloc(1); !errors.Is(err, kernels.ErrDevice) {
				t.Errorf("Alloc on a lost device: %v", err)
			}
			if err := errors.Join(m.Free(), h.Free(), d.Close()); err != nil {
				t.Errorf("closing a lost device: %v", err)
			}
			p.check()
			again := p.open(Options{})
			holds(t, download(t, again, alloc(t, again, 10)), 0)
		})
	}
}
