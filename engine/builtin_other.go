//go:build !linux

package engine

import (
	"errors"
	"os"
)

// privateFile puts data into a temporary file that only this user can read; done removes it.
func privateFile(name, data string) (path string, done func() error, err error) {
	f, err := os.CreateTemp("", name+"-*.gguf")
	if err != nil {
		return "", nil, err
	}
	_, err = f.WriteString(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", nil, errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), func() error { return os.Remove(f.Name()) }, nil
}
