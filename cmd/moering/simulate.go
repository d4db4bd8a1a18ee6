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
	Trace    string         `arg:"" help:"Routing trace, as run --routing-trace writes it; - is standard input."`
	Cache    []string       `placeholder:"SIZE" help:"Cache sizes: run (that of the recording run), a share like 1/4, a number of groups like 96, or bytes like 2GiB (default: run,1/8,1/4,1/2)."`
	Policy   []string       `placeholder:"NAME" help:"Cache policies (default: all, and belady, the optimum that knows the future)."`
	Ring     int            `placeholder:"N" help:"Sections of the ring beside the cache (default: the recording run's, or 1)."`
	Prefetch string         `enum:",auto,on,off,both" default:"" help:"Read guesses ahead: auto (where it pays), on, off, both (off and auto); takes a ring of 3 or more (default: as the recording run)."`
	Skip     int            `placeholder:"N" help:"Passes that fill the cache and are not counted."`
	Counts   string         `name:"profile-trace" placeholder:"FILE" help:"Trace that the static policy takes its counts from (default: the same, in hindsight)."`
	Sweep    bool           `default:"true" negatable:"" help:"Passes that hit nearly every expert read all of them ahead, in a fixed order."`
	Disk     size           `name:"bandwidth" placeholder:"SIZE" help:"What the disk reads in a second (default: what the recording run read, or its disk's probe)."`
	Latency  *time.Duration `placeholder:"TIME" help:"Of a read (default: 100us with --bandwidth; else part of what was recorded)."`
	Depth    int            `placeholder:"N" help:"Experts being read at a time (default: 2, or 8 of a trace without figures)."`
	PassTime time.Duration  `placeholder:"TIME" help:"Arithmetic of a pass beside its experts (default: as recorded)."`
	Group    time.Duration  `name:"group-time" placeholder:"TIME" help:"Touching one expert's weights (default: as recorded)."`
	Row      time.Duration  `name:"row-time" placeholder:"TIME" help:"One row in one expert (default: as recorded)."`
	JSON     bool           `name:"json" help:"Print one JSON object."`
}

// simulated is the JSON output.
type simulated struct {
	Trace   string `json:"trace"`
	Layers  int    `json:"layers"`
	Experts int    `json:"experts"`
	TopK    int    `json:"top_k"`
	Passes  int    `json:"passes"`
	Tokens  int64  `json:"tokens"`
	// What the recording run measured, and what the simulator makes of the same cache, policy and disk.
	Recorded *engine.RecordedRun     `json:"recorded,omitempty"`
	Replayed *engine.SimulateResult  `json:"replayed,omitempty"`
	Results  []engine.SimulateResult `json:"results"`
}

