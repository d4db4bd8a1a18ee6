package reader

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// Sim is a store over real bytes with simulated faults, below the retries and continuations that
// all readers share. One goroutine starts reads and lets them end in the order of their simulated
// times; a read writes to memory when it ends.
type Sim struct {
	queue   *queue
	backing []io.ReaderAt
	sim     SimOptions
	options Options
	kick    chan struct{} // wakes the goroutine
	ended   chan struct{}
	files   []*os.File // of OpenSim, closed at the end
	err     error
	clock   atomic.Int64 // nanoseconds since the store was opened, unless time is real
	counts  faultCounts

	// What follows belongs to the goroutine.
	reads  []simRead   // by piece
	moving []time.Time // by device, until when it moves bytes
	left   []int       // by fault, how many reads it still befalls; negative means all
}

// simRead is one read under way.
type simRead struct {
	draw  draw
	due   time.Time // when it ends
	hung  bool      // it does not
	fault *SimFault // the chosen one that befalls it
}

// NewSim makes a store over the files in backing, which stay the caller's and must be safe for
// concurrent use, as io.ReaderAt demands.
func NewSim(backing []io.ReaderAt, sim SimOptions, o Options) (*Sim, error) {
	s, err := newSim(backing, numbered("simulated", len(backing)), sim, o)
	if err != nil {
		return nil, err
	}
	go s.run()
	return s, nil
}

// OpenSim makes a store over the bytes of files, with the faults of o.Sim.
func OpenSim(names []string, o Options) (*Sim, error) {
	var sim SimOptions
	if o.Sim != nil {
		sim = *o.Sim
	}
	fs, err := openFiles(names, Options{Buffered: true, Logger: o.Logger, deviceOf: o.deviceOf})
	if err != nil {
		return nil, err
	}
	if sim.Devices == nil {
		for i := range fs {
			sim.Devices = append(sim.Devices, fs[i].device)
		}
	}
	if err := fs.close(); err != nil {
		return nil, err
	}
	var opened []*os.File
	var backing []io.ReaderAt
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, errors.Join(&Error{File: name, Cause: err}, closeAll(opened))
		}
		opened, backing = append(opened, f), append(backing, f)
	}
	s, err := newSim(backing, names, sim, o)
	if err != nil {
		return nil, errors.Join(err, closeAll(opened))
	}
	s.files = opened
	go s.run()
	return s, nil
}

// closeAll closes files.
func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// newSim makes a store without its goroutine.
func newSim(backing []io.ReaderAt, names []string, sim SimOptions, o Options) (*Sim, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := sim.check(len(backing)); err != nil {
		return nil, err
	}
	ids := sim.Devices
	if ids == nil {
		ids = make([]uint64, len(backing))
	}
	laneOf, devices, err := group(ids, o)
	if err != nil {
		return nil, err
	}
	s := &Sim{backing: append([]io.ReaderAt(nil), backing...), sim: sim,
		kick: make(chan struct{}, 1), ended: make(chan struct{}),
		moving: make([]time.Time, len(devices)), left: make([]int, len(sim.Faults))}
	for i, f := range sim.Faults {
		s.left[i] = f.Times
		if f.Times == 0 {
			s.left[i] = -1
		}
	}
	if !sim.RealTime {
		o.Now = s.now
	}
	s.options = o
	s.queue = newQueue(names, laneOf, devices, Align, o)
	s.queue.wake = func() {
		select {
		case s.kick <- struct{}{}:
		default: // it is being woken
		}
	}
	s.reads = make([]simRead, len(s.queue.pieces))
	return s, nil
}

// now is the simulated time.
func (s *Sim) now() time.Time { return time.Unix(0, s.clock.Load()) }

// run is the goroutine.
func (s *Sim) run() {
	defer close(s.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, over := s.step()
		switch {
		case over:
			s.err = closeAll(s.files)
			return
		case wait < 0:
			<-s.kick
		case wait > 0:
			timer.Reset(wait)
			select {
			case <-s.kick:
			case <-timer.C:
			}
		case !s.sim.RealTime:
			runtime.Gosched() // others may submit before time goes on
		}
	}
}

// step starts what can be started and lets the next event pass, if its time has come. It returns
// how long that will take: 0 when an event has passed, negative when there is none before something
// is submitted. The store is over when it was closed and nothing is under way.
func (s *Sim) step() (wait time.Duration, over bool) {
	for {
		p, closed := s.queue.take()
		if p == nil && closed {
			return s.finishAll(), true
		}
		if p == nil {
			break
		}
		s.begin(p)
	}
	p, at, expires := s.nextEvent()
	if p == nil {
		return -1, false
	}
	if left := at.Sub(s.queue.now()); left > 0 && s.sim.RealTime {
		return left, false
	} else if left > 0 {
		s.clock.Add(int64(left))
	}
	if expires {
		s.queue.strand(p, timeoutError(s.options.Timeout))
	} else {
		s.answer(p)
	}
	return 0, false
}

// nextEvent is the piece to which something happens next, and when: its read ends or, with expires,
// it is out of time.
func (s *Sim) nextEvent() (next *piece, at time.Time, expires bool) {
	for i := range s.reads {
		p, read := &s.queue.pieces[i], &s.reads[i]
		if p.request == nil {
			continue
		}
		if !read.hung && (next == nil || read.due.Before(at)) {
			next, at, expires = p, read.due, false
		}
		if s.options.Timeout > 0 && !p.stranded {
			limit := p.started.Add(s.options.Timeout)
			if next == nil || limit.Before(at) {
				next, at, expires = p, limit, true
			}
		}
	}
	return next, at, expires
}

