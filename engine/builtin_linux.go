package engine

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// privateFile puts data into a file that lies in memory and has no name; the path leads to it from
// this process alone, until done is called. Files that were opened by then stay readable.
func privateFile(name, data string) (path string, done func() error, err error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return "", nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteString(data); err != nil {
		f.Close()
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), f.Close, nil
}
