package reader

import (
	"errors"
	"fmt"
)

// The kinds of reader that Open knows.
const (
	KindAuto  = "auto" // io_uring if the system lets us, else the pool
	KindUring = "uring"
	KindPread = "pread"
	KindSim   = "sim" // the files' bytes with Options.Sim's faults
)

// Open opens the files with the kind of reader that the options name. With KindAuto, a system that
// refuses io_uring is no error: the pool is used, and the reason is logged and part of Info.
func Open(names []string, o Options) (Reader, error) {
	switch o.Kind {
	case KindPread:
		return OpenPread(names, o)
	case KindUring:
		return OpenUring(names, o)
	case KindSim:
		return OpenSim(names, o)
	case KindAuto, "":
		return openAuto(names, o)
	}
	return nil, usageError("kind %q is none of %s, %s, %s and %s", o.Kind, KindAuto, KindUring,
		KindPread, KindSim)
}

// openAuto prefers io_uring.
func openAuto(names []string, o Options) (Reader, error) {
	uring, refusal := OpenUring(names, o)
	if refusal == nil {
		return uring, nil
	}
	if !errors.Is(refusal, ErrUnsupported) {
		return nil, refusal
	}
	checked, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	pread, err := OpenPread(names, o)
	if err != nil {
		return nil, err
	}
	checked.Logger.Info("io_uring is not available, reading with pread", "reason", refusal)
	return &fallen{Pread: pread, reason: refusal}, nil
}

// fallen is a pool that stands in for io_uring and says why.
type fallen struct {
	*Pread
	reason error
}

// Info adds the reason.
func (f *fallen) Info() string {
	return fmt.Sprintf("%s (no io_uring: %v)", f.Pread.Info(), f.reason)
}
