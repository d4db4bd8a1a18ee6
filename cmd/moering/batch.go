package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moering/moering/engine"
)

// batchCommand runs an offline job.
type batchCommand struct {
	modelFlags
	Input     string `short:"i" required:"" placeholder:"PATH" help:"Requests: OpenAI's batch lines, or one prompt a line; - is standard input; .gz and .zst are decompressed."`
	Output    string `short:"o" placeholder:"PATH" help:"Answers, in the order of the input, when the job is complete; - is standard output, as they finish."`
	Errors    string `placeholder:"PATH" help:"Refused requests (default: beside the output, .errors.jsonl)."`
	Journal   string `placeholder:"PATH" help:"What is finished, for going on after a kill (default: beside the output, .journal)."`
	Follow    string `placeholder:"PATH" help:"Also write answers here as they finish."`
	Ordered   bool   `help:"Standard output and --follow get answers in the order of the input."`
	Overwrite bool   `help:"Begin a job although its output is there."`
	Format    string `name:"input-format" enum:"auto,jsonl,text" default:"auto" help:"auto, jsonl, or text (one prompt a line)."`
	Chat      bool   `help:"Lines of text are messages; wrap them in the model's chat template."`

	MaxTokens int           `short:"n" default:"256" help:"Most tokens to generate, for requests that do not say."`
	Greedy    bool          `help:"Temperature 0 for requests that state none, in place of 1."`
	Seed      uint64        `default:"0" help:"Mixed into each request's seed, which follows from its custom_id."`
	ModelName []string      `placeholder:"NAME" help:"A name that requests may give for the model; * allows any."`
	Created   int64         `placeholder:"SECONDS" help:"The answers' time since 1970 (default: when the input was last changed)."`
	Sequences int           `placeholder:"N" help:"Most sequences in flight (default: what memory and the job allow)."`
	KVTokens  int           `name:"kv-tokens" placeholder:"N" help:"Tokens of all sequences that the KV cache has room for (default: what the job takes least time with)."`
	Spill     size          `placeholder:"SIZE" help:"Room in a file for keys and values of requests that give their memory to others; they are then admitted by what finished ones generated, not by their limits."`
	SpillRAM  size          `name:"spill-ram" placeholder:"SIZE" help:"Room for them in host memory, beside a GPU's."`
	SpillDir  string        `name:"spill-dir" placeholder:"PATH" help:"Where that file is made (default: where the journal is)."`
	Sync      time.Duration `default:"1s" help:"How often the journal is synced to the disk."`

	Plan    bool   `help:"Measure a few passes, say what the job would take and what would help, and end."`
	Metrics string `placeholder:"ADDRESS" help:"Serve Prometheus metrics, on this host alone unless the address names another: 9400, 127.0.0.1:9400."`
	Report  string `placeholder:"PATH" help:"Write a page about the run."`
}

func (c *batchCommand) options() engine.BatchOptions {
	return engine.BatchOptions{Input: c.Input, Output: c.Output, Errors: c.Errors, Journal: c.Journal,
		Follow: c.Follow, Ordered: c.Ordered, Overwrite: c.Overwrite, Format: unlessAuto(c.Format),
		Chat: c.Chat, MaxTokens: c.MaxTokens, Greedy: c.Greedy, Seed: c.Seed, ModelNames: c.ModelName,
		Created: c.Created, Sync: c.Sync, Report: c.Report, Spill: int64(c.Spill),
		SpillMemory: int64(c.SpillRAM), SpillDir: c.SpillDir}
}

func (c *batchCommand) check() error {
	switch {
	case c.Output == "" && !c.Plan:
		return fmt.Errorf("%w: say where the answers go, with --output", engine.ErrUsage)
	case c.Output == "-" && c.JSON && !c.Plan:
		return fmt.Errorf("%w: --json and the answers cannot both go to standard output", engine.ErrUsage)
	case c.Ordered && c.Output != "-" && c.Follow == "":
		return fmt.Errorf("%w: --ordered is about standard output and --follow; an output file is in the "+
			"order of the input anyway", engine.ErrUsage)
	}
	return nil
}

