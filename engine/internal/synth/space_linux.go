package synth

import (
	"math"

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
