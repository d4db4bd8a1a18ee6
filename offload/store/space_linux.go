package store

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// freeBytes is what an ordinary user may still write to the file system of dir.
func freeBytes(dir string) (n int64, known bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil || s.Bsize <= 0 {
		return 0, false
	}
	blocks := min(s.Bavail, math.MaxInt64/uint64(s.Bsize))
	return int64(blocks) * int64(s.Bsize), true
}

// lockFile takes the exclusive lock of a file, which ends with the descriptor or the process. It
// fails if another has it; a file system without locks is no failure.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	return nil
}
