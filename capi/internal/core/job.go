package core

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/moering/moering/engine"
)

// JobProgress is told how far a job is, on the thread of the call. True ends the job.
type JobProgress func(engine.BatchProgress) (cancel bool)

// RunJob runs a job through a model that is opened for it. ctx, poll and progress, both of which may be
// nil, end it: once it computes, after the pass under way.
func RunJob(ctx context.Context, path string, o engine.Options, t Traces, b engine.BatchOptions,
	poll Poll, progress JobProgress) (r engine.BatchResult, err error) {
	var files Engine
	defer func() { err = errors.Join(err, ioError(files.closeFiles())) }()
	if o.Trace, err = files.create(t.Timeline); err != nil {
		return r, err
	}
	if o.RoutingTrace, err = files.create(t.Routing); err != nil {
		return r, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := func() (err error) {
		r, err = engine.Batch(ctx, path, o, b)
		return err
	}
	if poll == nil && progress == nil {
		err = Guard(run)
		return r, err
	}
	var done, total atomic.Uint64
	o.Progress = func(d, t int64) { done.Store(uint64(d)); total.Store(uint64(t)) }
	reports, heard := make(chan engine.BatchProgress), make(chan struct{})
	if progress != nil {
		b.Progress = func(p engine.BatchProgress) { reports <- p; <-heard }
	}
	ended := make(chan error, 1)
	go func() { ended <- Guard(run) }()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return r, err
		case p := <-reports:
			if progress(p) {
				cancel()
			}
			heard <- struct{}{}
		case <-tick.C:
			if poll != nil && poll(done.Load(), total.Load()) {
				cancel()
			}
		}
	}
}
