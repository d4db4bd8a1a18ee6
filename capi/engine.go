//go:build cgo

package main

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/moering/moering/capi/internal/core"
	"github.com/moering/moering/engine"
)

// ioTimeoutMax is what io_timeout_ms may be: 49 days. The engine's own bound is less.
const ioTimeoutMax = 1<<32 - 1

// engineOptions turns C's options, which the shim has completed, into the engine's.
func engineOptions(o *C.mr_engine_options) (engine.Options, error) {
	out := engine.Options{Threads: int(o.threads), Context: int(o.context_tokens_max),
		Sequences: int(o.sequences_max), Chunk: int(o.chunk_tokens_max), Sections: int(o.sections),
		Exact: o.exact != 0, Device: optional(o.device), Reader: optional(o.reader),
		Policy: optional(o.policy), KVType: optional(o.kv_type), Verify: optional(o.verify),
		CuBLASLt: optional(o.cublaslt), CPUExperts: o.cpu_experts != 0,
		HalfActivations: o.half_activations != 0, Getenv: getenv}
	if o.kv_tokens_max > elementsMax {
		return out, fmt.Errorf("%w: kv_tokens_max is %d, more than %d", engine.ErrUsage,
			uint64(o.kv_tokens_max), elementsMax)
	}
	out.KVTokens = int(o.kv_tokens_max)
	if o.io_timeout_ms > ioTimeoutMax {
		return out, fmt.Errorf("%w: io_timeout_ms is %d, more than %d", engine.ErrUsage,
			uint64(o.io_timeout_ms), ioTimeoutMax)
	}
	out.IOTimeout = time.Duration(o.io_timeout_ms) * time.Millisecond
	if o.host_bytes_max > 1<<62 || o.device_bytes_max > 1<<62 {
		return out, fmt.Errorf("%w: a budget of more than %d bytes", engine.ErrUsage, int64(1<<62))
	}
	out.HostMemory, out.DeviceMemory = int64(o.host_bytes_max), int64(o.device_bytes_max)
	for _, t := range []struct {
		name string
		from C.int32_t
		to   *engine.Toggle
	}{{"prefetch", o.prefetch, &out.Prefetch}, {"direct_io", o.direct_io, &out.DirectIO}} {
		if t.from < C.MR_AUTO || t.from > C.MR_OFF {
			return out, fmt.Errorf("%w: %s is %d, not MR_AUTO, MR_ON or MR_OFF", engine.ErrUsage,
				t.name, int32(t.from))
		}
		*t.to = engine.Toggle(t.from)
	}
	if log, user := o.log, o.log_user; log != nil {
		out.Logger = core.NewLogger(slog.Level(o.log_level), func(level slog.Level, line string) {
			message := C.CString(line)
			defer C.free(unsafe.Pointer(message))
			C.mri_call_log(log, user, C.int32_t(level), message)
		})
	}
	return out, nil
}

// optional is C's string, "" for NULL.
func optional(s *C.char) string {
	if s == nil {
		return ""
	}
	return C.GoString(s)
}

// getenv is C's, which sees what the program has set since it started.
func getenv(name string) string {
	key := C.CString(name)
	defer C.free(unsafe.Pointer(key))
	return optional(C.getenv(key))
}

//export mri_engine_open
func mri_engine_open(out *C.uint64_t, path *C.char, o *C.mr_engine_options, f *C.mri_failure,
) C.mr_status {
	return call(f, func() error {
		options, err := engineOptions(o)
		if err != nil {
			return err
		}
		ctx, stop := untilSet(o.open_cancel)
		defer stop()
		e, err := core.Open(ctx, C.GoString(path), options, traces(o), poll(o))
		if err != nil {
			return err
		}
		handle, err := library.engines.Add(e)
		if err != nil {
			return join(err, e.Release())
		}
		*out = C.uint64_t(handle)
		return nil
	})
}