// Run is called by kong.
func (c *batchCommand) Run(a *app, ctx *runContext) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	o, err := c.modelFlags.options(a, nil)
	if err != nil {
		return err
	}
	o.Sequences, o.KVTokens = c.Sequences, c.KVTokens
	b := c.options()
	b.Stdin, b.Stdout = a.stdin, a.stdout
	if c.Plan {
		return c.plan(ctx, a, o, b)
	}
	w := a.newBatchWatch()
	defer w.close()
	b.Progress = w.update
	if c.Metrics != "" {
		m, err := serveMetrics(c.Metrics, w)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.close()) }()
		fmt.Fprintf(a.stderr, "metrics: http://%s/metrics\n", m.address())
	}
	r, err := engine.Batch(ctx, c.Model, o, b)
	w.close()
	c.conclude(a, ctx, r, err)
	if err == nil && c.JSON {
		return a.printJSON(r)
	}
	return err
}

// conclude says what the run has come to, and how to go on.
func (c *batchCommand) conclude(a *app, ctx context.Context, r engine.BatchResult, err error) {
	if r.Requests == 0 && err != nil {
		return
	}
	fmt.Fprintf(a.stderr, "%d of %d requests finished", r.Finished, r.Requests)
	if r.Resumed > 0 {
		fmt.Fprintf(a.stderr, ", %d of them by earlier runs", r.Resumed)
	}
	if r.Failed > 0 {
		fmt.Fprintf(a.stderr, "; %d refused, see %s", r.Failed, r.Errors)
	}
	s := r.Stats
	fmt.Fprintf(a.stderr, "\nspeed: %d prompt tokens and %d generated in %s, %.1f a second; %d shared; "+
		"hit rate %.1f %%, waiting %.1f %%; peak memory %s of %s\n", r.PromptTokens, r.NewTokens,
		r.Elapsed.Round(10*time.Millisecond), r.TokensPerS, r.SharedTokens, 100*s.HitRate(),
		100*s.WaitShare(), formatBytes(float64(s.PeakMemory)), formatBytes(float64(r.Plan.Budget)))
	if r.Preempted > 0 {
		fmt.Fprintf(a.stderr, "requests gave their memory to others %d times; %s were moved out and in, %d "+
			"tokens computed again\n", r.Preempted, formatBytes(float64(r.MovedBytes)), r.RecomputedTokens)
	}
	switch {
	case err == nil && r.Output != "-":
		fmt.Fprintf(a.stderr, "answers: %s\n", r.Output)
	case err != nil && r.Output == "-" && c.Journal == "":
		fmt.Fprintln(a.stderr, "there is no --journal, so the same command begins again")
	case err != nil && ctx.Err() != nil:
		fmt.Fprintf(a.stderr, "what is finished is in %s; run the same command again to go on\n", r.Journal)
	}
}

// plan prints what a job would take.
func (c *batchCommand) plan(ctx context.Context, a *app, o engine.Options, b engine.BatchOptions,
) error {
	p, err := engine.PlanBatch(ctx, c.Model, o, b)
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(p)
	}
	_, err = fmt.Fprint(a.stdout, describeBatchPlan(p))
	return err
}

func describeBatchPlan(p engine.BatchPlan) string {
	f, r := p.Forecast, p.Rates
	s := fmt.Sprintf("requests: %d, of which %d would be refused; %d tokens of prompts, at most %d of "+
		"answers; the longest sequence has %d\n", p.Requests, p.Refused, p.PromptTokens, p.NewTokens,
		p.Longest)
	s += "memory: " + describePlan(p.Plan) + "\n"
	s += fmt.Sprintf("measured: disk %s/s; %.3g ms a prompt row, %.3g ms a decode row, %.3g ms a pass; "+
		"%.0f %% of the shorter of loading and computing does not hide\n", formatBytes(r.Bandwidth),
		1e3*r.PrefillRowSeconds, 1e3*r.DecodeRowSeconds, 1e3*r.PassSeconds, 100*r.Exposed)
	s += fmt.Sprintf("waves: %d passes of %.0f rows on average, up to %d sequences and %d tokens of KV "+
		"cache at once; computing takes as long as loading at %d rows\n", f.Passes, f.RowsMean,
		f.SequencesPeak, f.KVTokensPeak, f.Balanced)
	s += fmt.Sprintf("time: %s, %.1f tokens a second; %s read from disk in %s, computing %s; "+
		"the limit is %s\n", seconds(f.Seconds), f.TokensPerS, formatBytes(float64(f.LoadBytes)),
		seconds(f.LoadSeconds), seconds(f.ComputeSecs), f.Bottleneck)
	for _, h := range f.Helps {
		s += fmt.Sprintf("twice the %s: %s\n", h.What, seconds(h.Seconds))
	}
	for _, h := range p.SmallerKV {
		s += fmt.Sprintf("with --kv-type %s: %s\n", h.What, seconds(h.Seconds))
	}
	return s
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d >= 10*time.Second {
		return d.Round(time.Second).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
