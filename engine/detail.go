package engine

import (
	"errors"

	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
)

// Place says where in a model's files an error lies.
type Place struct {
	File   string // path; "" if no file is concerned
	Tensor string // "" if no tensor is concerned
	Offset int64  // byte offset in File; -1 if no one place is concerned
}

// Where returns the place that an error of this package names, or the place of nothing.
func Where(err error) Place {
	var damaged *store.Error
	if errors.As(err, &damaged) {
		return Place{damaged.File, damaged.Tensor, max(damaged.Offset, -1)}
	}
	var unread *reader.Error
	if errors.As(err, &unread) {
		return Place{unread.File, unread.Label, unread.Offset}
	}
	return Place{Offset: -1}
}
