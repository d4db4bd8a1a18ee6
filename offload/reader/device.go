package reader

import (
	"fmt"
	"strings"
	"time"
)

// device is what one queue reads from: a disk, a partition or a network share.
type device struct {
	id     uint64
	name   string
	system string // kind and identity of the file system, as far as they are known
	files  int
	first  int // file with the most bytes, which the probe reads
	depth  int
	chunk  int
	rate   float64 // bytes per second by the probe; 0 without one
	when   time.Time
	cached bool // the probe's result was found on disk
}

// deviceName renders a device number as the system's tools do.
func deviceName(id uint64) string { return fmt.Sprintf("%d:%d", id>>32, uint32(id)) }

// group sorts files by their devices, in order of appearance, with the depth and chunk that the
// options or the defaults give; laneOf is the index of each file's device.
func group(ids []uint64, o Options) (laneOf []int, devices []device, err error) {
	seen := map[uint64]int{}
	for i, id := range ids {
		d, ok := seen[id]
		if !ok {
			d = len(devices)
			seen[id] = d
			devices = append(devices, device{id: id, name: deviceName(id), first: i,
				depth: orElse(o.Depth, DepthDefault),
				chunk: orElse(o.ChunkBytes, ChunkBytesDefault)})
		}
		devices[d].files++
		laneOf = append(laneOf, d)
	}
	if len(devices) > DevicesMax {
		return nil, nil, usageError("files on %d devices, at most %d are supported", len(devices),
			DevicesMax)
	}
	return laneOf, devices, nil
}

// orElse is n, or a default if it is not given.
func orElse(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// opener opens a reader of the kind that is being opened, for the probe.
type opener func(names []string, o Options) (Reader, error)

// prepare is what Uring and Pread have in common: it opens the files, sorts them by device, probes
// the devices if the options say so, and makes the queue.
func prepare(names []string, kind string, o Options, open opener) (files, *queue, error) {
	fs, err := openFiles(names, o)
	if err != nil {
		return nil, nil, err
	}
	ids := make([]uint64, len(fs))
	for i := range fs {
		ids[i] = fs[i].device
	}
	laneOf, devices, err := group(ids, o)
	if err == nil {
		err = probe(fs, laneOf, devices, kind, o, open)
	}
	if err != nil {
		return nil, nil, joinClose(err, fs)
	}
	if c := cached(fs, devices, o); c.faster {
		if fs, err = c.reopen(fs, devices, o); err != nil {
			return nil, nil, err
		}
	}
	for i := range fs {
		if err := fs[i].closeCache(); err != nil {
			return nil, nil, joinClose(err, fs)
		}
	}
	return fs, newQueue(fs.names(), laneOf, devices, fs.align(), o), nil
}

// describe says how the devices are read.
func (q *queue) describe() string {
	var list []string
	for i := range q.lanes {
		d := &q.lanes[i].stats
		s := fmt.Sprintf("depth %d, pieces of %d KiB", d.Depth, d.ChunkBytes>>10)
		if d.ProbeBytesPerSecond > 0 {
			s += fmt.Sprintf(" (%.2f GB/s by the probe)", d.ProbeBytesPerSecond/1e9)
		}
		if len(q.lanes) > 1 {
			s = fmt.Sprintf("device %s: %s", d.Name, s)
		}
		list = append(list, s)
	}
	return strings.Join(list, "; ")
}
