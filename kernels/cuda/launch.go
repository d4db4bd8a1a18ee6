//go:build cgo

package cuda

import "github.com/moering/moering/kernels"

// kernelID is an index of kernelNames.
type kernelID int

// launch is one kernel launch.
type launch struct {
	kernel      kernelID
	grid, block [3]uint32
	shared      uint32 // dynamic shared memory, bytes; at most sharedBytesMax
	args        []byte // the kernel's argument structure of args.h; memory of the planner
	// reads and writes are the memory that the kernel touches, scratch and uploads included. A kernel
	// reads its weights in units of 16 bytes, so up to 15 bytes before a span may be read, never used;
	// nothing is read after a span but the rest of its last four bytes.
	reads, writes []kernels.Span
}

// sharedBytesMax is the dynamic shared memory that every GPU gives a block without being asked.
const sharedBytesMax = 48 << 10

// demand is what the planner needs to plan an op.
type demand struct {
	scratch int64 // bytes of device memory
	upload  int64 // bytes of the upload area
}

// planner turns ops into launches for one stream. It keeps the launches' arguments and spans in
// memory of its own, which reset takes back; in steady state it allocates nothing. Not for
// concurrent use.
type planner struct {
	// scratch is device memory that launches of one op hand values through. Ops of one stream may
	// share it, for they run one after the other; at least demand.scratch bytes, aligned to 64.
	scratch kernels.Span
	// upload is host memory whose contents the stream copies to uploaded before the launches of the op
	// run; used bytes of it are taken. Both are of equal size and aligned to 64.
	upload   []byte
	uploaded kernels.Span
	used     int64
	// halves rounds the activations of products with 16-bit weights to bfloat16, unless Exact is set.
	halves bool
}
