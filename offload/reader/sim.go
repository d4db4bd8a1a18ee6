package reader

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// SimOptions are the faults of a simulated store. A probability of 0 turns a fault off, 1 makes it
// certain. What befalls a read depends on the seed, the number of its request, its place and how
// often it was tried, and not on the order in which goroutines run.
type SimOptions struct {
	Seed uint64
	// A read takes from LatencyMin up to LatencyMax; with a depth above 1, reads finish in an order
	// of their own. Some, by SlowP, take Slow on top.
	LatencyMin, LatencyMax time.Duration
	SlowP                  float64
	Slow                   time.Duration
	ShortP                 float64 // fewer bytes than asked for, at least one
	InterruptP             float64 // EINTR or EAGAIN
	ErrorP                 float64 // EIO
	TruncateP              float64 // the file ends before the read
	CorruptP               float64 // one bit of what was read is flipped
	HangP                  float64 // nothing happens until Close
}

// Faults counts what a simulated store did.
type Faults struct {
	Slow, Short, Interrupted, Errors, Truncated, Corrupted, Hung int64
}

// Sim is a store over real bytes with simulated faults, below the retries and continuations that
// all readers share.
type Sim struct {
	pool    *pool
	backing []io.ReaderAt
	sim     SimOptions
	stop    chan struct{}
	close   func() error

	slow, short, interrupted, errs, truncated, corrupted, hung atomic.Int64
}

// NewSim makes a store over the files in backing, which stay the caller's and must be safe for
// concurrent use, as io.ReaderAt demands.
func NewSim(backing []io.ReaderAt, sim SimOptions, o Options) (*Sim, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if sim.LatencyMin < 0 || sim.LatencyMax < 0 || sim.Slow < 0 {
		return nil, usageError("negative latency")
	}
	s := &Sim{backing: append([]io.ReaderAt(nil), backing...), sim: sim,
		stop: make(chan struct{})}
	s.pool = newPool(newQueue(numbered("simulated", len(backing)), Align, o), s, o.Depth)
	s.close = sync.OnceValue(func() error {
		close(s.stop)
		s.pool.close()
		return nil
	})
	return s, nil
}

// readAt is one read of the simulated device.
func (s *Sim) readAt(p *piece, buf []byte, offset int64) (int, error) {
	d := s.draw(p, offset)
	if d.chance(s.sim.HangP) {
		s.hung.Add(1)
		<-s.stop
		return 0, syscall.EIO
	}
	s.delay(&d)
	switch {
	case d.chance(s.sim.InterruptP):
		s.interrupted.Add(1)
		return 0, [2]error{syscall.EINTR, syscall.EAGAIN}[d.below(2)]
	case d.chance(s.sim.ErrorP):
		s.errs.Add(1)
		return 0, syscall.EIO
	case d.chance(s.sim.TruncateP):
		s.truncated.Add(1)
		return 0, nil
	case d.chance(s.sim.ShortP):
		s.short.Add(1)
		buf = buf[:1+d.below(uint64(len(buf)))]
	}
	n, err := s.backing[p.request.File].ReadAt(buf, offset)
	if n > 0 && d.chance(s.sim.CorruptP) {
		s.corrupted.Add(1)
		buf[d.below(uint64(n))] ^= 1 << d.below(8)
	}
	if n > 0 || errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// delay takes the time that the read takes, but no longer than until Close.
func (s *Sim) delay(d *draw) {
	wait := s.sim.LatencyMin
	if span := s.sim.LatencyMax - s.sim.LatencyMin; span > 0 {
		wait += time.Duration(d.below(uint64(span) + 1))
	}
	if d.chance(s.sim.SlowP) {
		s.slow.Add(1)
		wait += s.sim.Slow
	}
	if wait == 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.stop:
	}
}

// draw is a random sequence that belongs to one read: splitmix64 (Steele, Lea, Flood: "Fast
// splittable pseudorandom number generators", 2014).
type draw uint64

func (s *Sim) draw(p *piece, offset int64) draw {
	d := draw(s.sim.Seed)
	for _, v := range [...]uint64{p.request.state.number, uint64(p.request.File),
		uint64(offset), uint64(p.reads)} {
		d = draw(uint64(d) ^ v)
		d = draw(d.next())
	}
	return d
}

func (d *draw) next() uint64 {
	*d += 0x9E3779B97F4A7C15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// below returns a number under n.
func (d *draw) below(n uint64) uint64 { return d.next() % n }

// chance is true with probability p.
func (d *draw) chance(p float64) bool { return float64(d.next()>>11)/(1<<53) < p }

// Faults counts what was done so far.
func (s *Sim) Faults() Faults {
	return Faults{Slow: s.slow.Load(), Short: s.short.Load(), Interrupted: s.interrupted.Load(),
		Errors: s.errs.Load(), Truncated: s.truncated.Load(), Corrupted: s.corrupted.Load(),
		Hung: s.hung.Load()}
}

// Submit implements Reader.
func (s *Sim) Submit(r *Request) error { return s.pool.queue.push(r) }

// Close implements Reader. Hanging reads fail, delayed ones run at once.
func (s *Sim) Close() error { return s.close() }

// Stats implements Reader.
func (s *Sim) Stats() Stats { return s.pool.queue.snapshot() }

// Info implements Reader.
func (s *Sim) Info() string { return fmt.Sprintf("simulated store, %+v", s.sim) }

// Align implements Reader.
func (s *Sim) Align() int { return Align }
