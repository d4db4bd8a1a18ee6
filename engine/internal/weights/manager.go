// Package weights is where the scheduler's decisions and the loader meet: Acquire asks for the expert
// groups of a layer and hands out leases on them as they become ready.
package weights

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/ring"
)

// Bounds on fills that are under way: demand may use the reader's whole depth and a little more, so
// that it never runs dry; prediction only what demand leaves idle.
const (
	fillsMax     = 8
	predictedMax = 2
)

// Counters are the manager's figures since it was made.
type Counters struct {
	BytesRead, Reads, Hits, Late, Misses, Prefetched, PrefetchUseful int64
	Wait                                                             time.Duration
}

// fill is one section's way from disk to ready. There is one a section, reused.
type fill struct {
	m         *Manager
	section   int
	group     int
	predicted bool // and not asked for yet
	parts     [3]part
	left      int   // parts not read yet; with failed guarded by partsMu until the last is in
	failed    error // the first part's failure
	err       error // why the fill ended without a group; guarded by mu
}

// part is one weight of a group: its request and its place in the section.
type part struct {
	request reader.Request
	memory  kernels.Span // the aligned hull
	weight  kernels.Weight
}

// Manager owns the sections. Acquire is called by one goroutine at a time; the rest is internally
// locked.
type Manager struct {
	device  kernels.Device
	reader  reader.Reader
	experts []arch.Expert
	memory  kernels.Span
	bytes   int64 // of a section

	mu        sync.Mutex
	changed   sync.Cond
	ring      *ring.Ring
	fills     []fill
	demand    []int // groups wanted and not started, first wanted first
	predicted []int
	busy      int // fills under way
	predBusy  int
	counters  Counters
	closed    bool

	partsMu sync.Mutex // guards left and failed of fills while their parts are read
	landing chan *fill
	landers sync.WaitGroup
	acq     Acquisition
}

// SectionBytes is the size of a section that holds any of the groups: each weight as its hull.
func SectionBytes(experts []arch.Expert) int64 {
	var most int64
	for i := range experts {
		var n int64
		for _, p := range experts[i].Parts() {
			_, length, _ := reader.Hull(p.Extent.Offset, p.Extent.Size, reader.Align)
			n += length
		}
		most = max(most, n)
	}
	return most
}

// New makes a manager over memory for the given number of sections, aligned to reader.Align. It owns
// neither device, reader nor memory.
func New(d kernels.Device, r reader.Reader, experts []arch.Expert, memory kernels.Span,
	sections, cache int, policy ring.Policy) *Manager {
	m := &Manager{device: d, reader: r, experts: experts, memory: memory,
		bytes: SectionBytes(experts), ring: ring.New(sections, cache, len(experts), policy),
		fills: make([]fill, sections), landing: make(chan *fill, sections)}
	m.changed.L = &m.mu
	for i := range m.fills {
		f := &m.fills[i]
		f.m, f.section = m, i
		for j := range f.parts {
			f.parts[j].request.Tag = f
			f.parts[j].request.Done = partDone
		}
	}
	m.landers.Go(m.land)
	return m
}

// Close waits for reads under way. Every lease must be back.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	m.demand, m.predicted = nil, nil
	for m.busy > 0 {
		m.changed.Wait()
	}
	leased := m.ring.Leased()
	m.mu.Unlock()
	close(m.landing)
	m.landers.Wait()
	if leased > 0 {
		return fmt.Errorf("weights: %d leases are not back", leased)
	}
	return nil
}

// Counters returns the figures so far.
func (m *Manager) Counters() Counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counters
}

// Lease is a group in memory. It is valid until the event given to Computed has passed.
type Lease struct {
	Group          int
	Gate, Up, Down kernels.Weight
}

// Acquisition is the groups of one layer, on their way. The manager has one, reused.
type Acquisition struct {
	m        *Manager
	pending  []int // groups not handed out yet
	handed   []int // sections handed out and not yet computed
	retiring []int // sections whose kernels were started
	event    kernels.Event
	leases   []Lease
}

// Acquire asks for groups. Those in memory come first from Next; the rest is read at once.
func (m *Manager) Acquire(groups []int) *Acquisition {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &m.acq
	a.m = m
	a.pending = append(a.pending[:0], groups...)
	m.predicted = m.predicted[:0]
	for _, g := range groups {
		m.ring.Use(g)
		i, isReady := m.ring.Find(g)
		switch {
		case i == ring.None:
			m.counters.Misses++
			m.demand = append(m.demand, g)
			continue
		case isReady:
			m.counters.Hits++
		default:
			m.counters.Late++
		}
		if f := &m.fills[i]; f.predicted {
			f.predicted = false
			m.counters.PrefetchUseful++
			if !isReady {
				m.predBusy--
			}
		}
		m.ring.Lease(i)
	}
	m.pump()
	return a
}

// Predict names groups that may be wanted next. They are read only while no demand waits, and the
// next Acquire forgets those that have not started.
func (m *Manager) Predict(groups []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.predicted = append(m.predicted[:0], groups...)
	m.pump()
}

