package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/moering/moering/offload/reader"
	shipped "github.com/moering/moering/tests/testdata/tiny"
)

// builtinPrefix marks names of models that are part of the program in place of paths.
const builtinPrefix = "mr:"

// Builtin is the path of the model that is part of every program with this package: 20 million
// parameters, trained on Go source code; for trying things out, and for tests without files.
const Builtin = builtinPrefix + "tiny"

// withFile calls open with the path of a model's file: the path itself, or for a built-in model
// that of a private copy in memory, which goes when the last of its files is closed. File systems
// in memory have no direct reads, so that Auto is Off there.
func withFile(path string, o Options, open func(file string, o Options) error) error {
	if !strings.HasPrefix(path, builtinPrefix) {
		return open(path, o)
	}
	if path != Builtin {
		return fmt.Errorf("%w: there is no built-in model %q; there is %q", ErrUsage, path, Builtin)
	}
	file, done, err := privateFile("moering-tiny", shipped.Model())
	if err != nil {
		return fmt.Errorf("%w: built-in model: %w", ErrIO, err)
	}
	if o.DirectIO == Auto {
		o.DirectIO = Off
	}
	err = open(file, o)
	if doneErr := done(); err == nil && doneErr != nil {
		err = fmt.Errorf("%w: built-in model: %w", ErrIO, doneErr)
	}
	return err
}

// interruptible is a reader that takes no more requests once the context has ended.
type interruptible struct {
	reader.Reader
	ctx context.Context
}

func (r interruptible) Submit(q *reader.Request) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	return r.Reader.Submit(q)
}
