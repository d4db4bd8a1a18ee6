//go:build cgo

package cuda

import (
	"fmt"
	"sync"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/tests/fakecuda"
)

// played is a device of the planner and the player alone: it executes the launches of an op at
// once, with no driver between. Its memory is the host's, which it does not show.
type played struct {
	player *fakecuda.Player
	halves bool
	// force replaces the choice of a kernel for products; -1 leaves it.
	force int

	mu   sync.Mutex
	keep map[*kernels.Buffer]*kernels.Buffer
}

func openPlayed(t testing.TB) *played {
	t.Helper()
	p, err := fakecuda.OpenPlayer(fakecuda.BuildPlayer(t))
	if err != nil {
		t.Fatal(err)
	}
	return &played{player: p, force: -1, keep: make(map[*kernels.Buffer]*kernels.Buffer)}
}

func (d *played) Info() kernels.Info {
	return kernels.Info{Name: "played", MemoryBytes: 1 << 40}
}

// Alloc returns host memory whose bytes only Addr shows. It ends where the buffer does, rounded up
// to 16 bytes, as the device's does.
func (d *played) Alloc(bytes int64) (*kernels.Buffer, error) {
	b, err := kernels.HostBuffer(bytes)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	shown := &kernels.Buffer{Addr: b.Addr, Bytes: b.Bytes}
	d.keep[shown] = b
	shown.Free = func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.keep, shown)
		return nil
	}
	return shown, nil
}

func (d *played) Pin(bytes int64) (*kernels.Buffer, error) {
	b, err := kernels.HostBuffer(bytes)
	if err == nil {
		b.Free = func() error { return nil }
	}
	return b, err
}

func (d *played) Land(w kernels.Weight, memory kernels.Span) (kernels.Weight, error) {
	return w, kernels.ValidateLand(w, memory)
}

func (d *played) Close() error { return nil }

func (d *played) NewStream(string) (kernels.Stream, error) {
	return &playedStream{d: d, plan: planner{declare: true, halves: d.halves}}, nil
}

// playedStream runs everything at once, so that its events have always passed.
type playedStream struct {
	d       *played
	plan    planner
	err     error
	scratch []byte
	upload  []byte
	done    []launch
}

type playedEvent struct{ err error }

func (e playedEvent) Done() bool  { return true }
func (e playedEvent) Wait() error { return e.err }

func (s *playedStream) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *playedStream) Record() kernels.Event { return playedEvent{s.err} }
func (s *playedStream) Sync() error           { return s.err }
func (s *playedStream) Close() error          { return nil }
func (s *playedStream) Wait(e kernels.Event) {
	if e != nil && e.Wait() != nil {
		s.fail(e.Wait())
	}
}

func (s *playedStream) Copy(dst, src kernels.Span) {
	if s.err != nil {
		return
	}
	if err := kernels.ValidateCopy(dst, src); err != nil {
		s.fail(err)
		return
	}
	copy(s.d.bytes(dst), s.d.bytes(src))
}

// bytes returns a span's memory.
func (d *played) bytes(s kernels.Span) []byte {
	if s.Bytes == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.keep[s.Buffer]; b != nil {
		return b.Host[s.Offset:][:s.Bytes]
	}
	return s.Host()
}

// own returns a span of device memory of its own.
func (s *playedStream) own(bytes int64) kernels.Span {
	b, err := s.d.Alloc(max(bytes, 64))
	if err != nil {
		s.fail(err)
		return kernels.Span{}
	}
	return b.All()
}

func (s *playedStream) Run(op kernels.Op) {
	if s.err != nil {
		return
	}
	if err := kernels.Validate(op); err != nil {
		s.fail(err)
		return
	}
	need, err := s.plan.need(op)
	if err != nil {
		s.fail(err)
		return
	}
	s.plan.reset()
	s.plan.used = 0
	s.plan.scratch, s.plan.uploaded = s.own(need.scratch), s.own(need.upload)
	defer func() { s.fail2(s.plan.scratch.Buffer.Free(), s.plan.uploaded.Buffer.Free()) }()
	for i, b := 0, s.d.bytes(s.plan.scratch); i < len(b); i++ {
		b[i] = 0xFF // NaN: what is read before it is written shows
	}
	s.plan.upload = make([]byte, need.upload, need.upload+1)
	s.done = s.plan.plan(op, s.done[:0])
	if s.plan.used > need.upload {
		s.fail(fmt.Errorf("%T: took %d bytes of uploads, asked for %d", op, s.plan.used,
			need.upload))
		return
	}
	copy(s.d.bytes(s.plan.uploaded), s.plan.upload)
	for _, l := range s.done {
		s.launch(op, l)
	}
}

func (s *playedStream) fail2(errs ...error) {
	for _, err := range errs {
		if err != nil {
			s.fail(err)
		}
	}
}

func (s *playedStream) launch(op kernels.Op, l launch) {
	name := l.kernel.name()
	if want := s.d.player.ArgumentBytes(name); want != len(l.args) || l.shared > sharedBytesMax {
		s.fail(fmt.Errorf("%T: kernel %q takes %d bytes, given %d, %d shared", op, name, want,
			len(l.args), l.shared))
		return
	}
	if err := s.d.player.Launch(name, l.grid, l.block, l.shared, l.args); err != nil {
		s.fail(fmt.Errorf("%w: %T: %w", kernels.ErrDevice, op, err))
	}
}
