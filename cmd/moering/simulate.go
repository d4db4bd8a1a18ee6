package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/moering/moering/engine"
)

// simulateCommand replays a routing trace.
type simulateCommand struct {
	Trace    string        `arg:"" help:"Routing trace, as run --routing-trace writes it; - is standard input."`
	Cache    []string      `default:"1/8,1/4,1/2" placeholder:"SIZE" help:"Cache sizes: a share like 1/4, a number of groups like 96, or bytes like 2GiB."`
	Policy   []string      `placeholder:"NAME" help:"Cache policies (default: all, and belady, the optimum that knows the future)."`
	Ring     int           `default:"1" help:"Sections of the ring beside the cache."`
	Prefetch string        `enum:"on,off,both" default:"off" help:"Read guesses ahead: on, off, both; takes a ring of 3 or more."`
	Skip     int           `placeholder:"N" help:"Passes that fill the cache and are not counted."`
	Counts   string        `name:"profile-trace" placeholder:"FILE" help:"Trace that the static policy takes its counts from (default: the same, in hindsight)."`
	Sweep    bool          `default:"true" negatable:"" help:"Passes that hit nearly every expert read all of them ahead, in a fixed order."`
	Disk     size          `name:"bandwidth" placeholder:"SIZE" help:"What the disk reads in a second; without it, no seconds are told."`
	Latency  time.Duration `default:"100us" help:"Of a read."`
	Depth    int           `default:"8" help:"Reads at a time."`
	PassTime time.Duration `placeholder:"TIME" help:"Arithmetic of a pass beside its experts."`
	Group    time.Duration `name:"group-time" placeholder:"TIME" help:"Touching one expert's weights."`
	Row      time.Duration `name:"row-time" placeholder:"TIME" help:"One row in one expert."`
	JSON     bool          `name:"json" help:"Print one JSON object."`
}

// simulated is the JSON output.
type simulated struct {
	Trace   string                  `json:"trace"`
	Layers  int                     `json:"layers"`
	Experts int                     `json:"experts"`
	TopK    int                     `json:"top_k"`
	Passes  int                     `json:"passes"`
	Tokens  int64                   `json:"tokens"`
	Results []engine.SimulateResult `json:"results"`
}

// Run is called by kong.
func (c *simulateCommand) Run(a *app, ctx *runContext) error {
	trace, err := a.readTrace(c.Trace)
	if err != nil {
		return err
	}
	o := engine.SimulateOptions{Ring: c.Ring, Skip: c.Skip, NoSweep: !c.Sweep,
		Bandwidth: float64(c.Disk), Depth: c.Depth,
		PassSeconds: c.PassTime.Seconds(), GroupSeconds: c.Group.Seconds(), RowSeconds: c.Row.Seconds()}
	if c.Disk > 0 {
		o.Latency = c.Latency.Seconds()
	}
	if c.Counts != "" {
		profile, err := a.readTrace(c.Counts)
		if err != nil {
			return err
		}
		o.Counts = profile.Counts()
	}
	if len(c.Policy) == 0 {
		c.Policy = engine.SimulatedPolicies()
	}
	s := trace.Shape
	out := simulated{Trace: c.Trace, Layers: s.Layers, Experts: s.Experts, TopK: s.TopK,
		Passes: trace.Passes(), Tokens: trace.Tokens}
	for _, text := range c.Cache {
		if o.Places, err = places(text, trace); err != nil {
			return err
		}
		for _, o.Policy = range c.Policy {
			for _, o.Predict = range map[string][]bool{"on": {true}, "off": {false},
				"both": {false, true}}[c.Prefetch] {
				if err := ctx.Err(); err != nil {
					return err
				}
				r, err := engine.Simulate(trace, o)
				if err != nil {
					return err
				}
				out.Results = append(out.Results, r)
			}
		}
	}
	if c.JSON {
		return a.printJSON(out)
	}
	return a.printSimulated(out, s.GroupBytes)
}

// readTrace reads a trace; of one that was cut off it takes what there is, and says so.
func (a *app) readTrace(path string) (*engine.RoutingTrace, error) {
	in := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the trace: %w", err)
		}
		defer f.Close()
		in = f
	}
	t, err := engine.ReadRoutingTrace(in)
	if t != nil && errors.Is(err, io.ErrUnexpectedEOF) {
		fmt.Fprintf(a.stderr, "moering: %s: %v; going on with %d passes\n", path, err, t.Passes())
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if t.Passes() == 0 {
		return nil, fmt.Errorf("%w: %s holds no whole pass", engine.ErrUsage, path)
	}
	return t, nil
}

// places turns a cache size into a number of groups: "1/4" of all, "96", or "2GiB" of them.
func places(text string, t *engine.RoutingTrace) (int, error) {
	groups := t.Groups()
	if above, below, isShare := strings.Cut(text, "/"); isShare {
		n, err := strconv.Atoi(above)
		d, err2 := strconv.Atoi(below)
		if err != nil || err2 != nil || n < 0 || d < 1 || n > d {
			return 0, fmt.Errorf("%w: %q is no share; use one like 1/4", engine.ErrUsage, text)
		}
		return groups * n / d, nil
	}
	if n, err := strconv.Atoi(text); err == nil {
		if n < 0 || n > groups {
			return 0, fmt.Errorf("%w: a cache of %d of %d groups", engine.ErrUsage, n, groups)
		}
		return n, nil
	}
	var bytes size
	if err := bytes.UnmarshalText([]byte(text)); err != nil || t.Shape.GroupBytes == 0 {
		return 0, fmt.Errorf("%w: cache size %q; use a share like 1/4, a number of groups, or a size",
			engine.ErrUsage, text)
	}
	return int(min(int64(bytes)/t.Shape.GroupBytes, int64(groups))), nil
}

// printSimulated prints a line a replay; hit rates beside the optimum's where that was asked for.
func (a *app) printSimulated(s simulated, groupBytes int64) error {
	fmt.Fprintf(a.stderr, "trace: %d passes, %d tokens; %d layers of %d experts, %d used, %s each\n",
		s.Passes, s.Tokens, s.Layers, s.Experts, s.TopK, formatBytes(float64(groupBytes)))
	best := map[int]float64{}
	for _, r := range s.Results {
		if r.Policy == "belady" && !r.Predict {
			best[r.Places] = r.HitRate
		}
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "cache\tpolicy\tprefetch\thits\tof belady\tread/token\ttokens/s\twaiting\t")
	for _, r := range s.Results {
		prefetch, share, speed, waiting := "off", "", "", ""
		if r.Predict {
			prefetch = "on"
		}
		if b := best[r.Places]; b > 0 {
			share = fmt.Sprintf("%.1f %%", 100*r.HitRate/b)
		}
		if r.Seconds > 0 {
			speed = fmt.Sprintf("%.2f", r.TokensPerS)
			waiting = fmt.Sprintf("%.1f %%", 100*r.WaitSeconds/r.Seconds)
		}
		fmt.Fprintf(w, "%d/%d\t%s\t%s\t%.2f %%\t%s\t%s\t%s\t%s\t\n", r.Places, r.Groups, r.Policy,
			prefetch, 100*r.HitRate, share, formatBytes(r.BytesPerToken), speed, waiting)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	if r := s.Results[0]; r.RouterPrecision > 0 {
		fmt.Fprintf(a.stderr, "next router's choice: precision %.1f %%, recall %.1f %%; worth reading "+
			"ahead: precision %.1f %%, recall %.1f %%\n", 100*r.RouterPrecision, 100*r.RouterRecall,
			100*r.GuessPrecision, 100*r.GuessRecall)
	}
	return nil
}
