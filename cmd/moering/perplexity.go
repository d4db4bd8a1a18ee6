package main

import (
	"errors"
	"fmt"

	"github.com/moering/moering/engine"
)

// perplexityCommand measures how well a model predicts a text.
type perplexityCommand struct {
	modelFlags
	File   string `arg:"" help:"The text; - is standard input."`
	Window int    `short:"w" placeholder:"N" help:"Tokens of a window (default: the context)."`
}

// Run is called by kong.
func (c *perplexityCommand) Run(a *app, ctx *runContext) (err error) {
	text, err := a.readText(c.File)
	if err != nil {
		return err
	}
	if c.Context == 0 {
		c.Context = c.Window
	}
	e, err := c.open(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	ids, err := e.Encode(text, true)
	if err != nil {
		return err
	}
	p := a.newProgress("windows", false)
	defer p.close()
	r, err := engine.Perplexity(ctx, e, ids, c.Window, func(done, total int) {
		p.update(int64(done), int64(total))
	})
	p.close()
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(r)
	}
	_, err = fmt.Fprintf(a.stdout, "perplexity %.4f +- %.4f (%.4f nats a token; %d tokens scored in "+
		"%d windows of %d)\n", r.Perplexity, r.Error, r.Nats, r.Scored, r.Windows, r.Window)
	return err
}
