package synth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"

	"github.com/moering/moering/offload/store"
)

// ErrSpace is wrapped when the file system has too little room.
var ErrSpace = errors.New("no space")

const (
	// chunkBytes are made and written at once: small enough for a cache, large enough for the disk.
	chunkBytes = 1 << 20
	// headerSpace is added to the tensor data when asking for room on disk.
	headerSpace = 64 << 20
)

// Write writes a model to path, a file or with Safetensors a directory, which appears complete or not at
// all. The same options give the same bytes. Progress, if not nil, receives the bytes of weights written
// and in all. Errors wrap ErrOptions, ErrSpace, an error of package store, or that of ctx, which is
// looked at every MiB.
func Write(ctx context.Context, path string, o Options,
	progress func(done, total int64)) (err error) {
	if o, err = o.Complete(); err != nil {
		return err
	}
	if o.Safetensors {
		return writeDirectory(ctx, path, o, progress)
	}
	tensors, err := layout(o)
	if err != nil {
		return err
	}
	w, err := store.NewGGUFWriter(path, store.WriterOptions{Progress: progress})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	if err := declare(w, o, tensors); err != nil {
		return err
	}
	if err := checkSpace(filepath.Dir(path), w.Total()+headerSpace); err != nil {
		return err
	}
	err = generate(ctx, o, tensors, func(t *tensor, p []byte) error { return w.WriteChunk(t.name, p) })
	if err != nil {
		return err
	}
	return w.Commit()
}

func declare(w *store.Writer, o Options, tensors []tensor) error {
	traits, err := traitsOf(o.Family)
	if err != nil {
		return err
	}
	for _, e := range metadata(o, traits) {
		if err := w.SetMetadata(e.key, e.value); err != nil {
			return err
		}
	}
	for _, t := range tensors {
		if err := w.Declare(t.name, t.kind, t.shape); err != nil {
			return err
		}
	}
	return nil
}

func checkSpace(dir string, need int64) error {
	free, known := freeBytes(dir)
	if known && free < need {
		return fmt.Errorf("%w: %s has %d MB free, and the model needs %d MB", ErrSpace, dir,
			free/1e6, need/1e6)
	}
	return nil
}

// generate makes the bytes of tensors and hands them out in pieces; each tensor has a seed of its own.
func generate(ctx context.Context, o Options, tensors []tensor, write func(t *tensor, p []byte) error) error {
	chunk := make([]byte, chunkBytes)
	for i := range tensors {
		t := &tensors[i]
		r := rand.NewPCG(o.Seed, uint64(i))
		whole := int64(len(chunk) - len(chunk)%t.kind.BlockBytes())
		for left := t.bytes(); left > 0; {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := chunk[:min(whole, left)]
			if t.deviation == 0 {
				fillOnes(t.kind, p)
			} else {
				fill(t.kind, p, r, t.deviation)
			}
			if err := write(t, p); err != nil {
				return err
			}
			left -= int64(len(p))
		}
	}
	return nil
}