// poll is C's callback; nil if there is none.
func poll(o *C.mr_engine_options) core.Poll {
	ask, user := o.poll, o.poll_user
	if ask == nil {
		return nil
	}
	return func(done, total uint64) bool {
		return C.mri_call_poll(ask, user, C.uint64_t(done), C.uint64_t(total)) != 0
	}
}

func traces(o *C.mr_engine_options) core.Traces {
	return core.Traces{Timeline: optional(o.trace), Routing: optional(o.routing_trace)}
}

// flagEvery is how often a flag of C is looked at.
const flagEvery = 10 * time.Millisecond

// untilSet is a context that ends once one of C's numbers, which may be NULL, is not 0. Stop waits
// until nobody looks at them.
func untilSet(flags ...*C.int32_t) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	flags = slices.DeleteFunc(flags, func(f *C.int32_t) bool { return f == nil })
	if len(flags) == 0 {
		return ctx, cancel
	}
	isSet := func() bool {
		return slices.ContainsFunc(flags, func(f *C.int32_t) bool {
			return atomic.LoadInt32((*int32)(f)) != 0
		})
	}
	if isSet() {
		cancel()
		return ctx, cancel
	}
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(flagEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			if isSet() {
				cancel()
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return ctx, func() { cancel(); looking.Wait() }
}

// join keeps the first error's kind in front.
func join(first, second error) error {
	if second == nil {
		return first
	}
	return fmt.Errorf("%w; and then: %w", first, second)
}

//export mri_engine_close
func mri_engine_close(handle C.uint64_t) {
	_ = core.Guard(func() error {
		e, err := library.engines.Take(uint64(handle))
		if err != nil {
			return err // closed before
		}
		return e.Release()
	})
}

//export mri_engine_cancel
func mri_engine_cancel(handle C.uint64_t) {
	_ = core.Guard(func() error {
		e, err := library.engines.Get(uint64(handle))
		if err != nil {
			return err
		}
		e.Cancel()
		return nil
	})
}

//export mri_plan_make
func mri_plan_make(path *C.char, o *C.mr_engine_options, info *C.mr_model_info, plan *C.mr_plan,
	f *C.mri_failure) C.mr_status {
	return call(f, func() error {
		options, err := engineOptions(o)
		if err != nil {
			return err
		}
		i, p, err := engine.Inspect(C.GoString(path), options)
		if err != nil {
			return err
		}
		giveInfo(info, i)
		givePlan(plan, p)
		return nil
	})
}

//export mri_engine_info
func mri_engine_info(handle C.uint64_t, out *C.mr_model_info, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		giveInfo(out, e.Info())
		return nil
	})
}

//export mri_engine_plan
func mri_engine_plan(handle C.uint64_t, out *C.mr_plan, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		givePlan(out, e.Plan())
		return nil
	})
}

