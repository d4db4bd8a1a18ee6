package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/moering/moering/engine"
)

// packCommand rewrites a model for streaming.
type packCommand struct {
	Source    string `arg:"" help:"GGUF file, or Hugging Face directory."`
	Target    string `arg:"" help:"The GGUF file to write."`
	Layout    string `enum:"grouped,stacked" default:"grouped" help:"grouped: an expert is one read, and Moering alone runs the file. stacked: three reads, and llama.cpp runs it too."`
	Type      string `placeholder:"TYPE" help:"Quantise experts and dense feed-forward weights: Q8_0, Q5_0, Q5_1, Q4_0, Q4_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4 (or F16, BF16)."`
	DenseType string `placeholder:"TYPE" help:"The same for the other matrices but the routers."`
	Force     bool   `short:"f" help:"Replace a file that is there."`
	RAM       size   `placeholder:"SIZE" help:"Memory budget (default: less than 200 MB)."`
	Threads   int    `short:"t" placeholder:"N" help:"Threads that convert (default: one a processor)."`
	JSON      bool   `name:"json" help:"Print one JSON object."`
}

// Run is called by kong.
func (c *packCommand) Run(a *app, ctx *runContext) error {
	p := a.newProgress("packing", true)
	defer p.close()
	start, first := time.Now(), int64(-1)
	var done, total int64
	r, err := engine.Pack(ctx, c.Source, c.Target, engine.PackOptions{Layout: c.Layout,
		ExpertType: c.Type, DenseType: c.DenseType, Force: c.Force, HostMemory: int64(c.RAM),
		Threads: c.Threads, Progress: func(d, t int64) {
			if first < 0 {
				first = d
			}
			done, total = d, t
			p.update(done-first, total-first) // the rate is that of this run
		}})
	p.close()
	if err != nil {
		if done > 0 && !errors.Is(err, engine.ErrUsage) {
			fmt.Fprintln(a.stderr, resumable(done, total))
		}
		return err
	}
	seconds := time.Since(start).Seconds()
	if c.JSON {
		return a.printJSON(struct {
			engine.PackReport
			Seconds float64 `json:"seconds"`
		}{r, seconds})
	}
	return a.printPacked(c.Target, r, seconds)
}

// resumable says what an interrupted pack leaves.
func resumable(done, total int64) string {
	return fmt.Sprintf("moering: %s of %s were written and stay beside the target; the same command "+
		"goes on from there", formatBytes(float64(done)), formatBytes(float64(total)))
}

func (a *app) printPacked(path string, r engine.PackReport, seconds float64) error {
	b := func(n int64) string { return formatBytes(float64(n)) }
	if r.Resumed > 0 {
		fmt.Fprintf(a.stdout, "resumed: %s were written before\n", b(r.Resumed))
	}
	fmt.Fprintf(a.stdout, "source: %s, %s (%s)\n", r.Source.Format, b(r.Source.WeightBytes),
		r.Source.Types)
	fmt.Fprintf(a.stdout, "packed: %s experts, %s (%s), %d checksums\n", r.Layout,
		b(r.Packed.WeightBytes), r.Packed.Types, r.Checksums)
	for _, note := range r.Notes {
		fmt.Fprintf(a.stdout, "note: %s\n", note)
	}
	written := float64(r.Packed.WeightBytes - r.Resumed)
	_, err := fmt.Fprintf(a.stdout, "%s: %s in %.1f s (%s/s)\n", path, formatBytes(written), seconds,
		formatBytes(written/seconds))
	return err
}
