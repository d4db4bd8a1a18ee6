package reader

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"
	"unsafe"
)

// ProbeMode says whether Open measures how a device likes to be read.
type ProbeMode uint8

const (
	// ProbeAuto measures devices of which no recent figure is kept.
	ProbeAuto ProbeMode = iota
	// ProbeOff neither measures nor looks at the kept figures.
	ProbeOff
	// ProbeForce measures whatever is kept.
	ProbeForce
)

// Bounds of the probe.
const (
	// probeTimeMax is how long all measurements of one Open take together, but for the last read of
	// each; with opening the reader it stays below a third of a second.
	probeTimeMax = 250 * time.Millisecond
	// probeFileMin is the size of the largest file below which a device is not worth it.
	probeFileMin = 64 << 20
	// probeTimeout ends a probe of a device that hangs, if Options.Timeout does not.
	probeTimeout = 10 * time.Second
	// probeReadMin is what is read at least in a round of one cell, more where the queue is deep.
	probeReadMin = 8 << 20
	// probeKeep of the best speed is good enough for the default: on a virtual disk beside other
	// work, with 0.85 one probe in two left it, each for another setting, with 0.7 one in five. A
	// device that wants
	// another depth or chunk gains more than that.
	probeKeep = 0.7
	// probeShare of the best speed is as good as the best, where the default is not: what is in
	// flight delays what is wanted first.
	probeShare = 0.95
)

// cell is one setting to be measured, and what was measured.
type cell struct {
	chunk, depth int
	bytes        int64
	time         time.Duration
}

// rate is bytes per second.
func (c *cell) rate() float64 {
	if c.time <= 0 {
		return 0
	}
	return float64(c.bytes) / c.time.Seconds()
}

// What the probe chooses from, in rising order.
var (
	probeChunks = [...]int{256 << 10, 512 << 10, 1 << 20, 2 << 20}
	probeDepths = [...]int{2, 4, 8}
)

// cells lists the settings, the default first, so that a slow device gives at least its figure.
func cells() []cell {
	list := []cell{{chunk: ChunkBytesDefault, depth: DepthDefault}}
	for _, chunk := range probeChunks {
		for _, depth := range probeDepths {
			if chunk != ChunkBytesDefault || depth != DepthDefault {
				list = append(list, cell{chunk: chunk, depth: depth})
			}
		}
	}
	return list
}

// choose finds chunk and depth each by the median speed of the cells that share it, and keeps the
// default if that is not much slower than the best: one cell says little, on a disk that doubles its
// speed from one moment to the next. What comes back sums up the cells that share the chosen depth
// or chunk. If not all could be measured, it is the first, the default.
func choose(list []cell) cell {
	for i := range list {
		if list[i].bytes == 0 {
			return list[0]
		}
	}
	best := cell{
		chunk: pick(list, probeChunks[:], ChunkBytesDefault, func(c *cell) int { return c.chunk }),
		depth: pick(list, probeDepths[:], DepthDefault, func(c *cell) int { return c.depth })}
	for i := range list {
		if c := &list[i]; c.chunk == best.chunk || c.depth == best.depth {
			best.bytes += c.bytes
			best.time += c.time
		}
	}
	return best
}

// pick chooses among the values, in rising order, that the cells have by a key.
func pick(list []cell, values []int, standard int, key func(*cell) int) int {
	median := func(value int) float64 {
		var rates []float64
		for i := range list {
			if key(&list[i]) == value {
				rates = append(rates, list[i].rate())
			}
		}
		slices.Sort(rates)
		return (rates[len(rates)/2] + rates[(len(rates)-1)/2]) / 2
	}
	fastest := 0.0
	for _, v := range values {
		fastest = max(fastest, median(v))
	}
	if median(standard) >= probeKeep*fastest {
		return standard
	}
	for _, v := range values {
		if median(v) >= probeShare*fastest {
			return v
		}
	}
	return standard
}

// probe sets depth, chunk and speed of the devices that are read directly and hold a large file: by
// figures kept on disk, or by measuring. What the options fix stays as it is. Only a device that
// does not answer is an error; what else fails is logged.
func probe(fs files, laneOf []int, devices []device, kind string, o Options, open opener) error {
	if o.Probe == ProbeOff || o.Buffered {
		return nil
	}
	store, due := newProbeStore(o), 0
	for i := range devices {
		d := &devices[i]
		for f := range fs {
			if laneOf[f] == i && fs[f].size > fs[d.first].size {
				d.first = f
			}
		}
		if f := &fs[d.first]; f.direct && !f.sparse && f.size >= probeFileMin {
			d.system = f.system()
			if d.cached = o.Probe != ProbeForce && store.find(d, kind); !d.cached {
				due++
			}
		}
	}
	for i := range devices {
		d := &devices[i]
		if d.system != "" && !d.cached {
			file, limit := &fs[d.first], probeTimeMax/time.Duration(due)
			if err := d.measure(file, limit, o, open); err != nil {
				return err
			}
			store.keep(d, kind)
		}
		if d.rate > 0 {
			d.adopt(o)
		}
	}
	store.save()
	return nil
}

