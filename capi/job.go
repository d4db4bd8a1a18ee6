//go:build cgo

package main

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"time"
	"unsafe"

	"github.com/moering/moering/capi/internal/core"
	"github.com/moering/moering/engine"
)

// Bounds of a job's options; beyond them one is a mistake.
const (
	modelNamesMax = 1 << 10
	syncMax       = 1 << 32 // milliseconds
	spillMax      = 1 << 62
)

func jobOptions(o *C.mr_job_options) (engine.BatchOptions, error) {
	out := engine.BatchOptions{Input: optional(o.input), Output: optional(o.output),
		Errors: optional(o.errors), Journal: optional(o.journal), Follow: optional(o.follow),
		Format: optional(o.format), Report: optional(o.report), SpillDir: optional(o.spill_dir),
		MaxTokens: int(o.tokens_max), Seed: uint64(o.seed), Created: int64(o.created_s),
		Ordered: o.ordered != 0, Overwrite: o.overwrite != 0, Greedy: o.greedy != 0, Chat: o.chat != 0}
	if o.model_names_count > modelNamesMax {
		return out, fmt.Errorf("%w: model_names_count is %d, more than %d", engine.ErrUsage,
			uint64(o.model_names_count), modelNamesMax)
	}
	if o.model_names_count > 0 {
		for i, s := range unsafe.Slice(o.model_names, int(o.model_names_count)) {
			if s == nil {
				return out, fmt.Errorf("%w: model_names[%d] is NULL", engine.ErrUsage, i)
			}
			out.ModelNames = append(out.ModelNames, C.GoString(s))
		}
	}
	if o.sync_ms > syncMax || o.spill_bytes_max > spillMax || o.spill_host_bytes_max > spillMax {
		return out, fmt.Errorf("%w: sync_ms is %d, spill_bytes_max %d, spill_host_bytes_max %d: more "+
			"than makes sense", engine.ErrUsage, uint64(o.sync_ms), uint64(o.spill_bytes_max),
			uint64(o.spill_host_bytes_max))
	}
	out.Sync = time.Duration(o.sync_ms) * time.Millisecond
	out.Spill, out.SpillMemory = int64(o.spill_bytes_max), int64(o.spill_host_bytes_max)
	return out, nil
}

//export mri_job_run
func mri_job_run(path *C.char, eo *C.mr_engine_options, o *C.mr_job_options, out *C.mr_job_result,
	f *C.mri_failure) C.mr_status {
	return call(f, func() error {
		options, err := engineOptions(eo)
		if err != nil {
			return err
		}
		job, err := jobOptions(o)
		if err != nil {
			return err
		}
		ctx, stop := untilSet(eo.open_cancel, o.cancel)
		defer stop()
		r, err := core.RunJob(ctx, C.GoString(path), options, traces(eo), job, poll(eo), jobProgress(o))
		if failed := giveJob(out, &r); err == nil {
			err = failed
		}
		return err
	})
}

// jobProgress is C's callback; nil if there is none.
func jobProgress(o *C.mr_job_options) core.JobProgress {
	report, user := o.progress, o.user
	if report == nil {
		return nil
	}
	return func(p engine.BatchProgress) bool {
		now := (*C.mr_job_progress)(C.calloc(1, C.sizeof_mr_job_progress))
		if now == nil {
			return false
		}
		defer C.free(unsafe.Pointer(now))
		now.struct_size, now.sequences = C.sizeof_mr_job_progress, C.uint32_t(p.Active)
		now.requests, now.finished = C.uint64_t(p.Requests), C.uint64_t(p.Finished)
		now.refused, now.resumed = C.uint64_t(p.Failed), C.uint64_t(p.Resumed)
		now.prompt_tokens, now.new_tokens = C.uint64_t(p.PromptTokens), C.uint64_t(p.NewTokens)
		now.shared_tokens, now.tokens_in_flight = C.uint64_t(p.SharedTokens), C.uint64_t(p.TokensInFlight)
		now.elapsed_ns, now.left_ns = C.uint64_t(p.Elapsed), C.uint64_t(p.Left)
		now.memory_bytes, now.budget_bytes = C.uint64_t(p.Memory), C.uint64_t(p.Budget)
		now.preempted, now.moved_bytes = C.uint64_t(p.Preempted), C.uint64_t(p.MovedBytes)
		now.prefill_tokens_per_s, now.decode_tokens_per_s = C.float(p.PrefillPerS), C.float(p.DecodePerS)
		now.wait_share, now.hit_rate = C.float(p.Stats.WaitShare()), C.float(p.Stats.HitRate())
		return C.mri_call_job(report, user, now) != 0
	}
}

// giveJob fills the result; its paths are lent to this thread.
func giveJob(out *C.mr_job_result, r *engine.BatchResult) error {
	out.complete = truth(r.Complete)
	out.requests, out.finished = C.uint64_t(r.Requests), C.uint64_t(r.Finished)
	out.refused, out.resumed = C.uint64_t(r.Failed), C.uint64_t(r.Resumed)
	out.prompt_tokens, out.new_tokens = C.uint64_t(r.PromptTokens), C.uint64_t(r.NewTokens)
	out.shared_tokens, out.preempted = C.uint64_t(r.SharedTokens), C.uint64_t(r.Preempted)
	out.moved_bytes, out.recomputed_tokens = C.uint64_t(r.MovedBytes), C.uint64_t(r.RecomputedTokens)
	out.elapsed_ns = C.uint64_t(r.Elapsed)
	for _, path := range []struct {
		to   **C.char
		from string
	}{{&out.output, r.Output}, {&out.errors, r.Errors}, {&out.journal, r.Journal}} {
		if path.from == "" {
			continue // the shim's ""
		}
		var b buffer
		p, err := b.text(path.from)
		if err != nil {
			return err
		}
		C.mri_lend(b.p)
		*path.to = p
	}
	return nil
}
