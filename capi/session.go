//go:build cgo

package main

/*
#include "shim.h"
*/
import "C"

import (
	"context"
	"fmt"
	"io"
	"unsafe"

	"github.com/moering/moering/capi/internal/core"
	"github.com/moering/moering/engine"
)

// Bounds of options; beyond them one is a mistake.
const (
	stopMax     = 1 << 10
	logprobsMax = 1 << 10
)

// session is a session and the memory that it lends to C; that is touched inside Do alone.
type session struct {
	*core.Session
	text, alternatives, logits buffer
	borrower                   *C.mri_failure // of the thread that made the last call
}

func sampling(o *C.mr_session_options) (engine.Sampling, error) {
	out := engine.Sampling{Temperature: float32(o.temperature), TopK: int(o.top_k),
		TopP: float32(o.top_p), MinP: float32(o.min_p),
		RepetitionPenalty: float32(o.repetition_penalty),
		RepetitionWindow:  int(o.repetition_window),
		Seed:              uint64(o.seed), MaxTokens: int(o.tokens_max), LogProbs: int(o.logprobs),
		IgnoreEOS: o.ignore_end != 0}
	if o.logprobs > logprobsMax {
		return out, fmt.Errorf("%w: logprobs is %d, more than %d", engine.ErrUsage, int(o.logprobs),
			logprobsMax)
	}
	if o.stop_count > stopMax || o.stop_count > 0 && o.stop == nil {
		return out, fmt.Errorf("%w: stop_count is %d, and stop is NULL or longer than %d",
			engine.ErrUsage, uint64(o.stop_count), stopMax)
	}
	if o.stop_count > 0 {
		for i, s := range unsafe.Slice(o.stop, int(o.stop_count)) {
			if s == nil {
				return out, fmt.Errorf("%w: stop[%d] is NULL", engine.ErrUsage, i)
			}
			out.Stop = append(out.Stop, C.GoString(s))
		}
	}
	return out, nil
}

// addSession gives a session to C.
func addSession(out *C.uint64_t, s *core.Session) error {
	handle, err := library.sessions.Add(&session{Session: s})
	if err != nil {
		return join(err, s.Close())
	}
	*out = C.uint64_t(handle)
	return nil
}

//export mri_session_open
func mri_session_open(out *C.uint64_t, handle C.uint64_t, o *C.mr_session_options, f *C.mri_failure,
) C.mr_status {
	return withEngine(f, handle, func(e *core.Engine) error {
		options, err := sampling(o)
		if err != nil {
			return err
		}
		s, err := e.NewSession(options)
		if err != nil {
			return err
		}
		return addSession(out, s)
	})
}

//export mri_session_close
func mri_session_close(handle C.uint64_t) {
	_ = core.Guard(func() error {
		s, err := library.sessions.Take(uint64(handle))
		if err != nil {
			return err // closed before
		}
		err = s.Close()
		s.text.release(s.borrower)
		s.alternatives.release(s.borrower)
		s.logits.release(s.borrower)
		return err
	})
}

//export mri_session_cancel
func mri_session_cancel(handle C.uint64_t) {
	_ = core.Guard(func() error {
		s, err := library.sessions.Get(uint64(handle))
		if err != nil {
			return err
		}
		s.Cancel()
		return nil
	})
}

// on runs work as the session's one call.
func on(f *C.mri_failure, handle C.uint64_t, work func(context.Context, *session) error,
) C.mr_status {
	return call(f, func() error {
		s, err := library.sessions.Get(uint64(handle))
		if err != nil {
			return err
		}
		return s.Do(func(ctx context.Context) error {
			s.borrower = f
			return work(ctx, s)
		})
	})
}

//export mri_session_configure
func mri_session_configure(handle C.uint64_t, o *C.mr_session_options, f *C.mri_failure,
) C.mr_status {
	return on(f, handle, func(ctx context.Context, s *session) error {
		options, err := sampling(o)
		if err != nil {
			return err
		}
		return s.Configure(ctx, options)
	})
}

//export mri_session_feed
func mri_session_feed(handle C.uint64_t, p *C.char, size C.size_t, f *C.mri_failure) C.mr_status {
	return on(f, handle, func(ctx context.Context, s *session) error {
		t, err := text(p, size)
		if err != nil {
			return err
		}
		return s.FeedText(ctx, t)
	})
}

