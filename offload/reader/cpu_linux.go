package reader

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// threadNanos is the processor time that the calling thread has used.
func threadNanos() int64 {
	var ts unix.Timespec
	_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID,
		uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		return 0
	}
	return ts.Nano()
}
