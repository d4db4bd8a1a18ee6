package sched

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// Trace is a whole routing trace in memory, as the simulator wants it.
type Trace struct {
	Shape  TraceShape
	passes []tracedPass
	layers []tracedLayer
	uses   []int32 // groups, each once a layer and pass, in the order of their use
	named  []int32 // candidates that were predicted, (rows, topK), best first
	Tokens int64   // rows of all passes
}

type tracedPass struct {
	rows, end int32 // end of its layers
	decode    bool  // a row of each sequence
	figures   PassFigures
}

type tracedLayer struct {
	layer         int32
	usesEnd       int32
	namedEnd      int32
	slots         int32 // rows*k
	usesAt, named int32
	figures       LayerFigures
}

// usesMax bounds a trace in memory: 256 Mi entries, 1 GiB.
const usesMax = 1 << 28

// ReadTrace reads a trace to its end. One that was cut off gives what is there, and an error that
// wraps io.ErrUnexpectedEOF; other errors give no trace.
func ReadTrace(r io.Reader) (*Trace, error) {
	in, err := NewTraceReader(r)
	if err != nil {
		return nil, err
	}
	t := &Trace{Shape: in.Shape()}
	var p TracePass
	seen := make([]bool, t.Shape.Experts)
	for {
		if err := in.Next(&p); errors.Is(err, io.EOF) {
			return t, nil
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			return t, err
		} else if err != nil {
			return nil, err
		}
		t.add(&p, seen)
		if len(t.uses) > usesMax || len(t.named) > usesMax {
			return nil, fmt.Errorf("%w: more than %d uses", ErrTrace, usesMax)
		}
	}
}

// add appends a pass. Groups of a layer are used in ascending order, as the engine asks for them.
func (t *Trace) add(p *TracePass, seen []bool) {
	t.Tokens += int64(p.Rows)
	for i := range p.Layers {
		l := &p.Layers[i]
		for _, id := range l.IDs {
			seen[id] = true
		}
		at := len(t.uses)
		for e, is := range seen {
			if is {
				t.uses = append(t.uses, int32(l.Layer*t.Shape.Experts+e))
				seen[e] = false
			}
		}
		named := len(t.named)
		t.named = append(t.named, l.Predicted...)
		t.layers = append(t.layers, tracedLayer{layer: int32(l.Layer), slots: int32(len(l.IDs)),
			usesAt: int32(at), usesEnd: int32(len(t.uses)), named: int32(named),
			namedEnd: int32(len(t.named)), figures: l.Figures})
	}
	t.passes = append(t.passes, tracedPass{rows: int32(p.Rows), end: int32(len(t.layers)),
		decode: p.Rows == p.Sequences, figures: p.Figures})
}

// Passes counts the passes.
func (t *Trace) Passes() int { return len(t.passes) }

// Groups counts the groups of the model: layers times experts.
func (t *Trace) Groups() int { return t.Shape.Layers * t.Shape.Experts }

// Counts is how often each group was used: a profile for the static policy.
func (t *Trace) Counts() []uint32 {
	counts := make([]uint32, t.Groups())
	for _, g := range t.uses {
		counts[g]++
	}
	return counts
}

// Recorded is what the run that recorded a trace measured itself. Seconds are 0 where it did not.
type Recorded struct {
	TraceRun
	Tokens           int64   `json:"tokens"`
	Uses             int64   `json:"uses"`
	Hits             int64   `json:"hits"` // in memory when asked for
	Late             int64   `json:"late"`
	HitRate          float64 `json:"hit_rate"`
	BytesPerToken    float64 `json:"bytes_per_token"`
	Seconds          float64 `json:"seconds"`
	WaitSeconds      float64 `json:"wait_seconds"`
	TokensPerS       float64 `json:"tokens_per_s"`
	DecodeTokensPerS float64 `json:"decode_tokens_per_s"` // of the passes with a row a sequence
	// ReadBytesPerS is how fast groups came while any was on its way: reading, checking, rearranging.
	ReadBytesPerS float64 `json:"read_bytes_per_s"`
	ReadBytes     int64   `json:"read_bytes"` // that a group moves, with what surrounds it
	// ReadLatency is what a read takes side by side with others, in seconds, and ReadStreamPerS how many
	// bytes a second those that are under way share; see Trace.fit.
	ReadLatency    float64 `json:"read_latency_s"`
	ReadStreamPerS float64 `json:"read_stream_bytes_per_s"`
}