//export mri_session_feed_tokens
func mri_session_feed_tokens(handle C.uint64_t, p *C.int32_t, n C.size_t, f *C.mri_failure,
) C.mr_status {
	return on(f, handle, func(ctx context.Context, s *session) error {
		ids, err := view[int32](p, n)
		if err != nil {
			return err
		}
		return s.Feed(ctx, ids)
	})
}

//export mri_session_score
func mri_session_score(handle C.uint64_t, p *C.int32_t, n C.size_t, logprobs *C.float,
	f *C.mri_failure) C.mr_status {
	return on(f, handle, func(ctx context.Context, s *session) error {
		ids, err := view[int32](p, n)
		if err != nil {
			return err
		}
		out, err := view[float32](logprobs, n)
		if err != nil {
			return err
		}
		return s.Score(ctx, ids, out)
	})
}

//export mri_session_next
func mri_session_next(handle C.uint64_t, out **C.char, size *C.size_t, f *C.mri_failure,
) C.mr_status {
	return on(f, handle, func(ctx context.Context, s *session) error {
		token, err := s.Next(ctx)
		if err != nil {
			return err
		}
		p, err := s.text.text(token.Text)
		if err != nil {
			return err
		}
		*out, *size = p, C.size_t(len(token.Text))
		return nil
	})
}

func finish(s string) C.int32_t {
	switch s {
	case "stop":
		return C.MR_FINISH_STOP
	case "length":
		return C.MR_FINISH_LENGTH
	}
	return C.MR_FINISH_NONE
}

//export mri_session_token
func mri_session_token(handle C.uint64_t, out *C.mr_token, f *C.mri_failure) C.mr_status {
	return here(f, handle, func(_ context.Context, s *session) error {
		token, ok := s.Last()
		if !ok {
			return fmt.Errorf("%w: no token was generated since the last feed", engine.ErrUsage)
		}
		p, err := s.text.text(token.Text)
		if err != nil {
			return err
		}
		top, err := lend(&s.alternatives, probs(token.Alternatives))
		if err != nil {
			return err
		}
		out.id, out.logprob, out.finish = C.int32_t(token.ID), C.float(token.LogProb),
			finish(token.Finish)
		out.text, out.text_size = p, C.size_t(len(token.Text))
		out.alternatives, out.alternatives_count = top, C.size_t(len(token.Alternatives))
		return nil
	})
}

func probs(in []engine.TokenProb) []C.mr_token_prob {
	out := make([]C.mr_token_prob, len(in))
	for i, p := range in {
		out[i].id, out[i].logprob = C.int32_t(p.ID), C.float(p.LogProb)
	}
	return out
}

//export mri_session_length
func mri_session_length(handle C.uint64_t, count *C.size_t, f *C.mri_failure) C.mr_status {
	return here(f, handle, func(_ context.Context, s *session) error {
		*count = C.size_t(s.Inner().Len())
		return nil
	})
}

//export mri_session_tokens
func mri_session_tokens(handle C.uint64_t, ids *C.int32_t, capacity C.size_t, count *C.size_t,
	f *C.mri_failure) C.mr_status {
	return here(f, handle, func(_ context.Context, s *session) error {
		return fill(ids, capacity, count, s.Inner().Tokens())
	})
}

//export mri_session_logits
func mri_session_logits(handle C.uint64_t, out **C.float, count *C.size_t, f *C.mri_failure,
) C.mr_status {
	return here(f, handle, func(_ context.Context, s *session) error {
		logits := s.Inner().Logits()
		if logits == nil {
			return fmt.Errorf("%w: there are no logits: nothing was fed since the session began "+
				"or was truncated", engine.ErrUsage)
		}
		p, err := lend(&s.logits, logits)
		if err != nil {
			return err
		}
		*out, *count = (*C.float)(unsafe.Pointer(p)), C.size_t(len(logits))
		return nil
	})
}

//export mri_session_top
func mri_session_top(handle C.uint64_t, out *C.mr_token_prob, n C.size_t, count *C.size_t,
	f *C.mri_failure) C.mr_status {
	return here(f, handle, func(_ context.Context, s *session) error {
		if n > elementsMax {
			return fmt.Errorf("%w: the top %d", engine.ErrUsage, uint64(n))
		}
		return fill(out, n, count, probs(s.Inner().Top(int(n))))
	})
}

