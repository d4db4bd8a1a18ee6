//go:build cgo

package main

/*
#include "shim.h"
*/
import "C"

import (
	"slices"

	"github.com/moering/moering/capi/internal/core"
)

// batch is a batch and the memory that it lends to C; that is touched inside Next alone.
type batch struct {
	*core.Batch
	text, tokens, message buffer
	borrower              *C.mri_failure // of the thread that made the last call
}

//export mri_batch_open
func mri_batch_open(out *C.uint64_t, handle C.uint64_t, o *C.mr_session_options,
	parallel C.uint32_t, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		options, err := sampling(o)
		if err != nil {
			return err
		}
		b, err := e.NewBatch(options, int(parallel))
		if err != nil {
			return err
		}
		added, err := library.batches.Add(&batch{Batch: b})
		if err != nil {
			return join(err, b.Close())
		}
		*out = C.uint64_t(added)
		return nil
	})
}

// onBatch runs work on an open batch.
func onBatch(f *C.mri_failure, handle C.uint64_t, work func(*batch) error) C.mr_status {
	return call(f, func() error {
		b, err := library.batches.Get(uint64(handle))
		if err != nil {
			return err
		}
		return work(b)
	})
}

//export mri_batch_submit
func mri_batch_submit(handle, id C.uint64_t, p *C.char, size C.size_t, f *C.mri_failure,
) C.mr_status {
	return onBatch(f, handle, func(b *batch) error {
		t, err := text(p, size)
		if err != nil {
			return err
		}
		return b.Submit(uint64(id), t, nil)
	})
}

//export mri_batch_submit_tokens
func mri_batch_submit_tokens(handle, id C.uint64_t, p *C.int32_t, n C.size_t, f *C.mri_failure,
) C.mr_status {
	return onBatch(f, handle, func(b *batch) error {
		ids, err := view[int32](p, n)
		if err != nil {
			return err
		}
		return b.Submit(uint64(id), "", append([]int32{}, slices.Clone(ids)...))
	})
}

//export mri_batch_next
func mri_batch_next(handle C.uint64_t, out *C.mr_result, f *C.mri_failure) C.mr_status {
	return onBatch(f, handle, func(b *batch) error {
		return b.Next(func(r core.Result) error {
			b.borrower = f
			return b.give(out, r)
		})
	})
}

func (b *batch) give(out *C.mr_result, r core.Result) error {
	message := ""
	if r.Err != nil {
		message = r.Err.Error()
	}
	p, err := b.text.text(r.Text)
	if err != nil {
		return err
	}
	e, err := b.message.text(message)
	if err != nil {
		return err
	}
	tokens, err := lend(&b.tokens, r.Tokens)
	if err != nil {
		return err
	}
	out.id, out.status = C.uint64_t(r.ID), C.mr_status(core.Status(r.Err))
	out.text, out.text_size, out.error = p, C.size_t(len(r.Text)), e
	out.tokens, out.tokens_count = (*C.int32_t)(tokens), C.size_t(len(r.Tokens))
	out.prompt_tokens, out.finish = C.uint32_t(r.PromptTokens), finish(r.Finish)
	return nil
}

//export mri_batch_cancel
func mri_batch_cancel(handle C.uint64_t) {
	_ = core.Guard(func() error {
		b, err := library.batches.Get(uint64(handle))
		if err != nil {
			return err
		}
		b.Cancel()
		return nil
	})
}

//export mri_batch_wake
func mri_batch_wake(handle C.uint64_t) {
	_ = core.Guard(func() error {
		b, err := library.batches.Get(uint64(handle))
		if err != nil {
			return err
		}
		b.Wake()
		return nil
	})
}

//export mri_batch_close
func mri_batch_close(handle C.uint64_t) {
	_ = core.Guard(func() error {
		b, err := library.batches.Take(uint64(handle))
		if err != nil {
			return err // closed before
		}
		err = b.Close()
		b.text.release(b.borrower)
		b.tokens.release(b.borrower)
		b.message.release(b.borrower)
		return err
	})
}