// truth is C's form of a yes or no.
func truth(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

func giveInfo(out *C.mr_model_info, i engine.Info) {
	out.layers, out.dim, out.vocabulary = C.uint32_t(i.Layers), C.uint32_t(i.Dim),
		C.uint32_t(i.Vocabulary)
	out.context_tokens = C.uint32_t(i.Context)
	out.experts, out.experts_used = C.uint32_t(i.Experts), C.uint32_t(i.ExpertsUsed)
	out.chat_template = truth(i.ChatTemplate)
	out.checksums = truth(i.Checksums)
	out.weight_bytes, out.expert_bytes = C.uint64_t(i.WeightBytes), C.uint64_t(i.ExpertBytes)
	out.expert_groups, out.group_bytes_max = C.uint64_t(i.ExpertGroups), C.uint64_t(i.GroupBytes)
	cut(out.format[:], i.Format)
	cut(out.family[:], i.Family)
	cut(out.types[:], i.Types)
}

func givePlan(out *C.mr_plan, p engine.Plan) {
	out.resident = truth(p.Resident)
	out.budget_bytes, out.least_bytes = C.uint64_t(p.Budget), C.uint64_t(p.Least)
	out.stay_bytes, out.dense_bytes = C.uint64_t(p.Stay), C.uint64_t(p.Dense)
	out.kv_bytes, out.work_bytes = C.uint64_t(p.KV), C.uint64_t(p.Work)
	out.reserve_bytes, out.ring_bytes, out.cache_bytes = C.uint64_t(p.Reserve), C.uint64_t(p.Ring),
		C.uint64_t(p.Cache)
	out.kv_tokens, out.sections, out.cache_slots = C.uint32_t(p.KVTokens), C.uint32_t(p.Sections),
		C.uint32_t(p.CacheSlots)
	out.groups, out.chunk_tokens = C.uint32_t(p.Groups), C.uint32_t(p.Chunk)
	out.dense_sections, out.dense_layers = C.uint32_t(p.DenseSections), C.uint32_t(p.DenseLayers)
	out.host_budget_bytes, out.host_least_bytes = C.uint64_t(p.HostBudget), C.uint64_t(p.HostLeast)
	out.host_cache_bytes, out.host_cache_slots = C.uint64_t(p.HostCache), C.uint32_t(p.HostSlots)
	out.host_dense_sections, out.cycle_groups = C.uint32_t(p.HostDense), C.uint32_t(p.Cycle)
	out.cpu_experts = truth(p.CPUExperts)
	cut(out.kv_type[:], strings.ToLower(p.KVType))
	cut(out.device[:], p.Device)
}

//export mri_engine_stats
func mri_engine_stats(handle C.uint64_t, out *C.mr_stats, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		s := e.Stats()
		out.sessions = C.uint32_t(e.Sessions())
		out.passes, out.prefill_tokens, out.decode_tokens = C.uint64_t(s.Passes),
			C.uint64_t(s.PrefillTokens), C.uint64_t(s.DecodeTokens)
		out.bytes_read, out.reads = C.uint64_t(s.BytesRead), C.uint64_t(s.Reads)
		out.dense_bytes_read, out.read_busy_ns = C.uint64_t(s.DenseBytesRead), C.uint64_t(s.ReadBusy)
		out.host_hits, out.host_late = C.uint64_t(s.HostHits), C.uint64_t(s.HostLate)
		out.host_misses = C.uint64_t(s.HostMisses)
		out.hits, out.late = C.uint64_t(s.Hits), C.uint64_t(s.Late)
		out.misses = C.uint64_t(s.Misses)
		out.prefetched, out.prefetch_useful = C.uint64_t(s.Prefetched), C.uint64_t(s.PrefetchUseful)
		out.wait_ns, out.busy_ns = C.uint64_t(s.Wait), C.uint64_t(s.Busy)
		out.memory_peak_bytes = C.uint64_t(s.PeakMemory)
		out.guessed, out.guesses_came = C.uint64_t(s.Guessed), C.uint64_t(s.GuessesCame)
		out.guesses_wanted, out.all_bytes_read = C.uint64_t(s.GuessesWanted), C.uint64_t(s.AllBytesRead)
		out.cpu_experts, out.probe_bytes_per_s = C.uint64_t(s.CPUExperts), C.uint64_t(s.ProbeBytesPerS)
		return nil
	})
}

//export mri_engine_encode
func mri_engine_encode(handle C.uint64_t, p *C.char, size C.size_t, flags C.uint32_t,
	ids *C.int32_t, capacity C.size_t, count *C.size_t, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		if flags > C.MR_ENCODE_ADD_SPECIAL|C.MR_ENCODE_PARSE_SPECIAL {
			return fmt.Errorf("%w: flags %#x", engine.ErrUsage, uint32(flags))
		}
		s, err := text(p, size)
		if err != nil {
			return err
		}
		all, err := e.EncodeText(s, flags&C.MR_ENCODE_ADD_SPECIAL != 0,
			flags&C.MR_ENCODE_PARSE_SPECIAL != 0)
		if err != nil {
			return err
		}
		return fill(ids, capacity, count, all)
	})
}

