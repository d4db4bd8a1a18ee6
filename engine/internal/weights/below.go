package weights

import (
	"sync"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/ring"
	"github.com/moering/moering/sched"
)

// NewDeviceTier makes a tier in the memory of a device, filled by copies on the stream from a tier in
// host memory that has the same groups. The tier takes the stream over; below must outlive it.
func NewDeviceTier(o Options, below *Tier, copies kernels.Stream) *Tier {
	b := &belowSource{tier: below, stream: copies, queue: make(chan *fill, o.Sections),
		memory: o.Memory, bytes: o.Bytes}
	below.upward = b.queue
	b.copier.Go(b.copy)
	return newTier(o, b)
}

// belowSource is the source of a device's tier: the tier below, which finds the group or reads it,
// and a copy.
type belowSource struct {
	tier   *Tier
	stream kernels.Stream
	queue  chan *fill // fills whose group is leased below, or failed there; never full
	copier sync.WaitGroup
	memory kernels.Span
	bytes  int64
}

// start asks the tier below for the group.
func (b *belowSource) start(f *fill) {
	t := b.tier
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ring.Use(f.group)
	i, ready := t.ring.Find(f.group)
	switch {
	case i == ring.None:
		t.counters.Misses++
		t.above[f.group] = f
		t.plan.Want(f.group, f.class, 0, 1)
		t.plan.Allow(sched.GuessesMax)
		t.pump()
	case ready:
		t.counters.Hits++
		t.ring.Lease(i)
		f.below = i
		b.queue <- f
	default:
		t.counters.Late++
		t.ring.Lease(i)
		t.fills[i].above = f
	}
}

// copy records the copies of fills in the order in which their groups become ready below.
func (b *belowSource) copy() {
	for f := range b.queue {
		b.tier.mu.Lock()
		from := &b.tier.fills[f.below]
		f.fault = from.err
		b.tier.mu.Unlock()
		if f.fault == nil {
			b.record(f, from)
		}
		f.arrived()
	}
}

func (b *belowSource) record(f, from *fill) {
	section := b.memory.Slice(int64(f.section)*b.bytes, b.bytes)
	f.weights = f.tier.o.Groups[f.group].In(section, f.weights[:0])
	for i := range f.weights {
		b.stream.Copy(f.weights[i].Data, from.weights[i].Data)
	}
	f.event = b.stream.Record()
}

// finish waits for the copy, and gives the group below back.
func (b *belowSource) finish(f *fill) error {
	err := f.fault
	if err == nil {
		err = f.event.Wait()
	}
	b.tier.mu.Lock()
	b.tier.release(f.below)
	f.below = ring.None
	b.tier.pump()
	b.tier.mu.Unlock()
	return err
}

func (b *belowSource) urge(f *fill) {
	t := b.tier
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.above[f.group] == f {
		t.plan.Want(f.group, sched.ClassDemand, 0, 1)
		t.pump()
	} else if i, ready := t.ring.Find(f.group); i != ring.None && !ready {
		t.source.urge(&t.fills[i])
	}
}

func (b *belowSource) drop(f *fill) bool {
	t := b.tier
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.above[f.group] != f || t.acq.waits(f.group) || !t.plan.Cancel(f.group) {
		return false
	}
	t.above[f.group] = nil
	return true
}

func (b *belowSource) holds(group int) bool {
	b.tier.mu.Lock()
	defer b.tier.mu.Unlock()
	_, ready := b.tier.ring.Find(group)
	return ready
}

func (b *belowSource) close() {
	close(b.queue)
	b.copier.Wait()
	_ = b.stream.Close() // what it failed with, the fills reported
}
