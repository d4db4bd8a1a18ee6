package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/moering/moering/engine"
)

// inspectCommand shows a model and a plan.
type inspectCommand struct {
	modelFlags
	Sequences int  `default:"1" help:"Sequences in flight that the plan has room for."`
	Verify    bool `help:"Read the whole of a packed file and compare it with its checksums."`
}

// Run is called by kong.
func (c *inspectCommand) Run(a *app, ctx *runContext) error {
	if c.Verify {
		return c.verify(a, ctx)
	}
	o, err := c.options(a, nil)
	if err != nil {
		return err
	}
	o.Sequences = c.Sequences
	info, plan, err := engine.Inspect(c.Model, o)
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(struct {
			Model engine.Info `json:"model"`
			Plan  engine.Plan `json:"plan"`
		}{info, plan})
	}
	return a.printInspection(info, plan)
}

// verify reads everything, and says that all is right or what is not.
func (c *inspectCommand) verify(a *app, ctx *runContext) error {
	p := a.newProgress("verifying", true)
	defer p.close()
	start, bytes := time.Now(), int64(0)
	err := engine.Verify(ctx, c.Model, func(done, total int64) {
		bytes = total
		p.update(done, total)
	})
	p.close()
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	if c.JSON {
		return a.printJSON(struct {
			Path    string  `json:"path"`
			Bytes   int64   `json:"verified_bytes"`
			Seconds float64 `json:"seconds"`
		}{c.Model, bytes, seconds})
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %s are right, %.1f s (%s/s)\n", c.Model,
		formatBytes(float64(bytes)), seconds, formatBytes(float64(bytes)/seconds))
	return err
}

func (a *app) printInspection(i engine.Info, p engine.Plan) error {
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	b := func(n int64) string { return formatBytes(float64(n)) }
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("path", "%s (%s)", i.Path, i.Format)
	row("family", "%s", i.Family)
	row("layers", "%d of %d", i.Layers, i.Dim)
	row("experts", "%d a layer, %d used", i.Experts, i.ExpertsUsed)
	row("vocabulary", "%d", i.Vocabulary)
	row("context", "%d", i.Context)
	row("chat template", "%v", i.ChatTemplate)
	row("weights", "%s: %s", b(i.WeightBytes), i.Types)
	row("expert groups", "%d, %s in all, the largest %s", i.ExpertGroups, b(i.ExpertBytes),
		b(i.GroupBytes))
	row("device", "%s", p.Device)
	row("budget", "%s; at least %s would do", b(p.Budget), b(p.Least))
	row("  weights that stay", "%s", b(p.Stay))
	row("  KV cache", "%s for %d tokens", b(p.KV), p.KVTokens)
	row("  ring", "%s in %d sections", b(p.Ring), p.Sections)
	row("  expert cache", "%s for %d of %d groups", b(p.Cache), p.CacheSlots, p.Groups)
	if p.Floods() {
		row("", "fewer than the %d that one token uses", p.Cycle)
	}
	row("  work", "%s for passes of %d tokens", b(p.Work), p.Chunk)
	row("  program", "%s", b(p.Reserve))
	row("experts", "%s", map[bool]string{true: "all fit", false: "stream from disk"}[p.Resident])
	return t.Flush()
}
