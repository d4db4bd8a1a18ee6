//go:build unix

package batch

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock takes the file for this process alone, without waiting; it ends with the file's closing, or
// with the process, however that ends.
func lock(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// syncDir makes the name of a file as safe as its contents.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
