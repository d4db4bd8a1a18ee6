package reader

import (
	"sync"

	"golang.org/x/sys/unix"
)

// threadClock reads the processor time that one thread has used, from any thread of the process.
// Safe for concurrent use.
type threadClock struct {
	mu    sync.Mutex
	clock int32 // 0 when the thread has been given back
	base  int64 // what it had used before, then what it used in all
}

// start begins to count the calling thread, which must stay locked until stop.
func (t *threadClock) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The clock of a thread by its number, from the kernel's include/linux/posix-timers_types.h:
	// the complement, shifted, with CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED.
	t.clock = int32(^unix.Gettid()<<3 | 4 | 2)
	t.base = t.read()
}

// stop keeps the count.
func (t *threadClock) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.base, t.clock = t.read()-t.base, 0
}

// nanos is the time used since start, or CPUUnknown.
func (t *threadClock) nanos() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clock == 0 {
		return t.base
	}
	if now := t.read(); now > 0 {
		return now - t.base
	}
	return CPUUnknown
}

func (t *threadClock) read() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(t.clock, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