// Recorded sums up what the recording run measured from pass skip on.
func (t *Trace) Recorded(skip int) Recorded {
	r := Recorded{TraceRun: t.Shape.Run}
	gap := seconds(t.gap())
	var bytes, reads, decoded, first int64
	var decode, reading float64
	for i, p := range t.passes {
		layers := t.layers[first:p.end]
		if first = int64(p.end); i < skip {
			continue
		}
		took := gap + seconds(p.figures.Outside)
		for k := range layers {
			f := &layers[k].figures
			took += seconds(f.Before + f.Experts + f.Wait)
			r.WaitSeconds += seconds(f.Wait)
			r.Hits, r.Late = r.Hits+f.Hits, r.Late+f.Late
			r.Uses += int64(layers[k].usesEnd - layers[k].usesAt)
		}
		r.Tokens += int64(p.rows)
		r.Seconds += took
		if p.decode {
			decoded, decode = decoded+int64(p.rows), decode+took
		}
		bytes += p.figures.BytesRead
		reads += p.figures.Reads.Reads
		reading += seconds(p.figures.Reads.Reading())
	}
	r.HitRate = share(r.Hits, r.Uses)
	r.BytesPerToken = share(bytes, r.Tokens)
	r.TokensPerS = rate(r.Tokens, r.Seconds)
	r.DecodeTokensPerS = rate(decoded, decode)
	r.ReadBytesPerS = rate(bytes, reading)
	if reads > 0 {
		r.ReadBytes = bytes / reads
	}
	latency, each := t.fit()
	r.ReadLatency, r.ReadStreamPerS = latency, rate(r.ReadBytes, each)
	return r
}

func seconds(nanos int64) float64 { return float64(nanos) / 1e9 }

func share(a, b int64) float64 { return float64(a) / float64(max(b, 1)) }

// rate is n a second; 0 where no time passed.
func rate(n int64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

// gap is the usual time between passes, in nanoseconds: their median, since a pause of the user's is
// no work.
func (t *Trace) gap() int64 {
	if len(t.passes) == 0 {
		return 0
	}
	gaps := make([]int64, len(t.passes))
	for i := range t.passes {
		gaps[i] = t.passes[i].figures.Gap
	}
	slices.Sort(gaps)
	return gaps[len(gaps)/2]
}

// Timed reports whether the trace says what its passes took.
func (t *Trace) Timed() bool { return t.Recorded(0).Seconds > 0 }

// latencyStandard is a read's latency where the disk's speed is known by a probe alone.
const latencyStandard = 1e-4

// fitRatios are what a read's latency is tried to be, in times of moving one piece's bytes.
var fitRatios = [...]float64{0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8}

// fit says how the disk shares its time, by how many groups came in each pass while so many were on
// their way. With n pieces under way each takes latency + n * piece, so that n / (latency + n * piece)
// end in a second: of the ratios of the two, the one is taken that leaves the least unexplained, and the
// groups of all passes take the time that they took. Seconds; each is of a group's pieces.
func (t *Trace) fit() (latency, each float64) {
	best := 0.0
	for k, ratio := range fitRatios {
		var came, sum, left float64
		for i := range t.passes {
			came += float64(t.passes[i].figures.Reads.Reads)
			sum += t.served(i, ratio, 1)
		}
		if came == 0 || sum == 0 {
			return 0, 0
		}
		for i := range t.passes {
			left += math.Abs(float64(t.passes[i].figures.Reads.Reads) - t.served(i, ratio, 1)*came/sum)
		}
		if k == 0 || left < best {
			best, latency, each = left, ratio*sum/came, t.pieces()*sum/came
		}
	}
	return latency, each
}

func (t *Trace) pieces() float64 { return float64(max(t.Shape.Run.Pieces, 1)) }

// served is how many groups would come in the reading time of a pass.
func (t *Trace) served(pass int, latency, piece float64) (groups float64) {
	depth := float64(max(t.Shape.Run.Depth, 1))
	for n, nanos := range t.passes[pass].figures.Reads.At {
		under := min(t.pieces()*float64(n+1), depth)
		groups += seconds(nanos) * under / (latency + under*piece) / t.pieces()
	}
	return groups
}

// slowMost bounds how much slower or faster than on average the disk is taken to be in a pass.
const slowMost = 30

// slowness is how much slower than on average the disk was in a pass: it has its good moments and its
// bad ones, which last.
func (t *Trace) slowness(pass int, latency, each float64) float64 {
	came := float64(t.passes[pass].figures.Reads.Reads)
	if came == 0 || each <= 0 {
		return 1
	}
	return min(max(t.served(pass, latency, each/t.pieces())/came, 1./slowMost), slowMost)
}

// Options are those of the run that recorded the trace, on the machine that it ran on: its cache,
// policy and reading ahead, the times of its arithmetic, and the speed at which groups came, or where
// it read none, that of its disk's probe. Of a trace without figures they are the simulator's defaults.
func (t *Trace) Options() SimulateOptions {
	r := t.Recorded(0)
	o := SimulateOptions{Policy: r.Policy, Places: min(r.Places, t.Groups()), Depth: r.Depth,
		Pieces: r.Pieces, Ring: min(r.Sections, t.Groups()), Recorded: r.Seconds > 0,
		Bandwidth: r.ReadStreamPerS, Latency: r.ReadLatency,
		GroupBytes: r.ReadBytes}
	if o.Bandwidth == 0 && r.BytesPerSecond > 0 {
		o.Bandwidth, o.Latency = float64(r.BytesPerSecond), latencyStandard
	}
	if r.Sections > RingForDemand {
		o.Prefetch(r.Prefetch)
	}
	return o
}
