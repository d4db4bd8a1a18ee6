package kv

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// unnamedFile makes a file that has no name, and is gone when the process is. File systems that have
// no such files (NFS) get one whose name is removed; those that refuse direct I/O, an ordinary one.
func unnamedFile(dir string, direct bool) (spillFile, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	flags := unix.O_TMPFILE | unix.O_RDWR | unix.O_EXCL | unix.O_CLOEXEC
	if direct {
		f, err := os.OpenFile(dir, flags|unix.O_DIRECT, 0o600)
		if err == nil && acceptsDirect(f) {
			return f, nil
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil && !errors.Is(err, unix.EINVAL) && !noUnnamed(err) {
			return nil, err
		}
	}
	f, err := os.OpenFile(dir, flags, 0o600)
	if err == nil {
		return f, nil
	}
	if noUnnamed(err) {
		return namedFile(dir)
	}
	return nil, err
}

// noUnnamed reports that the file system, or an old kernel, has no files without a name.
func noUnnamed(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOENT)
}

// acceptsDirect tells whether the file system takes requests of spillAlign, as an empty read shows.
func acceptsDirect(f *os.File) bool {
	var s unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &s)
	if err != nil || s.Mask&unix.STATX_DIOALIGN == 0 {
		return true // the kernel does not say; 4096 is what file systems took before it did
	}
	return s.Dio_mem_align > 0 && s.Dio_mem_align <= spillAlign && s.Dio_offset_align <= spillAlign
}