// pump starts reads: demand first, then predictions into idle bandwidth.
func (m *Manager) pump() {
	for len(m.demand) > 0 && m.busy < fillsMax && !m.closed {
		i := m.ring.Claim(m.demand[0])
		if i == ring.None {
			return
		}
		m.ring.Lease(i) // for the acquisition that waits for it
		m.start(i, m.demand[0], false)
		m.demand = m.demand[:copy(m.demand, m.demand[1:])]
	}
	for len(m.demand) == 0 && len(m.predicted) > 0 && m.busy < fillsMax &&
		m.predBusy < predictedMax && !m.closed {
		g := m.predicted[0]
		m.predicted = m.predicted[:copy(m.predicted, m.predicted[1:])]
		if i, _ := m.ring.Find(g); i != ring.None {
			continue
		}
		i := m.ring.Claim(g)
		if i == ring.None {
			return
		}
		m.predBusy++
		m.counters.Prefetched++
		m.start(i, g, true)
	}
}

// start submits the reads of a group into a section.
func (m *Manager) start(section, group int, predicted bool) {
	f := &m.fills[section]
	f.group, f.predicted, f.err, f.failed = group, predicted, nil, nil
	m.busy++
	at := int64(section) * m.bytes
	f.left = len(f.parts)
	for j, p := range m.experts[group].Parts() {
		q := &f.parts[j]
		offset, length, skip := reader.Hull(p.Extent.Offset, p.Extent.Size, reader.Align)
		q.memory = m.memory.Slice(at, length)
		q.weight = kernels.Weight{Data: q.memory.Slice(skip, p.Extent.Size), Type: p.Type,
			Rows: p.Rows, Cols: p.Cols}
		q.request.File, q.request.Offset = p.Extent.File, offset
		q.request.Buf, q.request.Need = q.memory.Host(), int(skip+p.Extent.Size)
		q.request.Label = p.Name
		at += length
		m.counters.Reads++
		m.counters.BytesRead += length
	}
	for j := range f.parts {
		if err := m.reader.Submit(&f.parts[j].request); err != nil {
			partDone(&f.parts[j].request, err)
		}
	}
}

// partDone runs on the reader's goroutine, or under the manager's lock where Submit refused; the
// last part hands the group to a lander. The channel has room for every section.
func partDone(r *reader.Request, err error) {
	f := r.Tag.(*fill)
	f.m.partsMu.Lock()
	if err != nil && f.failed == nil {
		f.failed = err
	}
	f.left--
	last := f.left == 0
	f.m.partsMu.Unlock()
	if last {
		f.m.landing <- f
	}
}

// land turns groups into the device's layout and declares them ready.
func (m *Manager) land() {
	for f := range m.landing {
		err := f.failed
		for j := range f.parts {
			if p := &f.parts[j]; err == nil {
				p.weight, err = m.device.Land(p.weight, p.memory)
			}
		}
		m.mu.Lock()
		m.busy--
		if f.predicted {
			m.predBusy--
		}
		if f.err = err; err == nil {
			m.ring.Ready(f.section)
		}
		m.pump()
		m.changed.Broadcast()
		m.mu.Unlock()
	}
}

// Next returns groups that became ready, at least one, valid until the next call; nil when all were
// handed out. While it waits for reads it helps computing what was started.
func (a *Acquisition) Next(ctx context.Context) ([]Lease, error) {
	m := a.m
	stop := context.AfterFunc(ctx, func() { m.mu.Lock(); m.changed.Broadcast(); m.mu.Unlock() })
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := a.take(); err != nil || len(a.leases) > 0 || len(a.pending) == 0 {
			return a.leases, err
		}
		if len(a.retiring) > 0 {
			m.mu.Unlock()
			err := a.event.Wait()
			m.mu.Lock()
			a.retire()
			if err != nil {
				return nil, err
			}
			continue
		}
		start := time.Now()
		m.changed.Wait()
		m.counters.Wait += time.Since(start)
	}
}

// take moves what is ready from pending to leases.
func (a *Acquisition) take() error {
	a.leases = a.leases[:0]
	kept := a.pending[:0]
	for _, g := range a.pending {
		i, isReady := a.m.ring.Find(g)
		if i == ring.None || !isReady {
			if i != ring.None && a.m.fills[i].err != nil {
				return a.m.fills[i].err
			}
			kept = append(kept, g)
			continue
		}
		f := &a.m.fills[i]
		a.leases = append(a.leases, Lease{Group: g, Gate: f.parts[0].weight, Up: f.parts[1].weight,
			Down: f.parts[2].weight})
		a.handed = append(a.handed, i)
	}
	a.pending = kept
	return nil
}

// Computed says that the kernels which read the leases handed out so far precede the event.
func (a *Acquisition) Computed(e kernels.Event) {
	a.retiring = append(a.retiring, a.handed...)
	a.handed, a.event = a.handed[:0], e
}

// retire gives sections back whose kernels are done.
func (a *Acquisition) retire() {
	for _, i := range a.retiring {
		a.m.ring.Release(i)
	}
	a.retiring = a.retiring[:0]
	a.m.pump()
}

// Release gives every lease back. The caller has synchronised the stream, or the event has passed.
// It is called after success, error and cancellation alike.
func (a *Acquisition) Release() {
	m := a.m
	m.mu.Lock()
	defer m.mu.Unlock()
	a.retiring = append(a.retiring, a.handed...)
	a.handed = a.handed[:0]
	m.demand = m.demand[:0]
	for _, g := range a.pending {
		if i, _ := m.ring.Find(g); i != ring.None {
			m.ring.Release(i)
		}
	}
	a.pending = a.pending[:0]
	for i := range m.fills { // a failed fill is forgotten, so that the next Acquire tries again
		if f := &m.fills[i]; f.err != nil {
			if at, isReady := m.ring.Find(f.group); at == i && !isReady {
				m.ring.Fail(i)
			}
			f.err = nil
		}
	}
	a.retire()
}
