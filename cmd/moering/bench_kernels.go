package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/moering/moering/engine"
)

// benchKernelsCommand measures the CPU's kernels.
type benchKernelsCommand struct {
	Op          []string `placeholder:"NAME" help:"Only these: decode, experts, attention decode, attention prefill."`
	Type        []string `placeholder:"NAME" help:"Only these weight or cache types, such as Q4_K."`
	Rows        []int    `placeholder:"N" help:"Rows of each expert (default: 1, 2, 4, 8, 16, 64, 256)."`
	Threads     int      `default:"0" help:"Computing threads; 0: all."`
	ISA         string   `name:"isa" placeholder:"NAME" help:"Instruction set: avx512, avx2, neon, portable (default: the best)."`
	Memory      size     `default:"512MiB" help:"Weights that a repetition reads: far more than caches hold."`
	Repetitions int      `default:"5" help:"Repetitions; medians count."`
	JSON        bool     `name:"json" help:"Print one line of JSON a case."`
}

// kernelLine is a line of JSON: the result and where it comes from.
type kernelLine struct {
	What   string `json:"what"`
	Date   string `json:"date"`
	Commit string `json:"commit"`
	CPU    string `json:"cpu"`
	engine.KernelResult
}

// Run is called by kong.
func (c *benchKernelsCommand) Run(a *app, ctx *runContext) error {
	out := json.NewEncoder(a.stdout)
	if !c.JSON {
		fmt.Fprintf(a.stdout, "%-18s %-7s %5s  %9s %9s  %6s %6s  %9s %9s  %s\n", "op", "type", "rows",
			"GB/s", "limit", "share", "best", "GOP/s", "peak", "share")
	}
	line := kernelLine{What: "kernels", Date: time.Now().UTC().Format(time.RFC3339),
		Commit: revision(), CPU: processorName()}
	return engine.BenchKernels(ctx, engine.KernelOptions{Threads: c.Threads, ISA: c.ISA, Ops: c.Op,
		Types: c.Type, Rows: c.Rows, MemoryBytes: int64(c.Memory), Repetitions: c.Repetitions},
		func(r engine.KernelResult) {
			if c.JSON {
				line.KernelResult = r
				_ = out.Encode(line) // a closed pipe ends the program by its signal
				return
			}
			fmt.Fprintf(a.stdout, "%-18s %-7s %5d  %9.1f %9.1f  %5.0f%% %5.0f%%  %9.1f %9.1f  %.0f%%\n",
				r.Op, r.Type, r.Rows, r.BytesPerS/1e9, r.ReadLimit/1e9, 100*r.ReadShare,
				100*r.ReadShareBest, r.OpsPerS/1e9, r.MathLimit/1e9, 100*r.MathShare)
		})
}

// revision is the commit that the program was built from.
func revision() string {
	commit, modified := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = s.Value[:min(len(s.Value), 7)]
			case s.Key == "vcs.modified" && s.Value == "true":
				modified = "-modified"
			}
		}
	}
	return commit + modified
}

// processorName is what Linux calls the processor.
func processorName() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, found := strings.CutPrefix(lines.Text(), "model name"); found {
			return strings.TrimLeft(name, "\t :")
		}
	}
	return "unknown"
}