//export mri_engine_decode
func mri_engine_decode(handle C.uint64_t, p *C.int32_t, n C.size_t, flags C.uint32_t, out *C.char,
	capacity C.size_t, size *C.size_t, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		ids, err := view[int32](p, n)
		if err != nil {
			return err
		}
		switch flags {
		case 0:
			return fillText(out, capacity, size, e.Decode(ids))
		case C.MR_DECODE_SKIP_SPECIAL:
			return fillText(out, capacity, size, e.DecodeText(ids))
		}
		return fmt.Errorf("%w: flags %#x", engine.ErrUsage, uint32(flags))
	})
}

//export mri_engine_token
func mri_engine_token(handle C.uint64_t, id C.int32_t, bytes *C.char, capacity C.size_t,
	size *C.size_t, flags *C.uint32_t, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		t, ok := e.Token(int32(id))
		if !ok {
			return fmt.Errorf("%w: the vocabulary has no token %d", engine.ErrUsage, int32(id))
		}
		if flags != nil {
			*flags = 0
			if t.Special {
				*flags |= C.MR_TOKEN_SPECIAL
			}
			if t.End {
				*flags |= C.MR_TOKEN_END
			}
		}
		return fillText(bytes, capacity, size, string(t.Bytes))
	})
}

//export mri_engine_find_token
func mri_engine_find_token(handle C.uint64_t, spelled *C.char, out *C.int32_t, f *C.mri_failure,
) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		id, ok := e.FindToken(C.GoString(spelled))
		if !ok {
			return fmt.Errorf("%w: the vocabulary has no token %q", engine.ErrUsage,
				C.GoString(spelled))
		}
		*out = C.int32_t(id)
		return nil
	})
}

func conversation(p *C.mr_message, n C.size_t) ([]engine.Message, error) {
	list, err := view[C.mr_message](p, n)
	if err != nil {
		return nil, err
	}
	out := make([]engine.Message, len(list))
	for i, m := range list {
		out[i] = engine.Message{Role: C.GoString(m.role), Content: C.GoString(m.content)}
	}
	return out, nil
}

//export mri_engine_chat_text
func mri_engine_chat_text(handle C.uint64_t, p *C.mr_message, n C.size_t, out *C.char,
	capacity C.size_t, size *C.size_t, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		messages, err := conversation(p, n)
		if err != nil {
			return err
		}
		s, err := e.RenderChat(messages)
		if err != nil {
			return err
		}
		return fillText(out, capacity, size, s)
	})
}

//export mri_engine_chat_tokens
func mri_engine_chat_tokens(handle C.uint64_t, p *C.mr_message, n C.size_t, ids *C.int32_t,
	capacity C.size_t, count *C.size_t, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		messages, err := conversation(p, n)
		if err != nil {
			return err
		}
		all, err := e.EncodeChat(messages)
		if err != nil {
			return err
		}
		return fill(ids, capacity, count, all)
	})
}

//export mri_engine_embed
func mri_engine_embed(handle C.uint64_t, p *C.int32_t, n C.size_t, pooling C.int32_t, out *C.float,
	capacity C.size_t, count *C.size_t, f *C.mri_failure) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		ids, err := view[int32](p, n)
		if err != nil {
			return err
		}
		dim := e.Info().Dim
		if uint64(capacity) < uint64(dim) { // before the work
			*count = C.size_t(dim)
			return fmt.Errorf("%w: %d of %d", core.ErrSpace, uint64(capacity), dim)
		}
		return e.Do(func(ctx context.Context) error {
			values, err := e.Embed(ctx, ids, engine.Pooling(pooling))
			if err != nil {
				return err
			}
			return fill(out, capacity, count, values)
		})
	})
}
