package engine

import (
	"errors"
	"io/fs"

	"github.com/moering/moering/engine/internal/batch"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
)

// Place says where in the files of a model, or of a batch job, an error lies.
type Place struct {
	File   string // path; "" if no file is concerned
	Tensor string // "" if no tensor is concerned
	Offset int64  // byte offset in File; -1 if no one place is concerned
	Line   int    // of a job's input, counted from 1; 0 if no one line is concerned
}

// Where returns the place that an error of this package names, or the place of nothing.
func Where(err error) Place {
	var damaged *store.Error
	if errors.As(err, &damaged) {
		return Place{File: damaged.File, Tensor: damaged.Tensor, Offset: max(damaged.Offset, -1)}
	}
	var unread *reader.Error
	if errors.As(err, &unread) {
		return Place{File: unread.File, Tensor: unread.Label, Offset: unread.Offset}
	}
	var ofJob *batch.PlaceError
	if errors.As(err, &ofJob) {
		return Place{File: ofJob.File, Offset: -1, Line: ofJob.Line}
	}
	var ofSystem *fs.PathError
	if errors.As(err, &ofSystem) {
		return Place{File: ofSystem.Path, Offset: -1}
	}
	return Place{Offset: -1}
}