// begin draws what becomes of the next read of the piece.
func (s *Sim) begin(p *piece) {
	read := &s.reads[p.id]
	buf, offset := p.target()
	r := p.request
	*read = simRead{draw: newDraw(s.sim.Seed, r.state.number, uint64(r.File), uint64(offset),
		uint64(p.reads))}
	d := &read.draw
	wait := s.sim.LatencyMin
	if span := s.sim.LatencyMax - s.sim.LatencyMin; span > 0 {
		wait += time.Duration(d.below(uint64(span) + 1))
	}
	if d.chance(s.sim.SlowP) {
		s.counts.slow.Add(1)
		wait += s.sim.Slow
	}
	hang, hangFor := d.chance(s.sim.HangP), s.sim.HangFor
	if f := s.chosen(r.File, offset, len(buf)); f != nil {
		read.fault = f
		switch f.Kind {
		case SimDelay:
			s.counts.slow.Add(1)
			wait += f.Delay
		case SimHang:
			hang, hangFor = true, f.Delay
		}
	}
	if hang {
		s.counts.hung.Add(1)
		wait += hangFor
		read.hung = hangFor == 0
	}
	now := s.queue.now()
	if s.sim.BytesPerSecond > 0 {
		from := s.moving[p.lane]
		if from.Before(now) {
			from = now
		}
		now = from.Add(time.Duration(float64(len(buf)) / s.sim.BytesPerSecond * 1e9))
		s.moving[p.lane] = now
	}
	read.due = now.Add(wait)
}

// chosen is the fault that befalls a read at this place, counted off.
func (s *Sim) chosen(file int, offset int64, n int) *SimFault {
	for i := range s.sim.Faults {
		f := &s.sim.Faults[i]
		if s.left[i] != 0 && f.touches(file, offset, n) {
			if s.left[i] > 0 {
				s.left[i]--
			}
			return f
		}
	}
	return nil
}

// answer ends the read of the piece, which may have been stranded, and begins the next if the piece
// is not complete.
func (s *Sim) answer(p *piece) {
	buf, offset := p.target()
	again, cause := p.advance(s.read(p, buf, offset))
	if again && !p.stranded {
		s.begin(p)
		return
	}
	s.queue.finish(p, cause)
}

// read is one read of the simulated device.
func (s *Sim) read(p *piece, buf []byte, offset int64) (int, error) {
	read := &s.reads[p.id]
	d, f := &read.draw, read.fault
	switch {
	case f != nil && f.Kind == SimEIO, read.hung:
		s.counts.errs.Add(1)
		return 0, syscall.EIO
	case d.chance(s.sim.InterruptP):
		s.counts.interrupted.Add(1)
		return 0, [2]error{syscall.EINTR, syscall.EAGAIN}[d.below(2)]
	case d.chance(s.sim.ErrorP):
		s.counts.errs.Add(1)
		return 0, syscall.EIO
	case d.chance(s.sim.TruncateP):
		s.counts.truncated.Add(1)
		return 0, nil
	case f != nil && f.Kind == SimShort:
		s.counts.short.Add(1)
		buf = buf[:max(1, min(int64(len(buf)), f.Offset-offset))]
	case d.chance(s.sim.ShortP):
		s.counts.short.Add(1)
		buf = buf[:1+d.below(uint64(len(buf)))]
	}
	n, err := s.backing[p.request.File].ReadAt(buf, offset)
	if n > 0 && d.chance(s.sim.CorruptP) {
		s.counts.corrupted.Add(1)
		buf[d.below(uint64(n))] ^= 1 << d.below(8)
	}
	if f != nil && f.Kind == SimFlip && f.Offset >= offset && f.Offset < offset+int64(n) {
		s.counts.corrupted.Add(1)
		buf[f.Offset-offset] ^= 1 << f.Bit
	}
	if n > 0 || errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// finishAll ends everything at once: what hangs fails, what is delayed is read.
func (s *Sim) finishAll() time.Duration {
	for i := range s.queue.pieces {
		for p := &s.queue.pieces[i]; p.request != nil; {
			s.answer(p)
		}
	}
	return 0
}

// Faults counts what was done so far.
func (s *Sim) Faults() Faults {
	c := &s.counts
	return Faults{Slow: c.slow.Load(), Short: c.short.Load(), Interrupted: c.interrupted.Load(),
		Errors: c.errs.Load(), Truncated: c.truncated.Load(), Corrupted: c.corrupted.Load(),
		Hung: c.hung.Load()}
}

// Submit implements Reader.
func (s *Sim) Submit(r *Request) error { return s.queue.push(r) }

// Cancel implements Reader.
func (s *Sim) Cancel(r *Request) bool { return s.queue.cancel(r) }

// Promote implements Reader.
func (s *Sim) Promote(r *Request, c Class) bool { return s.queue.promote(r, c) }

// Close implements Reader. Hanging reads fail, delayed ones run at once, so that nothing stays
// stranded.
func (s *Sim) Close() error {
	s.queue.shut()
	s.queue.drain()
	<-s.ended
	return s.err
}

// Stats implements Reader.
func (s *Sim) Stats() Stats { return s.queue.snapshot() }

// Info implements Reader.
func (s *Sim) Info() string { return fmt.Sprintf("simulated store, %v", s.sim) }

// Align implements Reader.
func (s *Sim) Align() int { return Align }
