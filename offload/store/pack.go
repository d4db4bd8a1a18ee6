package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/zeebo/xxh3"

	"github.com/moering/moering/kernels/quant"
)

// The files that exist beside the target while it is being packed.
const (
	packPartExt  = ".pack-part"
	packStateExt = ".pack-state"
)

// checkpointBytesDefault is the data between two points from which an interrupted pack goes on. To
// bring so much to disk takes a fraction of a second.
const checkpointBytesDefault = 256 << 20

// packSpaceSlack is free space that is asked for beyond the file: its state, directory blocks.
const packSpaceSlack = 1 << 20

// PackOptions are the choices of a Packer. The zero value works.
type PackOptions struct {
	// Source says on what the data depends beside what is declared. A pack that was interrupted goes
	// on only if it and all declarations are the same.
	Source string
	// Force replaces a file that has the target's name.
	Force bool
	// CheckpointBytes of data between two points that a pack can go on from; 0: 256 MiB.
	CheckpointBytes int64
}

// Piece is what one checksum covers: a tensor, or one slice of a tensor that stacks experts.
type Piece struct {
	Tensor string
	Slice  int // of a stacked tensor; else 0
	Size   int64
}

// Packer writes a packed GGUF file: every tensor at a multiple of PackAlignment in the order of
// declaration, a checksum for every piece, and one for the header. The file appears under its name
// at Commit, complete and on disk, or not at all; what is written before stays on disk beside it,
// and a Packer of the same options, metadata and tensors goes on from there, after a crash too.
//
//	p, err := NewPacker(path, PackOptions{Source: model.Fingerprint()})
//	defer p.Suspend()
//	p.SetMetadata(…)
//	p.Declare(…)
//	done, err := p.Begin()
//	for _, piece := range p.Pieces()[done:] { p.Write(data of piece, in any parts) }
//	p.Commit()
//
// A Packer is not safe for concurrent use.
type Packer struct {
	outline
	options PackOptions
	pieces  []Piece
	dataAt  int64 // offset of the data in the file
	sums    []uint64
	state   *packState // nil before Begin, and after Commit and Suspend
	out     packFile
	hash    xxh3.Hasher // of the piece being written
	inPiece int64       // bytes of it written
	at      int64       // offset in the file of the next byte
	dirty   int64       // bytes written since the last checkpoint
	failed  error       // sticks
	wrap    func(packFile) packFile
}

