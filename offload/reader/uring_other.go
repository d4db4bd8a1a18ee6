//go:build !linux

package reader

import "fmt"

// Uring reads through io_uring, which only Linux has.
type Uring struct{ Pread }

// OpenUring fails with ErrUnsupported.
func OpenUring([]string, Options) (*Uring, error) {
	return nil, fmt.Errorf("reader: %w: io_uring is only in Linux", ErrUnsupported)
}
