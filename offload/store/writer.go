package store

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/moering/moering/kernels/quant"
)

// Sizes of the writer's buffers. Large writes keep system calls far below the cost of the copy.
const (
	writerBufferBytes = 4 << 20
	writerChunkBytes  = 1 << 20
	// emptyReadsMax bounds how often a source may give neither data nor an error.
	emptyReadsMax = 100
)

// WriterOptions are the choices of a Writer. The zero value works.
type WriterOptions struct {
	// Alignment of every tensor's data in bytes, a power of two; 0 means 32, the GGUF default.
	// Another value is written as general.alignment.
	Alignment uint32
	// Progress, if there is one, is called now and then, and at the end, with the bytes of tensor
	// data written so far and in all. It runs on the caller's goroutine.
	Progress func(written, total int64)
}

// Writer writes a GGUF file, version 3, as a stream: metadata and tensors are declared first, then
// the data of the tensors is written in the order of declaration, in constant memory. The file
// appears under its name at Commit, complete and on disk, or not at all.
//
//	w, err := NewGGUFWriter(path, WriterOptions{})
//	defer w.Abort()
//	w.SetMetadata("general.architecture", Scalar("llama"))
//	w.Declare("output.weight", quant.Q8_0, []int64{rows, columns})
//	w.WriteTensor("output.weight", data)
//	w.Commit()
//
// After a failed write only Abort is of use. A Writer is not safe for concurrent use.
type Writer struct {
	outline
	options  WriterOptions
	file     *os.File // temporary, beside path; nil after Commit or Abort
	out      *bufio.Writer
	started  bool  // the header has been written
	current  int   // index of the tensor that data is written to
	inTensor int64 // bytes of it written
	written  int64 // bytes of tensor data written, without padding
	chunk    []byte
	failed   error // sticks
}

// NewGGUFWriter begins a GGUF file that will appear at path. It makes a temporary file in the same
// directory, which Abort removes.
func NewGGUFWriter(path string, options WriterOptions) (*Writer, error) {
	if options.Alignment == 0 {
		options.Alignment = ggufAlignmentDefault
	}
	o, err := newOutline(path, options.Alignment)
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-*")
	if err != nil {
		return nil, ioError(path, "making a temporary file", err)
	}
	return &Writer{outline: o, options: options, file: file,
		out: bufio.NewWriterSize(file, writerBufferBytes)}, nil
}

// SetMetadata adds a key; keys are written in the order in which they are added. A key that is
// there already, general.alignment (which the options set) and a call after the first tensor data
// are refused.
func (w *Writer) SetMetadata(key string, v Value) error {
	if w.started || w.file == nil {
		return usageError(w.path, "", "metadata %s comes after tensor data", quoted(key))
	}
	return w.setMetadata(key, v)
}

// Declare adds a tensor, of at most 4 dims with the outermost first. Each row (the last dim) must
// be a whole number of blocks. Names of more than 63 bytes are refused, as other readers do.
func (w *Writer) Declare(name string, kind quant.Type, shape []int64) error {
	if w.started || w.file == nil {
		return usageError(w.path, name, "declared after tensor data")
	}
	return w.declare(name, kind, shape)
}

// Total is the bytes of tensor data declared so far.
func (w *Writer) Total() int64 { return w.total }

