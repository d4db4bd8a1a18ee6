package pack

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/offload/store"
)

// generation is part of what an interrupted pack must agree in to be gone on with: it changes with
// the code that makes bytes.
const generation = "1"

// Report says what Run did.
type Report struct {
	Bytes   int64 // of the weights in the packed file
	Resumed int64 // of them, bytes that an earlier run had written
	Pieces  int   // checksums
	Notes   []string
}

// Run writes a packed file at path. Progress, if not nil, receives the bytes of weights that are
// written, with those of an earlier run, and in all. After a failure, and when ctx ends, what is
// written stays beside the target, and the same Run goes on from there.
//
// Errors wrap one of this package, or one of packages store and arch, or that of ctx.
func Run(ctx context.Context, m *arch.Model, path string, o Options,
	progress func(done, total int64)) (r Report, err error) {
	if err := o.check(); err != nil {
		return r, err
	}
	if err := notItself(m.Store, path); err != nil {
		return r, err
	}
	p, err := makePlan(m, o)
	if err != nil {
		return r, err
	}
	w, headerBytes, err := p.packer(path, o)
	if err != nil {
		return r, err
	}
	elements, least := chunkElements(o.Memory, headerBytes, o.Threads)
	if elements == 0 {
		return r, fmt.Errorf("%w: %d bytes; the least that works is %d", ErrBudget, o.Memory, least)
	}
	c := &converter{m: m, elements: elements, threads: o.Threads}
	if c.integrity, err = m.Store.Integrity(store.VerifyAlways); err != nil {
		return r, err
	}
	if c.files, err = m.Store.OpenFiles(false); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, closeAll(c.files)) }()
	done, err := w.Begin(o.Layout)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, w.Suspend()) }()
	r = Report{Bytes: w.Total(), Pieces: len(w.Pieces()), Notes: p.noteLines()}
	for _, piece := range w.Pieces()[:done] {
		r.Resumed += piece.Size
	}
	written := r.Resumed
	sources, kinds := p.sources()
	err = c.run(ctx, sources[done:], kinds[done:], func(b []byte) error {
		written += int64(len(b))
		if progress != nil {
			progress(written, r.Bytes)
		}
		return w.Write(b)
	})
	if err != nil {
		return r, err
	}
	return r, w.Commit()
}

// packer returns a packer that knows what comes, and about how many bytes the header has.
func (p *plan) packer(path string, o Options) (w *store.Packer, headerBytes int64, err error) {
	w, err = store.NewPacker(path, store.PackOptions{Force: o.Force, CheckpointBytes: o.Checkpoint,
		Source: generation + " " + p.m.Store.Fingerprint()})
	if err != nil {
		return nil, 0, err
	}
	entries, err := p.metadata(o)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		if err := w.SetMetadata(e.key, e.value); err != nil {
			return nil, 0, err
		}
	}
	if err := p.declare(w); err != nil {
		return nil, 0, err
	}
	return w, w.HeaderBytes(), nil
}

// notItself refuses a target that is one of the source's files.
func notItself(s *store.Model, path string) error {
	target, err := os.Stat(path)
	if err != nil {
		return nil // a target that is not there, or that the packer will complain of
	}
	for _, f := range s.Files() {
		if info, err := os.Stat(f.Path); err == nil && os.SameFile(info, target) {
			return fmt.Errorf("%w: the target is the model itself: %s", ErrOptions, path)
		}
	}
	return nil
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