//export mri_session_truncate
func mri_session_truncate(handle C.uint64_t, count C.size_t, f *C.mri_failure) C.mr_status {
	return here(f, handle, func(_ context.Context, s *session) error {
		if count > elementsMax {
			return fmt.Errorf("%w: truncate to %d tokens", engine.ErrUsage, uint64(count))
		}
		return s.Truncate(int(count))
	})
}

//export mri_session_fork
func mri_session_fork(out *C.uint64_t, handle C.uint64_t, f *C.mri_failure) C.mr_status {
	return on(f, handle, func(ctx context.Context, s *session) error {
		fork, err := s.Fork(ctx)
		if err != nil {
			return err
		}
		return addSession(out, fork)
	})
}

//export mri_session_save
func mri_session_save(handle C.uint64_t, path *C.char, f *C.mri_failure) C.mr_status {
	return on(f, handle, func(ctx context.Context, s *session) error {
		return s.SaveFile(ctx, C.GoString(path))
	})
}

//export mri_session_restore
func mri_session_restore(handle C.uint64_t, path *C.char, f *C.mri_failure) C.mr_status {
	return on(f, handle, func(_ context.Context, s *session) error {
		return s.RestoreFile(C.GoString(path))
	})
}

// here is on for work that calls C back, or is done at once: it runs on the thread of the call,
// without polling.
func here(f *C.mri_failure, handle C.uint64_t, work func(context.Context, *session) error,
) C.mr_status {
	return call(f, func() error {
		s, err := library.sessions.Get(uint64(handle))
		if err != nil {
			return err
		}
		return s.DoHere(func(ctx context.Context) error {
			s.borrower = f
			return work(ctx, s)
		})
	})
}

//export mri_session_save_to
func mri_session_save_to(handle C.uint64_t, write C.mr_write_fn, user unsafe.Pointer,
	f *C.mri_failure) C.mr_status {
	return here(f, handle, func(ctx context.Context, s *session) error {
		w, err := newCallback(s)
		if err != nil {
			return err
		}
		w.write, w.user = write, user
		return s.Save(ctx, w)
	})
}

//export mri_session_restore_from
func mri_session_restore_from(handle C.uint64_t, read C.mr_read_fn, user unsafe.Pointer,
	f *C.mri_failure) C.mr_status {
	return here(f, handle, func(_ context.Context, s *session) error {
		r, err := newCallback(s)
		if err != nil {
			return err
		}
		r.read, r.user = read, user
		return s.Restore(r)
	})
}

// callbackBytes is the most that a callback is given or asked for at once.
const callbackBytes = 1 << 20

// callback is C's function as a Writer or Reader, through C memory.
type callback struct {
	memory []byte
	write  C.mr_write_fn
	read   C.mr_read_fn
	user   unsafe.Pointer
}

// newCallback borrows the session's buffer for text.
func newCallback(s *session) (*callback, error) {
	p, err := s.text.room(callbackBytes)
	if err != nil {
		return nil, err
	}
	return &callback{memory: unsafe.Slice((*byte)(p), callbackBytes)}, nil
}

func (c *callback) Write(p []byte) (int, error) {
	for at := 0; at < len(p); {
		n := copy(c.memory, p[at:])
		status := C.mri_call_write(c.write, c.user, unsafe.Pointer(&c.memory[0]), C.size_t(n))
		if status != 0 {
			return at, fmt.Errorf("%w: the write callback returned %d", engine.ErrIO, int32(status))
		}
		at += n
	}
	return len(p), nil
}

func (c *callback) Read(p []byte) (int, error) {
	want := min(len(p), len(c.memory))
	if want == 0 {
		return 0, nil
	}
	n := C.mri_call_read(c.read, c.user, unsafe.Pointer(&c.memory[0]), C.size_t(want))
	switch {
	case n < 0 || n > C.int64_t(want):
		return 0, fmt.Errorf("%w: the read callback returned %d, for at most %d", engine.ErrIO,
			int64(n), want)
	case n == 0:
		return 0, io.EOF
	}
	return copy(p, c.memory[:n]), nil
}
