package store

import (
	"io"
	"os"
	"path/filepath"
	"strings"
)

// The names of a Hugging Face checkpoint.
const (
	safetensorsFile  = "model.safetensors"
	safetensorsIndex = "model.safetensors.index.json"
	safetensorsExt   = ".safetensors"
	ggufExt          = ".gguf"
)

const adviceOpen = "give a .gguf file, a .safetensors file or a Hugging Face directory"

// Open reads the headers of a model and checks them. The path is one of
//
//   - a GGUF file; of a split set (name-00001-of-00003.gguf), any one file;
//   - a Hugging Face directory with config.json and either model.safetensors or
//     model.safetensors.index.json with the files that it names;
//   - a .safetensors file of such a directory, or the index itself.
//
// # Errors
//
// All errors are *Error values that wrap
//   - ErrIO where the system could not read, with the system's error;
//   - ErrFormat for a file or a set of files that is not well formed;
//   - ErrUnsupported for versions, byte orders and types that are not known, and for paths that are
//     no model;
//   - ErrNotFound where config.json or a metadata key of a split set is missing.
//
// After an error nothing stays open; neither does after success.
func Open(path string) (*Model, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, ioError(path, "looking for the model", err)
	}
	base := filepath.Base(path)
	switch {
	case info.IsDir():
		return openDir(path, path)
	case base == safetensorsIndex:
		return openDir(path, filepath.Dir(path))
	case strings.HasSuffix(base, safetensorsExt):
		return openSafetensors(path)
	case strings.HasSuffix(base, ggufExt):
		return openGGUF(path)
	}
	return openByContent(path)
}

// openByContent opens a file whose name says nothing, as in content-addressed caches, by its magic.
func openByContent(path string) (*Model, error) {
	_, _, err := readFileHeader(path, func(r io.ReaderAt, file File) (part, error) {
		magic := make([]byte, len(ggufMagic))
		if err := readFull(r, magic, 0); err != nil || string(magic) != ggufMagic {
			return part{}, &Error{File: path, Offset: noOffset, Kind: ErrUnsupported,
				Reason: "not a model file that is read here", Advice: adviceOpen}
		}
		return part{}, nil
	})
	if err != nil {
		return nil, err
	}
	return openGGUF(path)
}

// readFileHeader opens a file for as long as read takes.
func readFileHeader(path string, read func(io.ReaderAt, File) (part, error),
) (p part, info os.FileInfo, err error) {
	if err := checkRegular(path); err != nil {
		return part{}, nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return part{}, nil, ioError(path, "opening", err)
	}
	defer func() {
		if closeErr := f.Close(); closeErr != nil && err == nil {
			err = ioError(path, "closing", closeErr)
		}
	}()
	info, err = f.Stat()
	if err != nil {
		return part{}, nil, ioError(path, "looking at the file", err)
	}
	p, err = read(f, File{Path: path, Size: info.Size(), modified: info.ModTime()})
	return p, info, err
}

// checkRegular refuses what is not a regular file: a pipe or a device would hang or never end.
func checkRegular(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return ioError(path, "looking for the file", err)
	}
	if !info.Mode().IsRegular() {
		return &Error{File: path, Offset: noOffset, Kind: ErrUnsupported,
			Reason: "not a regular file", Advice: adviceOpen}
	}
	return nil
}