// adopt keeps what the options fix, and says what is used.
func (d *device) adopt(o Options) {
	d.depth, d.chunk = orElse(o.Depth, d.depth), orElse(o.ChunkBytes, d.chunk)
	from := "measured now"
	if d.cached {
		from = "measured " + d.when.UTC().Format(time.DateTime)
	}
	o.Logger.Info("probe", "device", d.name, "depth", d.depth, "chunk_bytes", d.chunk,
		"bytes_per_second", int64(d.rate), "from", from)
}

// measure reads the file with each setting in turn, once forwards and once backwards through the
// list, so that a device which drifts favours none, and chooses.
func (d *device) measure(f *file, limit time.Duration, o Options, open opener) error {
	list := cells()
	scratch, free, err := probeMemory(list, o.Arena)
	if err != nil {
		o.Logger.Warn("no probe", "device", d.name, "reason", err)
		return nil
	}
	last := &list[len(list)-1]
	timeout := o.Timeout
	if timeout == 0 {
		timeout = probeTimeout
	}
	r, err := open([]string{f.name}, Options{Depth: last.depth, ChunkBytes: last.chunk,
		Timeout: timeout, CloseWait: o.CloseWait, Arena: scratch, Probe: ProbeOff, Now: o.Now})
	if err != nil {
		free()
		return err
	}
	m := meter{reader: r, scratch: scratch, size: f.size, now: o.Now,
		over: make(chan error, last.depth),
		rng:  rand.New(rand.NewPCG(uint64(o.Now().UnixNano()), uint64(f.size)))}
	m.end = o.Now().Add(limit)
	for i := range 2 * len(list) {
		c := i
		if i >= len(list) {
			c = 2*len(list) - 1 - i
		}
		if err = m.run(&list[c]); err != nil || !m.now().Before(m.end) {
			break
		}
	}
	if closed := r.Close(); errors.Is(closed, ErrStranded) {
		return closed // the memory is not freed
	}
	free()
	if errors.Is(err, ErrTimeout) {
		return err
	}
	if err != nil {
		o.Logger.Warn("the probe failed", "device", d.name, "reason", err)
		return nil
	}
	if best := choose(list); best.rate() > 0 {
		d.depth, d.chunk, d.rate, d.when = best.depth, best.chunk, best.rate(), o.Now()
	}
	return nil
}

// probeMemory is memory for the cell with the most in flight: part of the arena, which holds nothing
// yet and is within the budget, or, without an arena, memory of its own until free.
func probeMemory(list []cell, arena []byte) (scratch []byte, free func(), err error) {
	most := 0
	for _, c := range list {
		most = max(most, c.chunk*c.depth)
	}
	if len(arena) == 0 {
		scratch, err = mapMemory(most)
		return scratch, func() { unmapMemory(scratch) }, err
	}
	skip := int(-uintptr(unsafe.Pointer(&arena[0])) & (Align - 1))
	if len(arena) < skip+most {
		return nil, nil, errors.New("the arena is smaller than what the probe has in flight")
	}
	return arena[skip : skip+most], func() {}, nil
}

// meter measures cells with one reader.
type meter struct {
	reader  Reader
	scratch []byte
	size    int64
	now     func() time.Time
	end     time.Time // of all measurements
	over    chan error
	rng     *rand.Rand
}

// run keeps the cell's depth of reads of its chunk in flight until enough was read or time is up,
// and waits for those in flight.
func (m *meter) run(c *cell) (err error) {
	requests := make([]Request, c.depth)
	free := make(chan *Request, c.depth)
	for i := range requests {
		requests[i] = Request{Buf: m.scratch[i*c.chunk : (i+1)*c.chunk], Label: "probe",
			Done: func(r *Request, err error) { m.over <- err; free <- r }}
		free <- &requests[i]
	}
	start, target := m.now(), max(probeReadMin, 2*c.chunk*c.depth)
	flying, read := 0, 0
	for issued := 0; issued < target && err == nil; issued += c.chunk {
		if flying == c.depth {
			err = <-m.over
			flying--
			if err == nil {
				read += c.chunk
			}
		}
		if err != nil || !m.now().Before(m.end) {
			break
		}
		r := <-free
		// The alignment of every device divides that of the package, and so does a file's chunk.
		r.Offset = m.rng.Int64N((m.size-int64(c.chunk))/Align+1) * Align
		if err = m.reader.Submit(r); err == nil {
			flying++
		}
	}
	for ; flying > 0; flying-- {
		if e := <-m.over; e != nil {
			err = e
		} else {
			read += c.chunk
		}
	}
	c.bytes += int64(read)
	c.time += m.now().Sub(start)
	return err
}
