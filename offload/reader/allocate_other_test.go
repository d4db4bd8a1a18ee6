//go:build !linux

package reader

import (
	"errors"
	"os"
)

// allocate is Linux's alone.
func allocate(*os.File, int64) error { return errors.ErrUnsupported }