// WriteTensor writes all data of the next tensor from r, which must give exactly its bytes.
func (w *Writer) WriteTensor(name string, r io.Reader) error {
	if w.chunk == nil {
		w.chunk = make([]byte, writerChunkBytes)
	}
	for empty := 0; ; {
		n, err := r.Read(w.chunk)
		if empty++; n == 0 && err == nil && empty > emptyReadsMax {
			err = io.ErrNoProgress
		}
		if n > 0 {
			empty = 0
			if err := w.WriteChunk(name, w.chunk[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return w.finishTensor(name)
		}
		if err != nil {
			return w.fail(&Error{File: w.path, Tensor: name, Offset: noOffset, Kind: ErrIO,
				Reason: "reading the data to write", Cause: err})
		}
	}
}

// WriteChunk appends data to a tensor: the one begun last, or the next one if that is complete. Any
// other order, and more data than was declared, are refused.
func (w *Writer) WriteChunk(name string, p []byte) error {
	if err := w.start(); err != nil {
		return err
	}
	if w.current == len(w.declared) || w.declared[w.current].name != name {
		return w.fail(usageError(w.path, name, "data out of order: %s", w.position()))
	}
	t := &w.declared[w.current]
	if left := t.size - w.inTensor; int64(len(p)) > left {
		return w.fail(usageError(w.path, name, "%d bytes more than the %d declared",
			int64(len(p))-left, t.size))
	}
	if _, err := w.out.Write(p); err != nil {
		return w.fail(ioError(w.path, "writing", err))
	}
	w.inTensor += int64(len(p))
	w.written += int64(len(p))
	if w.inTensor == t.size {
		w.pad(t.offset + t.size)
		w.current, w.inTensor = w.current+1, 0
	}
	if w.failed == nil && w.options.Progress != nil {
		w.options.Progress(w.written, w.total)
	}
	return w.failed
}

// finishTensor checks, at the end of its data, that a tensor is complete.
func (w *Writer) finishTensor(name string) error {
	if err := w.start(); err != nil {
		return err
	}
	if w.inTensor == 0 && w.current > 0 && w.declared[w.current-1].name == name {
		return nil
	}
	return w.fail(usageError(w.path, name, "its data ended early: %s", w.position()))
}

// position says where the writer is, for messages.
func (w *Writer) position() string {
	if w.current == len(w.declared) {
		return "all declared tensors are written"
	}
	t := &w.declared[w.current]
	return "tensor " + quoted(t.name) + " has " + decimal(w.inTensor) + " of its " + decimal(t.size) +
		" bytes"
}

// Commit completes the file: it checks that all declared data was written, brings it to disk and
// gives it its name, in place of a file that has it. Then the Writer is done. After a failure the
// temporary file is still there, for Abort to remove.
func (w *Writer) Commit() error {
	if err := w.start(); err != nil {
		return err
	}
	if w.current != len(w.declared) {
		return w.fail(usageError(w.path, "", "the file is not complete: %s", w.position()))
	}
	if err := w.out.Flush(); err != nil {
		return w.fail(ioError(w.path, "writing", err))
	}
	if err := w.file.Chmod(outputMode); err != nil {
		return w.fail(ioError(w.path, "setting the mode", err))
	}
	if err := w.file.Sync(); err != nil {
		return w.fail(ioError(w.path, "bringing the file to disk", err))
	}
	if err := os.Rename(w.file.Name(), w.path); err != nil {
		return w.fail(ioError(w.path, "giving the file its name", err))
	}
	err := w.file.Close()
	w.file = nil
	if err = errors.Join(err, syncDir(filepath.Dir(w.path))); err != nil {
		return ioError(w.path, "bringing the file's name to disk", err)
	}
	return nil
}

// outputMode is that of an ordinary new file; temporary files are made for their owner alone.
const outputMode = 0o644

// syncDir brings a renamed file's directory entry to disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Abort removes the temporary file. After Commit, or when called again, it does nothing.
func (w *Writer) Abort() error {
	if w.file == nil {
		return nil
	}
	name := w.file.Name()
	err := errors.Join(w.file.Close(), os.Remove(name))
	w.file = nil
	if err != nil {
		return ioError(name, "removing the temporary file", err)
	}
	return nil
}

// fail makes an error stick: what follows a failed write would end in a wrong file.
func (w *Writer) fail(err error) error {
	if w.failed == nil {
		w.failed = err
	}
	return err
}

// start writes the header before the first data, and reports a Writer that is done or has failed.
func (w *Writer) start() error {
	if w.file == nil {
		return usageError(w.path, "", "the writer is closed")
	}
	if w.failed != nil || w.started {
		return w.failed
	}
	w.started = true
	header, err := w.header()
	if err != nil {
		return w.fail(err)
	}
	if _, err := w.out.Write(header); err != nil {
		return w.fail(ioError(w.path, "writing", err))
	}
	w.pad(int64(len(header)))
	return w.failed
}

// pad writes zeros from end to the next multiple of the alignment.
func (w *Writer) pad(end int64) {
	for n := alignUp(end, int64(w.options.Alignment)) - end; n > 0 && w.failed == nil; n-- {
		if err := w.out.WriteByte(0); err != nil {
			w.failed = ioError(w.path, "writing", err)
		}
	}
}
