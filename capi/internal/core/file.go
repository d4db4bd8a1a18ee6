package core

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moering/moering/engine"
)

// fileBuffer is how much of a state is written or read at once.
const fileBuffer = 1 << 20

// SaveFile writes the state to a file that is there complete or not at all: under another name
// first, and on disk before it gets its own.
func (s *Session) SaveFile(ctx context.Context, path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("%w: saving the session: %w", engine.ErrIO, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	w := bufio.NewWriterSize(f, fileBuffer)
	err = s.Save(ctx, w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return ioError(err)
}

// RestoreFile reads what SaveFile wrote; the file holds nothing else.
func (s *Session) RestoreFile(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: restoring a session: %w", engine.ErrIO, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return ioError(s.Restore(bufio.NewReaderSize(f, fileBuffer)))
}

// ioError gives an error of the file system its kind.
func ioError(err error) error {
	var path *os.PathError
	var link *os.LinkError
	if errors.As(err, &path) || errors.As(err, &link) {
		return fmt.Errorf("%w: %w", engine.ErrIO, err)
	}
	return err
}
