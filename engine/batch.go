package engine

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/moering/moering/engine/internal/batch"
)

// BatchOptions says what a batch job reads and writes. Input and Output must be given; everything
// else has a default that works. docs/batch.md describes the formats.
type BatchOptions struct {
	// Input is a file in OpenAI's batch format or with one prompt a line, compressed if its name ends
	// in .gz or .zst; "-" reads Stdin.
	Input string
	// Format is "jsonl", "text", or "" to look at the first line.
	Format string
	// Output gets the answers in the order of the input, all at once when the job is complete; "-"
	// sends them to Stdout as they finish. Compressed by its name, as the input is.
	Output string
	// Errors gets what was refused, in the same form. "": beside the output, as NAME.errors.jsonl.
	Errors string
	// Journal keeps what is finished, so that a job that was killed goes on. "": beside the output, as
	// OUTPUT.journal; with Output "-" none is kept.
	Journal string
	// Follow is a file that gets answers as they finish, beside the output.
	Follow string
	// Ordered gives Stdout and Follow their answers in the order of the input.
	Ordered bool
	// Overwrite replaces an output that is there when a job begins.
	Overwrite bool
	Stdin     io.Reader
	Stdout    io.Writer

	// Sync is how often the journal is synced to the disk. 0: every second.
	Sync time.Duration
	// Created is the time, in seconds since 1970, that every answer gives as its own. 0: when the
	// input was last changed, so that the same job gives the same bytes; for standard input, now.
	Created int64

	// MaxTokens is for requests that state no limit. 0: 256.
	MaxTokens int
	// Greedy takes temperature 0 for requests that state none, in place of OpenAI's 1.
	Greedy bool
	// Seed is mixed into the seeds that requests get by their custom_id.
	Seed uint64
	// Chat makes each line of text a user's message; without it, it is the beginning of a text.
	Chat bool
	// ModelNames are further names that requests may give for the model, beside its file's name
	// without extension; "*" allows any.
	ModelNames []string

	// Spill and SpillMemory are bytes for keys and values of sequences that give their place in the KV
	// cache to others: in a file that has no name and is gone with the process, and in page-locked host
	// memory, which only a device with memory of its own has a use for. With either, requests are
	// admitted by what finished ones generated rather than by their limits, so that more are in flight
	// where limits are generous; the answers are the same. 0 and 0: requests are admitted by their
	// limits, and none gives its place away. Both are beside the budgets of Options.
	Spill, SpillMemory int64
	// SpillDir is where the file is made. "": where the journal is.
	SpillDir string

	// Report is an HTML file that is written when the job ends.
	Report string
	// Progress, if set, is called before the first pass and after each one, by one goroutine. It must
	// not close the engine, which waits for the job.
	Progress func(BatchProgress)

	spillTest *spillTest
}

// BatchResult is what a job, or one run of it, has done.
type BatchResult struct {
	Requests int `json:"requests"`
	Finished int `json:"finished"` // answered or refused, by this run or an earlier one
	Failed   int `json:"failed"`   // of these, refused
	Resumed  int `json:"resumed"`  // of the finished, by earlier runs
	// Complete: every request is finished, and output and error file are in place.
	Complete bool   `json:"complete"`
	Output   string `json:"output"`
	Errors   string `json:"errors"` // "" if nothing was refused
	Journal  string `json:"journal"`

	// What this run computed.
	PromptTokens int64 `json:"prompt_tokens"`
	NewTokens    int64 `json:"new_tokens"`
	SharedTokens int64 `json:"shared_tokens"` // of prompts, not computed again
	// Preempted counts how often a sequence gave its place to others; of what these had, MovedBytes
	// were moved out of the KV cache and in again, and RecomputedTokens computed again, which are not
	// in PromptTokens.
	Preempted        int   `json:"preempted"`
	MovedBytes       int64 `json:"moved_bytes"`
	RecomputedTokens int64 `json:"recomputed_tokens"`

	Seconds    float64       `json:"seconds"`
	TokensPerS float64       `json:"tokens_per_s"` // prompt and new together
	Plan       Plan          `json:"plan"`
	Stats      Stats         `json:"stats"`
	Elapsed    time.Duration `json:"-"`
}

const batchMaxTokens = 256

func (b *BatchOptions) complete(model string) (batch.Options, error) {
	if b.MaxTokens == 0 {
		b.MaxTokens = batchMaxTokens
	}
	if b.MaxTokens < 0 {
		return batch.Options{}, fmt.Errorf("batch: %w: MaxTokens is %d", ErrUsage, b.MaxTokens)
	}
	temperature := 1.0
	if b.Greedy {
		temperature = 0
	}
	return batch.Options{Input: b.Input, Format: b.Format, Output: b.Output, Errors: b.Errors,
		Journal: b.Journal, Follow: b.Follow, Ordered: b.Ordered, Overwrite: b.Overwrite,
		Stdin: b.Stdin, Stdout: b.Stdout, Sync: b.Sync, Created: b.Created,
		Names: append([]string{servedName(model)}, b.ModelNames...),
		Defaults: batch.Defaults{MaxTokens: b.MaxTokens, Temperature: temperature, TopP: 1,
			Seed: b.Seed, ChatText: b.Chat}}, nil
}

// servedName is the name under which requests know a model.
func servedName(path string) string {
	name := filepath.Base(filepath.Clean(path))
	return strings.TrimSuffix(strings.TrimPrefix(name, builtinPrefix), ".gguf")
}

