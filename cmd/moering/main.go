// Command moering runs, measures and makes language models that may be larger than memory.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/moering/moering/engine"
)

// Exit codes.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2
	exitCanceled = 130 // as shells report a program that SIGINT ended
)

// cli is the command line; fields are flags and commands of kong.
type cli struct {
	Profile    string `enum:",cpu,mem,trace" default:"" placeholder:"KIND" help:"Write a profile: cpu, mem or trace."`
	ProfileDir string `default:"." placeholder:"DIR" help:"Where the profile goes (default: here)."`
	Verbose    bool   `short:"v" help:"Log details to standard error."`

	Run        runCommand        `cmd:"" help:"Generate text."`
	Inspect    inspectCommand    `cmd:"" help:"Show what a model is and how a budget would be split; reads no weights."`
	Bench      benchCommands     `cmd:"" help:"Measure speed."`
	Batch      batchCommand      `cmd:"" help:"Answer a file of requests; goes on where it was after a kill."`
	Perplexity perplexityCommand `cmd:"" help:"Measure how well a model predicts a text."`
	Pack       packCommand       `cmd:"" help:"Rewrite a model for streaming: aligned, with checksums, quantised if wanted."`
	Simulate   simulateCommand   `cmd:"" help:"Replay a routing trace against caches, policies and disks."`
	Synth      synthCommand      `cmd:"" help:"Write a model with random weights, of any size."`
	Version    versionCommand    `cmd:"" help:"Say which build this is."`
}

const description = "Runs Mixture-of-Experts models that do not fit in memory: experts stream " +
	"from disk. Sizes are like 4GiB, 500MB, 1.5G or a number of bytes; K, M, G and T count in 1024."

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(a.main(ctx, os.Args[1:]))
}

// app is what commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	verbose        bool
	files          []*os.File // to be closed when the command has ended
}

// exit carries the exit code of --help out of kong.
type exit int

// main runs one command line and returns the exit code.
func (a *app) main(ctx context.Context, args []string) (code int) {
	defer func() {
		if r := recover(); r != nil {
			wanted, ok := r.(exit)
			if !ok {
				panic(r)
			}
			code = int(wanted)
		}
	}()
	var c cli
	parser, err := kong.New(&c, kong.Name("moering"), kong.Description(description),
		kong.Writers(a.stdout, a.stderr), kong.Exit(func(code int) { panic(exit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		fmt.Fprintln(a.stderr, "moering:", err)
		return exitFailure
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(a.stderr, "moering: %v\nmoering: try --help\n", err)
		return exitUsage
	}
	a.verbose = c.Verbose
	stop := startProfile(c.Profile, c.ProfileDir)
	err = errors.Join(command.Run(a, &runContext{ctx}), a.closeFiles())
	stop()
	return a.report(ctx, err)
}

// runContext brings a context through kong, which binds by concrete type.
type runContext struct{ context.Context }

// report says what went wrong and returns the exit code for it.
func (a *app) report(ctx context.Context, err error) int {
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(a.stderr, "moering: interrupted")
		return exitCanceled
	}
	fmt.Fprintln(a.stderr, "moering:", err)
	if errors.Is(err, engine.ErrUsage) {
		return exitUsage
	}
	return exitFailure
}