// Run is called by kong.
func (c *simulateCommand) Run(a *app, ctx *runContext) error {
	trace, err := a.readTrace(c.Trace)
	if err != nil {
		return err
	}
	s := trace.Shape
	out := simulated{Trace: c.Trace, Layers: s.Layers, Experts: s.Experts, TopK: s.TopK,
		Passes: trace.Passes(), Tokens: trace.Tokens}
	if err := c.replay(trace, &out); err != nil {
		return err
	}
	o, err := c.options(a, trace)
	if err != nil {
		return err
	}
	for _, text := range c.sizes(trace) {
		if o.Places, err = places(text, trace); err != nil {
			return err
		}
		for _, o.Policy = range c.policies() {
			for _, prefetch := range c.prefetches(trace) {
				if err := ctx.Err(); err != nil {
					return err
				}
				o.Prefetch(prefetch)
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

// replay holds the simulator against the run that recorded the trace, if that measured itself.
func (c *simulateCommand) replay(t *engine.RoutingTrace, out *simulated) error {
	recorded := t.Recorded(c.Skip)
	if recorded.Sections == 0 || recorded.Seconds == 0 {
		return nil
	}
	o := t.Options()
	o.Skip = c.Skip
	r, err := engine.Simulate(t, o)
	if err != nil {
		return err
	}
	out.Recorded, out.Replayed = &recorded, &r
	return nil
}

// options are those of the recording run, with what the flags say instead.
func (c *simulateCommand) options(a *app, t *engine.RoutingTrace) (engine.SimulateOptions, error) {
	o := t.Options()
	o.Skip, o.NoSweep = c.Skip, !c.Sweep
	if c.Ring != 0 {
		o.Ring = c.Ring
	}
	if c.Depth != 0 {
		o.Depth = c.Depth
	}
	if c.Disk > 0 {
		o.Bandwidth, o.Latency = float64(c.Disk), latencyDefault.Seconds()
	}
	if c.Latency != nil {
		o.Latency = c.Latency.Seconds()
	}
	if c.PassTime != 0 || c.Group != 0 || c.Row != 0 {
		o.Recorded = false
		o.PassSeconds, o.GroupSeconds, o.RowSeconds = c.PassTime.Seconds(), c.Group.Seconds(),
			c.Row.Seconds()
	}
	if c.Counts != "" {
		profile, err := a.readTrace(c.Counts)
		if err != nil {
			return o, err
		}
		o.Counts = profile.Counts()
	}
	return o, nil
}

// latencyDefault goes with a bandwidth that is given: of an NVMe disk.
const latencyDefault = 100 * time.Microsecond

func (c *simulateCommand) sizes(t *engine.RoutingTrace) []string {
	switch {
	case len(c.Cache) > 0:
		return c.Cache
	case t.Shape.Run.Sections > 0:
		return []string{"run", "1/8", "1/4", "1/2"}
	}
	return []string{"1/8", "1/4", "1/2"}
}

func (c *simulateCommand) policies() []string {
	if len(c.Policy) > 0 {
		return c.Policy
	}
	return engine.SimulatedPolicies()
}

func (c *simulateCommand) prefetches(t *engine.RoutingTrace) []engine.SimulatedPrefetch {
	switch c.Prefetch {
	case "off":
		return []engine.SimulatedPrefetch{engine.SimulatedOff}
	case "auto":
		return []engine.SimulatedPrefetch{engine.SimulatedAuto}
	case "on":
		return []engine.SimulatedPrefetch{engine.SimulatedOn}
	case "both":
		return []engine.SimulatedPrefetch{engine.SimulatedOff, engine.SimulatedAuto}
	}
	if ring := t.Options().Ring; c.Ring == 0 && ring > 2 || c.Ring > 2 {
		return []engine.SimulatedPrefetch{t.Shape.Run.Prefetch}
	}
	return []engine.SimulatedPrefetch{engine.SimulatedOff}
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

// places turns a cache size into a number of groups: "run", "1/4" of all, "96", or "2GiB" of them.
func places(text string, t *engine.RoutingTrace) (int, error) {
	groups := t.Groups()
	if text == "run" {
		if t.Shape.Run.Sections == 0 {
			return 0, fmt.Errorf("%w: the trace does not say what cache it was recorded with",
				engine.ErrUsage)
		}
		return t.Options().Places, nil
	}
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
		return 0, fmt.Errorf("%w: cache size %q; use run, a share like 1/4, a number of groups, or a size",
			engine.ErrUsage, text)
	}
	return int(min(int64(bytes)/t.Shape.GroupBytes, int64(groups))), nil
}

// printSimulated prints a line a replay; hit rates beside the optimum's where that was asked for.
func (a *app) printSimulated(s simulated, groupBytes int64) error {
	fmt.Fprintf(a.stderr, "trace: %d passes, %d tokens; %d layers of %d experts, %d used, %s each\n",
		s.Passes, s.Tokens, s.Layers, s.Experts, s.TopK, formatBytes(float64(groupBytes)))
	if s.Recorded != nil {
		a.printReplayed(s.Recorded, s.Replayed)
	}
	best := map[int]float64{}
	for _, r := range s.Results {
		if r.Policy == "belady" && !r.Predict {
			best[r.Places] = r.HitRate
		}
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w,
		"cache\tpolicy\tprefetch\thits\tof belady\tlate\tread/token\ttokens/s\tdecode/s\twaiting\t")
	for _, r := range s.Results {
		prefetch, share, speed, decode, waiting := "off", "", "", "", ""
		if r.Predict {
			prefetch = "on"
		}
		if b := best[r.Places]; b > 0 {
			share = fmt.Sprintf("%.1f %%", 100*r.HitRate/b)
		}
		if r.Seconds > 0 {
			speed, decode = fmt.Sprintf("%.2f", r.TokensPerS), fmt.Sprintf("%.2f", r.DecodeTokensPerS)
			waiting = fmt.Sprintf("%.1f %%", 100*r.WaitSeconds/r.Seconds)
		}
		fmt.Fprintf(w, "%d/%d\t%s\t%s\t%.2f %%\t%s\t%.2f %%\t%s\t%s\t%s\t%s\t\n", r.Places, r.Groups,
			r.Policy, prefetch, 100*r.HitRate, share, 100*float64(r.Late)/float64(max(r.Uses, 1)),
			formatBytes(r.BytesPerToken), speed, decode, waiting)
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

// printReplayed puts the run that recorded the trace beside what the simulator makes of it.
func (a *app) printReplayed(r *engine.RecordedRun, s *engine.SimulateResult) {
	fmt.Fprintf(a.stderr, "recorded with %d places and %d sections, %s, prefetch %s; groups came at %s/s\n",
		r.Places, r.Sections, r.Policy, r.Prefetch, formatBytes(r.ReadBytesPerS))
	line := func(name string, hit, late, bytes, speed, decode, wait float64) {
		fmt.Fprintf(a.stderr, "%s: hits %.2f %%, late %.2f %%, %s a token, %.2f tokens/s, decode %.2f/s, "+
			"waiting %.1f %%\n", name, 100*hit, 100*late, formatBytes(bytes), speed, decode, 100*wait)
	}
	line("measured ", r.HitRate, float64(r.Late)/float64(max(r.Uses, 1)), r.BytesPerToken, r.TokensPerS,
		r.DecodeTokensPerS, r.WaitSeconds/r.Seconds)
	line("simulated", s.HitRate, float64(s.Late)/float64(max(s.Uses, 1)), s.BytesPerToken, s.TokensPerS,
		s.DecodeTokensPerS, s.WaitSeconds/max(s.Seconds, 1e-9))
}
