package store

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// OpenFile opens one of the model's files for reading; the caller closes it. With direct, reads
// bypass the page cache (O_DIRECT) and need aligned offsets, lengths and addresses; where the file
// system refuses that, the error says so and OpenFile can be called again without. It fails if the
// file is no longer the one whose header was read.
func (m *Model) OpenFile(index int, direct bool) (*os.File, error) {
	if index < 0 || index >= len(m.files) {
		return nil, usageError(m.path, "", "there is no file %d of %d", index, len(m.files))
	}
	file := m.files[index]
	flags, doing := os.O_RDONLY, "opening"
	if direct {
		if directFlag == 0 {
			return nil, ioError(file.Path, "opening for direct reads", errors.ErrUnsupported)
		}
		flags, doing = flags|directFlag, "opening for direct reads"
	}
	f, err := os.OpenFile(file.Path, flags, 0)
	if err != nil {
		return nil, ioError(file.Path, doing, err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() == file.Size && info.ModTime().Equal(file.modified) {
		return f, nil
	}
	closeErr := f.Close()
	if err = errors.Join(err, closeErr); err != nil {
		return nil, ioError(file.Path, doing, err)
	}
	return nil, formatError(file.Path, "", noOffset, "open the model again",
		"the file has changed since the model was opened")
}

// OpenFiles opens all files of the model, in the order of Files, as OpenFile does. On failure
// nothing stays open.
func (m *Model) OpenFiles(direct bool) ([]*os.File, error) {
	opened := make([]*os.File, 0, len(m.files))
	for i := range m.files {
		f, err := m.OpenFile(i, direct)
		if err != nil {
			for _, f := range opened {
				err = errors.Join(err, f.Close())
			}
			return nil, err
		}
		opened = append(opened, f)
	}
	return opened, nil
}

// ReadTensor reads all bytes of a small tensor through the page cache, and checks them where the
// file has checksums. A tensor of more than bytesMax bytes is refused before memory is taken for
// it. The slice is the caller's own.
func (m *Model) ReadTensor(name string, bytesMax int64) (data []byte, err error) {
	t, err := m.Tensor(name)
	if err != nil {
		return nil, err
	}
	file := m.files[t.File].Path
	if t.Size > bytesMax {
		return nil, usageError(file, name, "%d bytes, where at most %d are expected", t.Size, bytesMax)
	}
	f, err := m.OpenFile(t.File, false)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := f.Close(); closeErr != nil && err == nil {
			data, err = nil, ioError(file, "closing", closeErr)
		}
	}()
	data = make([]byte, t.Size)
	if err := readFull(f, data, t.Offset); err != nil {
		return nil, readFailed(file, name, t.Offset, fmt.Sprintf("%d bytes", t.Size), err)
	}
	if err := m.verifyTensor(m.byName[name], data); err != nil {
		return nil, err
	}
	return data, nil
}

// readFull fills p from offset, or fails with io.ErrUnexpectedEOF where the bytes end.
func readFull(r io.ReaderAt, p []byte, offset int64) error {
	n, err := r.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readFailed tells a file that ended early from a failing device.
func readFailed(file, tensor string, offset int64, what string, cause error) error {
	e := &Error{File: file, Tensor: tensor, Offset: offset, Reason: "reading " + what, Kind: ErrIO,
		Cause: cause}
	if errors.Is(cause, io.ErrUnexpectedEOF) {
		e.Kind, e.Advice = ErrFormat, adviceDamaged
	}
	return e
}
