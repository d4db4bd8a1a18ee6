// Package reader reads ranges of model files straight into page-locked memory.
//
// One small interface, four implementations: Uring (io_uring), Pread (a pool of goroutines that
// call pread), Null (completes at once: the floor of our own overhead) and Sim (a seeded simulated
// store with faults, for tests). Requests are cut into pieces of the size that the device likes,
// pieces are read in the order of submission with a bounded number in flight, short reads are
// continued and interrupted ones retried; a request completes when all its pieces are there.
package reader

import (
	"log/slog"
	"time"
)

// Defaults. The figures were measured on a virtual NVMe disk with 2 cores.
const (
	// DepthDefault is how many pieces are in flight. Random direct reads of 2 MiB gave 0.9 to 1.7
	// GB/s at every depth from 1 to 8, reads of 256 KiB as much from depth 4 on: deeper queues add
	// latency, not bandwidth. Whole requests of 2 MiB, with these defaults, beside other work: 2.8 to
	// 3.0 GB/s by io_uring at 9 % of a core and 2.6 to 2.8 GB/s by the pool at 18 %, on a disk that
	// gave dd, which reads one block at a time, 1.0 to 1.4.
	DepthDefault = 4
	// ChunkBytesDefault is the largest piece. Direct reads of 1 to 4 MiB ran at 1.1 to 2.2 GB/s; a
	// smaller piece costs more system calls, a larger one parallelism inside one request.
	ChunkBytesDefault = 1 << 20
	// QueueRequestsDefault is how many requests wait at most: two layers of 128 experts.
	QueueRequestsDefault = 256
)

// Bounds of the options.
const (
	DepthMax         = 128
	ChunkBytesMax    = 1 << 30 // the kernel reads at most 2 GiB at once
	QueueRequestsMax = 1 << 16
)

// Align is the alignment that offset, length and memory of requests have unless a device asks for
// less or a file system for more: the logical block size of disks is 512 or 4096 bytes.
const Align = 4096

// Request asks for one range of one file. The caller owns it and may embed it in a larger struct;
// from Submit until Done it must not be touched. The reader keeps no reference after Done.
type Request struct {
	File   int    // index in the list of files that the reader was opened with
	Offset int64  // of the first byte; a multiple of the reader's Align
	Buf    []byte // where the bytes go; address and length are multiples of Align
	// Need is how many bytes from the start of Buf must arrive; 0 means all of Buf. What lies
	// behind it is undefined afterwards. The last bytes of a file whose size is not a multiple of
	// Align are read by a Buf that reaches past the end and a Need that does not.
	Need  int
	Tag   any    // the caller's; a pointer in it costs no allocation
	Label string // what is read, for errors: the name of a tensor or group
	// Done is called exactly once for every accepted request, on a goroutine of the reader. A nil
	// error says that the Need bytes are in Buf. It must not block, nor call Submit or Close; the
	// request may be used again once it runs.
	Done func(*Request, error)

	state state
}

// state is the reader's part of a request, guarded by the queue's mutex.
type state struct {
	active bool   // between Submit and Done
	want   int    // bytes of Buf to be read: Need rounded up to Align
	piece  int    // bytes of each piece but the last
	next   int    // where the next piece begins in Buf
	flying int    // pieces being read
	err    error  // the first failure
	number uint64 // of the request since open, the seed of simulated faults
}

// Reader reads ranges of files. All methods are safe for concurrent use.
type Reader interface {
	// Submit queues the request, in order. It blocks only while the bounded queue is full. If it
	// returns an error (ErrUsage, ErrClosed), Done is not called.
	Submit(*Request) error
	// Close ends the reader: reads in flight finish, the rest fails with ErrClosed, every Done has
	// returned when Close returns. It may be called again.
	Close() error
	Stats() Stats
	// Info says in one line what was chosen, for the user.
	Info() string
	// Align is what offsets, lengths and addresses of requests must be multiples of, in bytes.
	Align() int
}

// Stats counts since open.
type Stats struct {
	Requests     int64 // completed, with or without an error
	Failed       int64 // of these, with an error
	Pieces       int64 // read, with or without an error
	Bytes        int64 // that arrived
	BusyNanos    int64 // during which at least one piece was in flight
	Retries      int64 // reads repeated, after an interruption or without progress
	Shorts       int64 // reads that were continued because the system gave less than asked for
	InFlight     int   // pieces in flight now
	InFlightPeak int   // most pieces in flight at once
	Queued       int   // requests of which not all pieces have started
	// DirectFiles and BufferedFiles count files by how they are read: past or through the page
	// cache.
	DirectFiles, BufferedFiles int
}

// Options of all readers. The zero value works; it is checked once, at open.
type Options struct {
	Kind          string // for Open: KindAuto (also ""), KindUring or KindPread
	Buffered      bool   // read through the page cache
	Depth         int    // pieces in flight; 0 means DepthDefault
	ChunkBytes    int    // largest piece, a multiple of Align; 0 means ChunkBytesDefault
	QueueRequests int    // requests that wait; 0 means QueueRequestsDefault; at least Depth
	// Arena is the memory in which the Bufs of most requests lie, for Uring to register with the
	// kernel. It must stay mapped until Close. Requests outside it are read all the same.
	Arena  []byte
	Logger *slog.Logger     // fallbacks are logged here; nil means nowhere
	Now    func() time.Time // the clock of BusyNanos; nil means time.Now
}

// withDefaults checks the options and fills in the defaults.
func (o Options) withDefaults() (Options, error) {
	if o.Depth == 0 {
		o.Depth = DepthDefault
	}
	if o.ChunkBytes == 0 {
		o.ChunkBytes = ChunkBytesDefault
	}
	if o.QueueRequests == 0 {
		o.QueueRequests = max(QueueRequestsDefault, o.Depth)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.Depth < 1 || o.Depth > DepthMax:
		return o, usageError("depth %d is not within 1 and %d", o.Depth, DepthMax)
	case o.ChunkBytes < Align || o.ChunkBytes > ChunkBytesMax || o.ChunkBytes%Align != 0:
		return o, usageError("pieces of %d bytes: not a multiple of %d within %d and %d",
			o.ChunkBytes, Align, Align, ChunkBytesMax)
	case o.QueueRequests < o.Depth || o.QueueRequests > QueueRequestsMax:
		return o, usageError("a queue of %d requests is not within the depth %d and %d",
			o.QueueRequests, o.Depth, QueueRequestsMax)
	}
	return o, nil
}

// Hull returns the smallest range that covers size bytes at offset and begins and ends at multiples
// of align, a power of two: it begins at start, is length bytes long, and the wanted bytes begin
// skip bytes in. A request for it has Need skip+size.
func Hull(offset, size, align int64) (start, length, skip int64) {
	start = offset &^ (align - 1)
	skip = offset - start
	length = (skip + size + align - 1) &^ (align - 1)
	return start, length, skip
}
