package reader

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// file is an open file to be read at offsets.
type file struct {
	name   string
	fd     int
	cache  int // if both: a second descriptor, for reads through the page cache
	both   bool
	align  int    // what direct reads ask for, in bytes
	direct bool   // reads bypass the page cache
	reason string // why they do not, if that was wished for
	device uint64 // st_dev: major number in the upper half, minor in the lower
	size   int64
	sparse bool // it has fewer blocks than bytes: reading it says little of the device
}

// openFile opens a regular file, for direct reads unless the file system refuses them. The reason
// for that is kept; it is an error only that a file cannot be read at all. With keep, a file that is
// read directly can be read through the page cache too, by readCached.
func openFile(name string, buffered, keep bool) (file, error) {
	f := file{name: name, fd: -1, align: Align}
	fd, err := open(name, 0)
	if err != nil {
		return f, &Error{File: name, Cause: fmt.Errorf("open: %w", err)}
	}
	var stat unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH,
		unix.STATX_TYPE|unix.STATX_SIZE|unix.STATX_BLOCKS|unix.STATX_DIOALIGN, &stat)
	if err == nil && stat.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("not a regular file")
	}
	if err != nil {
		unix.Close(fd)
		return f, &Error{File: name, Cause: err}
	}
	f.fd, f.size = fd, int64(stat.Size)
	f.sparse = int64(stat.Blocks)*512 < f.size
	f.device = uint64(stat.Dev_major)<<32 | uint64(stat.Dev_minor)
	if buffered {
		f.reason = "buffered reads were asked for"
	} else if direct, reason := openDirect(&f, &stat); reason == "" {
		f.fd, f.direct = direct, true
		if f.both = keep; keep {
			f.cache = fd
		} else {
			unix.Close(fd)
		}
		return f, nil
	} else {
		f.reason = reason
	}
	f.align = Align
	// Experts are read as a whole and in no order: read-ahead would only read what nobody wants.
	// Advice, so a refusal changes nothing.
	_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_RANDOM)
	return f, nil
}

// openDirect opens the file a second time past the page cache and sets the alignment; a reason says
// why that cannot be done.
func openDirect(f *file, stat *unix.Statx_t) (fd int, reason string) {
	if stat.Mask&unix.STATX_DIOALIGN != 0 {
		f.align = int(max(stat.Dio_mem_align, stat.Dio_offset_align))
		switch {
		case f.align == 0:
			return -1, "the file system offers no direct reads of this file (statx)"
		case f.align > Align || f.align&(f.align-1) != 0:
			return -1, fmt.Sprintf("direct reads of this file must be aligned to %d bytes, "+
				"memory is aligned to %d", f.align, Align)
		}
	}
	fd, err := open(f.name, unix.O_DIRECT)
	if err != nil {
		return -1, fmt.Sprintf("the file system refuses O_DIRECT: open: %v", err)
	}
	if err := tryRead(fd); err != nil { // some accept the flag and refuse the reads
		unix.Close(fd)
		return -1, fmt.Sprintf("the file system refuses direct reads: %v", err)
	}
	return fd, ""
}

// tryRead reads the first block into aligned memory.
func tryRead(fd int) error {
	memory := make([]byte, 2*Align)
	skip := -uintptr(unsafe.Pointer(&memory[0])) & (Align - 1)
	for range retriesMax {
		_, err := unix.Pread(fd, memory[skip:skip+Align], 0)
		if err != unix.EINTR && err != unix.EAGAIN {
			return err
		}
	}
	return unix.EAGAIN
}

// open opens for reading, again if a signal interrupts.
func open(name string, flags int) (int, error) {
	for range retriesMax {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
	return -1, unix.EINTR
}

// readAt is pread(2).
func (f *file) readAt(buf []byte, offset int64) (int, error) {
	return unix.Pread(f.fd, buf, offset)
}

// readCached reads what is in the page cache and nothing else.
func (f *file) readCached(buf []byte, offset int64) (int, error) {
	fd := f.fd
	if f.both {
		fd = f.cache
	} else if f.direct {
		return 0, errNotCached
	}
	n, err := unix.Preadv2(fd, [][]byte{buf}, offset, unix.RWF_NOWAIT)
	if err != nil {
		return 0, errNotCached
	}
	return n, nil
}

// system names the file system that the file is on, by kind and identity.
func (f *file) system() string {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &stat); err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%x-%x-%x", stat.Type, uint32(stat.Fsid.Val[0]), uint32(stat.Fsid.Val[1]))
}

// mapMemory returns whole pages of zeroed memory.
func mapMemory(bytes int) ([]byte, error) {
	return unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

// unmapMemory gives it back.
func unmapMemory(b []byte) { _ = unix.Munmap(b) } // fails only for memory that is not mapped

// close closes the descriptors.
func (f *file) close() error {
	return errors.Join(unix.Close(f.fd), f.closeCache())
}

// closeCache ends readCached of a file that is read directly.
func (f *file) closeCache() (err error) {
	if f.both {
		err = unix.Close(f.cache)
	}
	f.both = false
	return err
}
