package weights

import (
	"errors"
	"sync"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
	"github.com/moering/moering/sched"
)

// Disk says where a tier's groups are read from.
type Disk struct {
	Reader reader.Reader
	// Device rearranges each matrix as it lands; nil where the memory is not the device's.
	Device kernels.Device
	// Integrity checks weights before they are used; nil: there is nothing to check against.
	Integrity *store.Integrity
}

// NewTier makes a tier over host memory that reads from disk.
func NewTier(o Options, d Disk) *Tier {
	return newTier(o, &disk{Disk: d, groups: o.Groups, memory: o.Memory, bytes: o.Bytes})
}

// disk is the source of a tier that reads from files. Matrices that lie one behind the other in a
// file are read at once.
type disk struct {
	Disk
	groups []Group
	memory kernels.Span
	bytes  int64
}

// diskFill is what a fill needs while it is read.
type diskFill struct {
	fill     *fill
	requests []reader.Request // in use: the first reads
	reads    int
	parts    []kernels.Span // the memory that each matrix may use
	bytes    [][]byte       // each matrix as it is on disk
	loaded   int64

	mu       sync.Mutex // guards the rest while requests are under way
	left     int        // requests not done
	stranded int        // requests done whose memory the system still holds
	failed   error      // the first failure
}

func (d *diskFill) init(f *fill, parts int) {
	d.fill = f
	d.requests = make([]reader.Request, parts)
	d.parts, d.bytes = make([]kernels.Span, parts), make([][]byte, parts)
	for i := range d.requests {
		r := &d.requests[i]
		r.Tag, r.Done, r.Released = d, requestDone, requestReleased
	}
}

// held reports that the system may still write to the section.
func (d *diskFill) held() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stranded > 0
}

func (d *disk) start(f *fill) {
	q, g := &f.disk, &d.groups[f.group]
	d.layout(f, g)
	q.left, q.failed = q.reads, nil
	f.tier.counters.Reads += int64(q.reads)
	f.tier.counters.BytesRead += q.loaded
	for i := range q.reads {
		r := &q.requests[i]
		r.Class = readerClass(f.class)
		if err := d.Reader.Submit(r); err != nil {
			requestDone(r, err)
		}
	}
}

// layout says what is read to where: each part's hull behind the one before, or, where hulls touch in
// the file, as one.
func (d *disk) layout(f *fill, g *Group) {
	q := &f.disk
	q.reads, q.loaded = 0, 0
	f.weights = f.weights[:0]
	section := d.memory.Slice(int64(f.section)*d.bytes, d.bytes)
	var at, free int64 // of the section: where the read begins, and what the parts before leave free
	for j := range g.Parts {
		p := &g.Parts[j]
		offset, length, skip := hull(p)
		r := &q.requests[max(q.reads-1, 0)]
		if q.reads > 0 && r.File == p.Extent.File && offset <= r.Offset+int64(len(r.Buf)) &&
			p.Extent.Offset >= r.Offset+free-at {
			skip += offset - r.Offset
			length += offset - r.Offset
			q.loaded -= int64(len(r.Buf))
		} else {
			if q.reads > 0 {
				at += int64(len(r.Buf))
			}
			free = at
			r = &q.requests[q.reads]
			r.File, r.Offset, r.Label = p.Extent.File, offset, p.Name
			q.reads++
		}
		r.Buf = section.Slice(at, length).Host()
		r.Need = int(skip + p.Extent.Size)
		q.loaded += length
		data := section.Slice(at+skip, p.Extent.Size)
		end := at + skip + p.Extent.Size
		q.parts[j] = section.Slice(free, end-free)
		q.bytes[j] = data.Host()
		free = end
		f.weights = append(f.weights, kernels.Weight{Data: data, Type: p.Type, Rows: p.Rows,
			Cols: p.Cols})
	}
}

func readerClass(c sched.Class) reader.Class {
	switch c {
	case sched.ClassCertain:
		return reader.Certain
	case sched.ClassPredicted:
		return reader.Predicted
	}
	return reader.Demand
}

// requestDone runs on the reader's goroutine, or under the tier's lock where Submit refused or drop
// took the request back; the last request hands the fill to the lander.
func requestDone(r *reader.Request, err error) {
	d := r.Tag.(*diskFill)
	d.mu.Lock()
	if errors.Is(err, reader.ErrStranded) {
		d.stranded++
	}
	last := d.done(err)
	d.mu.Unlock()
	if last {
		d.fill.arrived()
	}
}

func (d *diskFill) done(err error) (last bool) {
	if err != nil && d.failed == nil {
		d.failed = err
	}
	d.left--
	return d.left == 0
}

// requestReleased runs on the reader's goroutine once the system has let go of a stranded request.
func requestReleased(r *reader.Request) {
	d := r.Tag.(*diskFill)
	d.mu.Lock()
	d.stranded--
	free := d.stranded == 0
	d.mu.Unlock()
	if free {
		d.fill.tier.returned(d.fill)
	}
}

func (d *disk) finish(f *fill) error {
	q := &f.disk
	if q.failed != nil {
		return q.failed
	}
	for j := range f.weights {
		if err := d.Integrity.Verify(d.groups[f.group].Parts[j].Extent, q.bytes[j]); err != nil {
			return err
		}
	}
	if d.Device == nil || f.tier.asRead.Load() {
		return nil
	}
	for j := range f.weights {
		var err error
		if f.weights[j], err = d.Device.Land(f.weights[j], q.parts[j]); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) urge(f *fill) {
	for i := range f.disk.reads {
		d.Reader.Promote(&f.disk.requests[i], reader.Demand)
	}
}

func (d *disk) drop(f *fill) bool {
	q := &f.disk
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.reads {
		if r := &q.requests[i]; d.Reader.Cancel(r) && q.done(errDropped) {
			f.tier.counters.BytesRead -= q.loaded
			return true
		}
	}
	return false
}

func (d *disk) holds(int) bool { return false }

func (d *disk) close() {}
