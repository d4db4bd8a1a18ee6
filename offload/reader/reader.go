// Package reader reads ranges of model files straight into page-locked memory.
//
// One small interface, four implementations: Uring (io_uring), Pread (a pool of goroutines that
// call pread), Null (completes at once: the floor of our own overhead) and Sim (a seeded simulated
// store with faults and a clock of its own, for tests). Requests are cut into pieces of the size
// that the device likes, which a short measured probe finds. Pieces are read by class (Demand,
// Certain, Predicted) with a bounded number in flight on each device; short reads are continued and
// interrupted ones retried. A request ends when all its pieces are there, or one has failed.
//
// A read that is not answered in time ends its request, but the system may still hold the memory.
// Such a request is stranded: docs/decisions/0007-stranded-reads.md says what follows.
package reader

import (
	"log/slog"
	"time"
)

// Defaults, for devices that were not probed. The figures were measured on a virtual NVMe disk with
// 2 cores.
const (
	// DepthDefault is how many pieces are in flight on a device. Random direct reads of 2 MiB gave
	// 0.9 to 1.7 GB/s at every depth from 1 to 8, reads of 256 KiB as much from depth 4 on: deeper
	// queues add latency, not bandwidth. Whole requests of 2 MiB, with these defaults, beside other
	// work: 2.8 to 3.0 GB/s by io_uring at 9 % of a core and 2.6 to 2.8 GB/s by the pool at 18 %, on
	// a disk that gave dd, which reads one block at a time, 1.0 to 1.4.
	DepthDefault = 4
	// ChunkBytesDefault is the largest piece. Direct reads of 1 to 4 MiB ran at 1.1 to 2.2 GB/s; a
	// smaller piece costs more system calls, a larger one parallelism inside one request.
	ChunkBytesDefault = 1 << 20
	// QueueRequestsDefault is how many requests of a class wait at most for a device: two layers of
	// 128 experts.
	QueueRequestsDefault = 256
	// CloseWaitDefault is how long Close waits for memory that the system holds past the timeout.
	CloseWaitDefault = 2 * time.Second
)

// Bounds of the options.
const (
	DepthMax         = 128
	ChunkBytesMax    = 1 << 30 // the kernel reads at most 2 GiB at once
	QueueRequestsMax = 1 << 16
	DevicesMax       = 64 // that the files of one reader lie on
)

// Align is the alignment that offset, length and memory of requests have unless a device asks for
// less or a file system for more: the logical block size of disks is 512 or 4096 bytes.
const Align = 4096

// Request asks for one range of one file. The caller owns it and may embed it in a larger struct.
// From Submit until Done has been called, or Cancel has returned true, it must not be touched; if
// Done got an error that wraps ErrStranded, until Released has been called. The reader keeps no
// reference after that.
type Request struct {
	File   int    // index in the list of files that the reader was opened with
	Offset int64  // of the first byte; a multiple of the reader's Align
	Buf    []byte // where the bytes go; address and length are multiples of Align
	// Need is how many bytes from the start of Buf must arrive; 0 means all of Buf. What lies
	// behind it is undefined afterwards. The last bytes of a file whose size is not a multiple of
	// Align are read by a Buf that reaches past the end and a Need that does not.
	Need  int
	Class Class  // on Submit; Promote changes how the reader sees it, not this field
	Tag   any    // the caller's; a pointer in it costs no allocation
	Label string // what is read, for errors: the name of a tensor or group
	// Done is called exactly once for every request that Submit accepted and Cancel did not take
	// back, on a goroutine of the reader or on the one that calls Close. A nil error says that the
	// Need bytes are in Buf. It must not block, nor call Submit or Close; the request may be used
	// again once it runs, unless the error wraps ErrStranded.
	Done func(*Request, error)
	// Released is called, if set, after a Done whose error wraps ErrStranded has returned, when the
	// system has let go of Buf: exactly once, or never if the device never answers. The same rules
	// hold for it as for Done. Until then neither the request nor Buf may be used or freed.
	Released func(*Request)

	state state
}

// state is the reader's part of a request, guarded by the queue's mutex.
type state struct {
	active  bool // between Submit and Done, Cancel or Released
	waiting bool // in a line: not all pieces have started
	told    bool // Done has returned, and reads are stranded
	class   Class
	want    int // bytes of Buf to be read: Need rounded up to Align
	piece   int // bytes of each piece but the last
	next    int // where the next piece begins in Buf
	flying  int // pieces being read
	// stranded counts pieces that ran out of time and that the system has not let go of.
	stranded      int
	err           error     // the first failure
	number        uint64    // of the request since open, the seed of simulated faults
	since         time.Time // of Submit or the last Promote
	before, after *Request  // neighbours in the line
}