// Batch runs a job through a model that it opens for it: context, sequences and memory for keys and
// values follow from the requests where o leaves them open. The same call after a failure, a kill or
// ctx's end goes on where the job was. ctx ends the job after the pass under way; what is finished is
// in the journal then, and what is half done is saved with it.
//
// Errors: a job is as a whole wrong (ErrUsage: options, a job that is running already, or a journal
// of something else), a file cannot be read or written (ErrIO), or the engine fails. Requests that
// are wrong are no error: they are in the error file.
func Batch(ctx context.Context, path string, o Options, b BatchOptions) (r BatchResult, err error) {
	p, err := openBatch(path, o, b, false)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	e, err := OpenContext(ctx, path, p.fitted)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return p.run(ctx, e)
}

// Batch runs a job on an open engine, beside sessions, within its Context and Sequences. See Batch.
func (e *Engine) Batch(ctx context.Context, b BatchOptions) (r BatchResult, err error) {
	p := &batchJob{o: b, limit: e.options.Context, asks: e}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(e.info.Path); err != nil {
		return r, err
	}
	return p.run(ctx, e)
}

// batchJob is a job before and after it has an engine to run on.
type batchJob struct {
	o      BatchOptions
	job    *batch.Job
	asks   *Engine // what the tokenizer and template are asked of; it may be without weights
	limit  int     // of a sequence, in tokens
	plan   bool    // it is only looked at
	fitted Options // to open an engine with
	shapes []batchShape
}

// batchShape is what a request needs. Tokens.
type batchShape struct {
	prompt int32 // of all its inputs
	new    int32 // the most it may generate
	most   int32 // of one of its inputs and what is generated after it
}

// openBatch reads a job's input with the tokenizer of a model that is not open yet.
func openBatch(path string, o Options, b BatchOptions, plan bool) (*batchJob, error) {
	p := &batchJob{o: b, asks: &Engine{}, plan: plan}
	err := withFile(path, o, func(file string, o Options) error { return p.asks.understand(file, o) })
	if err != nil && !errors.Is(err, ErrBudget) { // that is for the options that fit to tell
		return nil, errors.Join(mapError(err), p.asks.Close())
	}
	p.asks.info.Path = path
	p.limit = cmp.Or(o.Context, p.asks.model.Context)
	if err = p.open(path); err == nil {
		p.fitted = p.fit(o)
	}
	// What answers about text needs no device, and that one must not hold two.
	if err = errors.Join(err, p.asks.Close()); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *batchJob) open(path string) error {
	o, err := p.o.complete(path)
	if err != nil {
		return err
	}
	if err := p.o.checkSpill(p.asks); err != nil {
		return err
	}
	if p.plan {
		p.job, err = batch.Look(o)
	} else {
		p.job, err = batch.Open(o)
	}
	if err != nil {
		return batchError(err)
	}
	p.shapes = make([]batchShape, p.job.Len())
	return batchError(p.job.Survey(func(i int, r *batch.Request) *batch.Error {
		shape, bad := p.measure(r)
		p.shapes[i] = shape
		return bad
	}))
}

func (p *batchJob) close() error {
	if p.job == nil {
		return nil
	}
	return batchError(p.job.Close())
}

// run computes what is not finished, and puts the output in place.
func (p *batchJob) run(ctx context.Context, e *Engine) (r BatchResult, err error) {
	if err := e.runner.join(); err != nil {
		return r, err
	}
	defer e.runner.leave()
	p.asks = e
	identity, err := e.batchIdentity()
	if err != nil {
		return r, mapError(err)
	}
	if err := p.job.Start(identity); err != nil {
		return r, batchError(err)
	}
	if cut := p.job.Cut(); cut > 0 {
		e.options.logger().Warn("the journal ended in a torn record, which was cut off", "bytes", cut)
	}
	d := newBatchDriver(e, p)
	if !p.job.Complete() {
		err = p.job.Refuse(func(_ int, r *batch.Request) *batch.Error {
			_, bad := p.measure(r)
			return bad
		})
		if err == nil {
			err = d.run(ctx)
		}
		if err == nil {
			err = p.job.Assemble()
		}
		err = errors.Join(err, p.job.Sync())
	}
	r = d.result()
	if p.o.Report != "" && d.passes > 0 {
		err = errors.Join(err, d.report(p.o.Report, r))
	}
	return r, batchError(mapError(err))
}

// batchIdentity names everything of the engine that decides what tokens come out.
func (e *Engine) batchIdentity() (batch.Identity, error) {
	id, err := e.identity()
	if err != nil {
		return batch.Identity{}, err
	}
	detail, _, _ := strings.Cut(e.device.Info().Detail, ",") // how many threads does not matter
	i := batch.Identity{Model: hex.EncodeToString(id[:]),
		Engine: fmt.Sprintf("device %s (%s), exact %v, cache %v", e.device.Info().Name, detail,
			e.options.Exact, e.pool.KV.Type) + e.arithmeticText()}
	i.Fingerprint = fmt.Sprintf("fp_%016x", xxh3.HashString(i.Model+i.Engine))
	return i, nil
}

// batchError adds this package's kind to an error of a job.
func batchError(err error) error {
	for _, k := range []struct{ from, to error }{{batch.ErrUsage, ErrUsage}, {batch.ErrIO, ErrIO},
		{batch.ErrChanged, ErrUsage}, {batch.ErrLocked, ErrUsage}, {batch.ErrJournal, ErrUsage}} {
		if errors.Is(err, k.from) && !errors.Is(err, k.to) {
			return fmt.Errorf("batch: %w: %w", k.to, err)
		}
	}
	return err
}