// packFile is what the packer needs of its output; tests put a full disk in its place.
type packFile interface {
	WriteAt(b []byte, offset int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// NewPacker begins a packed file that will appear at path. Nothing is written before Begin.
func NewPacker(path string, options PackOptions) (*Packer, error) {
	if options.CheckpointBytes <= 0 {
		options.CheckpointBytes = checkpointBytesDefault
	}
	o, err := newOutline(path, PackAlignment)
	if err != nil {
		return nil, err
	}
	return &Packer{outline: o, options: options}, nil
}

// SetMetadata adds a key; keys are written in the order in which they are added, before those of
// the packer itself. general.alignment, keys that are there and keys of the packer are refused.
func (p *Packer) SetMetadata(key string, v Value) error {
	if p.state != nil || p.dataAt > 0 {
		return usageError(p.path, "", "metadata %s comes after Begin", quoted(key))
	}
	if IsPackKey(key) {
		return usageError(p.path, "", "%s is set by the packer", quoted(key))
	}
	return p.setMetadata(key, v)
}

// IsPackKey reports whether a metadata key is the packer's own.
func IsPackKey(key string) bool {
	return len(key) >= len(packPrefix) && key[:len(packPrefix)] == packPrefix
}

// IsShardKey reports whether a metadata key says which file of a split set it is in.
func IsShardKey(key string) bool {
	return key == splitNumberKey || key == splitCountKey || key == splitTensorsKey
}

// Declare adds a tensor, of at most 4 dims with the outermost first. One of 3 dims stacks experts,
// and has a piece for each index of the outermost.
func (p *Packer) Declare(name string, kind quant.Type, shape []int64) error {
	if p.state != nil || p.dataAt > 0 {
		return usageError(p.path, name, "declared after Begin")
	}
	if err := p.declare(name, kind, shape); err != nil {
		return err
	}
	t := &p.declared[len(p.declared)-1]
	n := pieces(shape)
	if n > tensorsMax-len(p.pieces) {
		return usageError(p.path, name, "more than %d pieces", tensorsMax)
	}
	for slice := range n {
		p.pieces = append(p.pieces, Piece{Tensor: name, Slice: slice, Size: t.size / int64(n)})
	}
	return nil
}

// Pieces lists what is to be written, in order.
func (p *Packer) Pieces() []Piece { return p.pieces }

// Total is the bytes of tensor data declared.
func (p *Packer) Total() int64 { return p.total }

// HeaderBytes is about how many bytes the header has. It renders the header to count them.
func (p *Packer) HeaderBytes() int64 {
	header, err := p.header()
	if err != nil {
		return ggufHeaderBytesMax
	}
	return int64(len(header)) + int64(len(p.pieces))*8
}

// Begin looks for an interrupted pack of the same content, checks that the disk has room, and
// returns the number of pieces that are done. layout is recorded for readers: "grouped" or
// "stacked".
//
// # Errors
//
// They wrap ErrUsage where the target exists and is not to be replaced, and where another packer
// is at work on it; ErrIO, with the system's reason, where the disk has too little room.
func (p *Packer) Begin(layout string) (done int, err error) {
	if p.state != nil || p.dataAt > 0 {
		return 0, usageError(p.path, "", "begun twice")
	}
	if err := p.checkTarget(); err != nil {
		return 0, err
	}
	p.metadata.add(packVersionKey, Scalar(uint32(packVersion)))
	p.metadata.add(packLayoutKey, Scalar(layout))
	p.metadata.add(packMethodKey, Scalar(packMethod))
	p.sums = make([]uint64, len(p.pieces))
	header, err := p.headerWith(0)
	if err != nil {
		return 0, err
	}
	p.dataAt = alignUp(int64(len(header)), p.alignment)
	identity := xxh3.Hash128(append(header, p.options.Source...)).Bytes()
	p.state, err = openPackState(p.path+packStateExt, fmt.Sprintf("%x", identity))
	if err != nil {
		return 0, err
	}
	if done, err = p.openPart(); err != nil {
		return 0, errors.Join(err, p.Suspend())
	}
	return done, nil
}

// checkTarget refuses to replace what is there, unless told to, and what is no regular file.
func (p *Packer) checkTarget() error {
	info, err := os.Lstat(p.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return ioError(p.path, "looking at the target", err)
	case !info.Mode().IsRegular():
		return usageError(p.path, "", "the target is there, and not a regular file")
	case !p.options.Force:
		return usageError(p.path, "", "the target is there already")
	}
	return nil
}

// openPart opens the unfinished file, and cuts off what is not known to be whole.
func (p *Packer) openPart() (done int, err error) {
	name := p.path + packPartExt
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, ioError(name, "opening", err)
	}
	p.out = f
	if p.wrap != nil {
		p.out = p.wrap(f)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, ioError(name, "looking at the file", err)
	}
	done = min(len(p.state.sums), len(p.pieces))
	if done > 0 && info.Size() < p.offsetOf(done-1)+p.pieces[done-1].Size {
		done = 0 // the state is of a file that is gone
	}
	if err := p.state.keep(done); err != nil {
		return 0, err
	}
	copy(p.sums, p.state.sums[:done])
	p.at = p.dataAt
	if done > 0 {
		p.at = p.offsetOf(done-1) + p.pieces[done-1].Size
	}
	size, kept := p.dataAt+p.end, int64(0)
	if done > 0 {
		kept = p.at
	}
	if err := p.out.Truncate(kept); err != nil {
		return 0, ioError(name, "setting the size", err)
	}
	need := size - kept + packSpaceSlack
	if free, known := freeBytes(filepath.Dir(p.path)); known && free < need {
		return 0, ioError(p.path, fmt.Sprintf("%d bytes are free on its disk, and %d are needed", free,
			need), syscall.ENOSPC)
	}
	if err := p.out.Truncate(size); err != nil {
		return 0, ioError(name, "setting the size", err)
	}
	p.startPiece(done)
	return done, nil
}

// offsetOf is where a piece begins in the file. Pieces are looked up in order, from the start.
func (p *Packer) offsetOf(piece int) int64 {
	k, first := 0, 0
	for first+pieces(p.declared[k].shape) <= piece {
		first += pieces(p.declared[k].shape)
		k++
	}
	return p.dataAt + p.declared[k].offset + int64(piece-first)*p.pieces[piece].Size
}

// startPiece prepares to write a piece.
func (p *Packer) startPiece(piece int) {
	p.hash.Reset()
	p.inPiece = 0
	if piece < len(p.pieces) && p.pieces[piece].Slice == 0 {
		p.at = alignUp(p.at-p.dataAt, p.alignment) + p.dataAt
	}
}

// Write appends data to the first piece that is not complete. Data must not go beyond it.
func (p *Packer) Write(b []byte) error {
	done := len(p.stateSums())
	switch {
	case p.failed != nil:
		return p.failed
	case p.state == nil || done == len(p.pieces):
		return usageError(p.path, "", "there is nothing to be written")
	case int64(len(b)) > p.pieces[done].Size-p.inPiece:
		return p.fail(usageError(p.path, p.pieces[done].Tensor, "%d bytes more than the %d declared",
			int64(len(b))-(p.pieces[done].Size-p.inPiece), p.pieces[done].Size))
	}
	if _, err := p.out.WriteAt(b, p.at); err != nil {
		return p.fail(&Error{File: p.path + packPartExt, Tensor: p.pieces[done].Tensor, Offset: p.at,
			Reason: "writing", Kind: ErrIO, Cause: err, Advice: "what is written stays for another try"})
	}
	if _, err := p.hash.Write(b); err != nil {
		return p.fail(err)
	}
	p.at += int64(len(b))
	p.inPiece += int64(len(b))
	p.dirty += int64(len(b))
	if p.inPiece < p.pieces[done].Size {
		return nil
	}
	p.sums[done] = p.hash.Sum64()
	p.state.sums = append(p.state.sums, p.sums[done])
	if p.dirty >= p.options.CheckpointBytes {
		if err := p.checkpoint(); err != nil {
			return p.fail(err)
		}
	}
	p.startPiece(done + 1)
	return nil
}

func (p *Packer) stateSums() []uint64 {
	if p.state == nil {
		return nil
	}
	return p.state.sums
}

// checkpoint brings the data to disk, and then the knowledge of it.
func (p *Packer) checkpoint() error {
	if err := p.out.Sync(); err != nil {
		return ioError(p.path+packPartExt, "bringing the file to disk", err)
	}
	p.dirty = 0
	return p.state.flush()
}

func (p *Packer) fail(err error) error {
	if p.failed == nil {
		p.failed = err
	}
	return err
}

// headerWith renders the header with the checksums as they are now.
func (p *Packer) headerWith(headerSum uint64) ([]byte, error) {
	o := p.outline
	o.metadata = newMetadata(p.path)
	for _, key := range p.metadata.keys {
		o.metadata.add(key, p.metadata.values[key])
	}
	o.metadata.add(packChecksumsKey, Array(p.sums))
	o.metadata.add(packHeaderKey, Scalar(headerSum))
	return o.header()
}

// Commit completes the file: it checks that all pieces are written, writes the header, brings the
// file to disk and gives it its name. After a failure the Packer can be suspended.
func (p *Packer) Commit() error {
	switch {
	case p.failed != nil:
		return p.failed
	case p.state == nil:
		return usageError(p.path, "", "the packer is closed")
	case len(p.state.sums) != len(p.pieces):
		return p.fail(usageError(p.path, p.pieces[len(p.state.sums)].Tensor,
			"the file is not complete: %d of %d pieces are written", len(p.state.sums), len(p.pieces)))
	}
	if err := p.checkpoint(); err != nil {
		return p.fail(err)
	}
	header, err := p.headerWith(0)
	if err == nil {
		header, err = p.headerWith(xxh3.Hash(header))
	}
	if err != nil {
		return p.fail(err)
	}
	if err := p.checkTarget(); err != nil {
		return p.fail(err)
	}
	part := p.path + packPartExt
	if _, err = p.out.WriteAt(header, 0); err == nil {
		err = p.out.Sync()
	}
	if err == nil {
		err = os.Chmod(part, outputMode)
	}
	if err == nil {
		err = os.Rename(part, p.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(p.path))
	}
	if err != nil {
		return p.fail(ioError(p.path, "completing the file", err))
	}
	return p.close(true)
}

// Suspend closes the files and leaves what is written for a Packer that goes on with it; where no
// piece is complete, nothing is left. After Commit, or when called again, it does nothing.
func (p *Packer) Suspend() error {
	if p.state == nil {
		return nil
	}
	if len(p.state.sums) == 0 {
		remove := os.Remove(p.path + packPartExt)
		if errors.Is(remove, fs.ErrNotExist) {
			remove = nil
		}
		return errors.Join(remove, p.close(true))
	}
	var err error
	if p.out != nil {
		err = p.checkpoint()
	}
	return errors.Join(err, p.close(false))
}

// close closes the files, and removes the state if it is of no more use.
func (p *Packer) close(removeState bool) error {
	var err error
	if p.out != nil {
		err = p.out.Close()
	}
	if removeState {
		err = errors.Join(err, os.Remove(p.state.file.Name()))
	}
	err = errors.Join(err, p.state.file.Close())
	p.state, p.out = nil, nil
	if err != nil {
		return ioError(p.path, "closing the files", err)
	}
	return nil
}

// Fingerprint identifies what a model's files hold without reading weights: names, sizes and times
// of the files, and the list of tensors. Where the files lie does not matter.
func (m *Model) Fingerprint() string {
	h := xxh3.New()
	for _, f := range m.files {
		fmt.Fprintf(h, "%q %d %d\n", filepath.Base(f.Path), f.Size, f.modified.UnixNano())
	}
	for i := range m.tensors {
		t := &m.tensors[i]
		fmt.Fprintf(h, "%q %s %v %d %d %d\n", t.Name, t.DType, t.Shape, t.File, t.Offset, t.Size)
	}
	sum := h.Sum128().Bytes()
	return fmt.Sprintf("%x", sum)
}