// Reader reads ranges of files. All methods are safe for concurrent use.
type Reader interface {
	// Submit queues the request behind those of its class. It blocks only while the bounded queue
	// of the class is full. If it returns an error (ErrUsage, ErrClosed, or ErrTimeout for a device
	// on which every read is stranded), Done is not called.
	Submit(*Request) error
	// Cancel takes a request back of which no piece has been started. True says that it is the
	// caller's again and Done will not be called; false that it is being read or has ended, and
	// Done was or will be called. The caller must know that the request was submitted and has not
	// been submitted again since.
	Cancel(*Request) bool
	// Promote moves a request that waits to the end of a more urgent class, as if it were submitted
	// now, past the bound of the queue if need be; it never moves one down. True says that pieces
	// of it wait, in that class or a better one; false that all have started or the request has
	// ended. As with Cancel, it must have been submitted.
	Promote(*Request, Class) bool
	// Close ends the reader: reads in flight finish or run out of time, the rest fails with
	// ErrClosed, every Done has returned when Close returns. If the system still holds memory after
	// Options.CloseWait, the error wraps ErrStranded and says how much: that memory must not be
	// freed; descriptors and goroutines go when the system lets go. Close may be called again, and
	// then reports the state by then. Without a timeout it waits as long as the device takes.
	Close() error
	Stats() Stats
	// Info says in one line what was chosen, for the user.
	Info() string
	// Align is what offsets, lengths and addresses of requests must be multiples of, in bytes.
	Align() int
}

// Options of all readers. The zero value works; it is checked once, at open.
type Options struct {
	Kind     string // for Open: KindAuto (also ""), KindUring, KindPread or KindSim
	Buffered bool   // read through the page cache
	// PageCache lets Open choose to read through the page cache: where that holds the files and is
	// measured to be faster than the device by its probe. Who sets it knows that it has room for them.
	PageCache     bool
	Depth         int // pieces in flight on each device; 0: by the probe, else DepthDefault
	ChunkBytes    int // largest piece, a multiple of Align; 0: by the probe, else the default
	QueueRequests int // that wait, by class and device; 0: QueueRequestsDefault; at least Depth
	// Timeout is how long a piece may take, retries included; 0 means for ever.
	Timeout time.Duration
	// CloseWait bounds how long Close waits for stranded memory; 0 means CloseWaitDefault.
	CloseWait time.Duration
	// Arena is the memory in which the Bufs of most requests lie, for Uring to register with the
	// kernel. It must stay mapped until Close has returned without ErrStranded. Requests outside it
	// are read all the same. The probe at open overwrites some of it.
	Arena []byte
	// Probe says whether Open measures the devices; ProbeFile is where the results are kept, by
	// default moering/probe.json in the user's cache directory.
	Probe     ProbeMode
	ProbeFile string
	Sim       *SimOptions      // for KindSim; nil means a store without faults
	Logger    *slog.Logger     // fallbacks are logged here; nil means nowhere
	Now       func() time.Time // the clock of figures and timeouts; nil means time.Now

	// For tests: another device for a file, and a kernel that cancels nothing.
	deviceOf  func(name string, device uint64) uint64
	noCancels bool
}

// withDefaults checks the options and fills in the defaults, but for depth and chunk, which the
// devices have each.
func (o Options) withDefaults() (Options, error) {
	if o.QueueRequests == 0 {
		o.QueueRequests = max(QueueRequestsDefault, o.Depth)
	}
	if o.CloseWait == 0 {
		o.CloseWait = CloseWaitDefault
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.Depth < 0 || o.Depth > DepthMax:
		return o, usageError("depth %d is not within 1 and %d", o.Depth, DepthMax)
	case o.ChunkBytes != 0 && o.ChunkBytes < Align || o.ChunkBytes > ChunkBytesMax ||
		o.ChunkBytes%Align != 0:
		return o, usageError("pieces of %d bytes: not a multiple of %d within %d and %d",
			o.ChunkBytes, Align, Align, ChunkBytesMax)
	case o.QueueRequests < max(o.Depth, 1) || o.QueueRequests > QueueRequestsMax:
		return o, usageError("a queue of %d requests is not within the depth %d and %d",
			o.QueueRequests, o.Depth, QueueRequestsMax)
	case o.Timeout < 0 || o.CloseWait < 0:
		return o, usageError("negative time: timeout %v, wait at close %v", o.Timeout, o.CloseWait)
	case o.Probe > ProbeForce:
		return o, usageError("probe mode %d", o.Probe)
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
