package reader

import (
	"sync"
	"time"
)

// CPUUnknown is Stats.CPUNanos of a reader that does not know.
const CPUUnknown = -1

// Stats counts since open.
type Stats struct {
	Requests     int64 // completed, with or without an error
	Failed       int64 // of these, with an error
	Pieces       int64 // read, with or without an error
	Bytes        int64 // that arrived and were wanted
	BusyNanos    int64 // during which at least one piece was in flight, on any device
	Retries      int64 // reads repeated, after an interruption or without progress
	Shorts       int64 // reads that were continued because the system gave less than asked for
	InFlight     int   // pieces in flight now
	InFlightPeak int   // most pieces in flight at once
	Queued       int   // requests of which not all pieces have started

	Timeouts      int64 // pieces that were not answered in time
	Stranded      int   // of these, pieces whose memory the system holds now
	Canceled      int64 // requests that Cancel took back
	CanceledBytes int64 // of these
	Promoted      int64 // requests that Promote moved

	// CPUNanos is the processor time spent on submitting reads and taking in answers, Done
	// included, or CPUUnknown: only Uring knows. What the kernel does in interrupts and what waking
	// goroutines takes come on top: by measurement half as much again.
	CPUNanos int64
	// Waits says, for each class, how long requests waited for their first piece to start.
	Waits [ClassCount]WaitStats
	// Devices lists the devices that the files lie on.
	Devices []DeviceStats

	// DirectFiles and BufferedFiles count files by how they are read: past or through the page
	// cache.
	DirectFiles, BufferedFiles int
}

// WaitStats is the time between Submit, or the last Promote, and the start of the first piece.
type WaitStats struct {
	Requests int64
	Nanos    int64 // of all together
	NanosMax int64
}

// DeviceStats counts since open what was read from one device.
type DeviceStats struct {
	Name       string // "major:minor" on Linux
	Files      int
	Depth      int
	ChunkBytes int
	// ProbeBytesPerSecond is what the probe measured with the depth and chunk that it chose; 0
	// without a probe.
	ProbeBytesPerSecond float64

	Pieces    int64
	Bytes     int64 // that arrived and were wanted
	BusyNanos int64 // during which at least one piece was in flight; Bytes/BusyNanos is its speed
	Timeouts  int64
	InFlight  int
	Stranded  int
	Queued    int
}

// lane is one device: the requests that wait for it, by class, and the pieces in flight on it. The
// queue's mutex guards it.
type lane struct {
	lines [ClassCount]line
	free  []int32   // pieces of the queue that are not in use, of the depth that are the lane's
	work  sync.Cond // for pools: a piece waits, or the queue was closed
	stats DeviceStats
	busy  time.Time // since when a piece has been in flight
}

// hangs says that every place is taken by a stranded read.
func (l *lane) hangs() bool { return l.stats.Stranded == l.stats.Depth }

// depart counts a piece that is in flight from now on.
func (q *queue) depart(l *lane, now time.Time) {
	if q.stats.InFlight == 0 {
		q.busy = now
	}
	if l.stats.InFlight == 0 {
		l.busy = now
	}
	l.stats.InFlight++
	q.stats.InFlight++
	q.stats.InFlightPeak = max(q.stats.InFlightPeak, q.stats.InFlight)
}

// land counts a piece that is not in flight any more.
func (q *queue) land(l *lane) {
	l.stats.InFlight--
	q.stats.InFlight--
	if l.stats.InFlight > 0 {
		return
	}
	now := q.now()
	l.stats.BusyNanos += now.Sub(l.busy).Nanoseconds()
	if q.stats.InFlight == 0 {
		q.stats.BusyNanos += now.Sub(q.busy).Nanoseconds()
		q.stir()
	}
}

// tally adds up what reading the piece took.
func (q *queue) tally(p *piece) {
	l, bytes := &q.lanes[p.lane], int64(min(p.got, p.need))
	l.stats.Pieces++
	l.stats.Bytes += bytes
	q.stats.Pieces++
	q.stats.Bytes += bytes
	q.stats.Retries += int64(p.retries)
	q.stats.Shorts += int64(p.shorts)
}

// waited counts how long a request was in the queue.
func (q *queue) waited(r *Request, now time.Time) {
	w := &q.stats.Waits[r.state.class]
	nanos := now.Sub(r.state.since).Nanoseconds()
	w.Requests++
	w.Nanos += nanos
	w.NanosMax = max(w.NanosMax, nanos)
}

// snapshot returns the counts so far.
func (q *queue) snapshot() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s, now := q.stats, q.now()
	s.CPUNanos = CPUUnknown
	s.Devices = make([]DeviceStats, len(q.lanes))
	for i := range q.lanes {
		l := &q.lanes[i]
		d := l.stats
		for c := range l.lines {
			d.Queued += l.lines[c].n
		}
		if d.InFlight > 0 {
			d.BusyNanos += now.Sub(l.busy).Nanoseconds()
		}
		s.Queued += d.Queued
		s.Stranded += d.Stranded
		s.Timeouts += d.Timeouts
		s.Devices[i] = d
	}
	if s.InFlight > 0 {
		s.BusyNanos += now.Sub(q.busy).Nanoseconds()
	}
	return s
}
