package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// BenchOptions says what Bench measures. The zero value measures one sequence, three times.
type BenchOptions struct {
	PromptTokens int     // fed to each sequence; 0: 128
	GenTokens    int     // decoded by each sequence after that, one a pass; 0: 64
	Sequences    int     // at the same time; 0: 1
	Repetitions  int     // measured; 0: 3
	Warmup       int     // repetitions before, not measured
	Prompt       []int32 // real tokens to take all tokens from; nil: random ones
	Seed         uint64  // of random prompts
	// Progress, if set, is called after each repetition, those of the warm-up included.
	Progress func(done, total int)
}

// BenchRun is what one repetition measured. Bytes, hit rate and wait share are of the decode phase.
type BenchRun struct {
	PrefillTokensPerS float64 `json:"prefill_tokens_per_s"` // of all sequences together
	DecodeTokensPerS  float64 `json:"decode_tokens_per_s"`  // of all sequences together
	BytesReadPerToken float64 `json:"bytes_read_per_token"`
	ReadBytesPerS     float64 `json:"read_bytes_per_s"`
	HitRate           float64 `json:"hit_rate"`
	WaitShare         float64 `json:"wait_share"`
	PrefillBytesRead  int64   `json:"prefill_bytes_read"`
	// Speed while at least one read was under way, hit rate of the host's tier (see
	// Stats.HostHitRate), and how well experts were foreseen.
	ReadBusyBytesPerS float64 `json:"read_busy_bytes_per_s"`
	HostHitRate       float64 `json:"host_hit_rate"`
	Precision         float64 `json:"precision"`
	Recall            float64 `json:"recall"`
	// CPUExpertsPerToken counts groups computed on the processor beside a device.
	CPUExpertsPerToken float64 `json:"cpu_experts_per_token,omitempty"`
}

// BenchResult is the median of the repetitions, each figure by itself, with the options in effect.
type BenchResult struct {
	BenchRun
	MemoryPeak int64 `json:"memory_peak_bytes"` // resident set of the whole process
	// ProbeBytesPerS is what the disks gave when they were probed; 0: they were not.
	ProbeBytesPerS float64 `json:"probe_bytes_per_s"`
	BenchSetup
	Runs []BenchRun `json:"runs"`
}

// BenchSetup is the options in effect.
type BenchSetup struct {
	Model        string   `json:"model"`
	Family       string   `json:"family"`
	WeightBytes  int64    `json:"weight_bytes"`
	ExpertBytes  int64    `json:"expert_bytes"`
	PromptTokens int      `json:"prompt_tokens"`
	GenTokens    int      `json:"gen_tokens"`
	Sequences    int      `json:"sequences"`
	Repetitions  int      `json:"repetitions"`
	Warmup       int      `json:"warmup"`
	Threads      int      `json:"threads"`
	Context      int      `json:"context"`
	Prefetch     string   `json:"prefetch"`
	DirectIO     string   `json:"direct_io"`
	Reader       string   `json:"reader"`
	Exact        bool     `json:"exact"`
	Halves       bool     `json:"half_activations,omitempty"`
	Policy       string   `json:"policy"`
	Verify       string   `json:"checksum"`  // when checksums are compared,
	Checksums    bool     `json:"checksums"` // if there are any
	Chosen       []string `json:"chosen"`    // see Engine.Chosen
	Plan                  // device, memory_budget_bytes and how it is split, sections, chunk
}

// Bounds on what a benchmark may ask for.
const (
	benchTokensMax      = contextMax / 2
	benchRepetitionsMax = 1 << 16
)

func (b BenchOptions) complete() (BenchOptions, error) {
	for _, f := range []struct {
		name           string
		value          *int
		standard, most int
	}{
		{"PromptTokens", &b.PromptTokens, 128, benchTokensMax},
		{"GenTokens", &b.GenTokens, 64, benchTokensMax},
		{"Sequences", &b.Sequences, 1, sequencesMax},
		{"Repetitions", &b.Repetitions, 3, benchRepetitionsMax},
		{"Warmup", &b.Warmup, 0, benchRepetitionsMax},
	} {
		if *f.value == 0 {
			*f.value = f.standard
		}
		if *f.value < 0 || *f.value > f.most {
			return b, fmt.Errorf("bench: %w: %s is %d, outside 0 to %d", ErrUsage, f.name, *f.value,
				f.most)
		}
	}
	return b, nil
}

// Bench opens a model and measures it: each sequence, a goroutine with a session of its own, is fed
// its prompt, and when all have it, generates. o.Sequences is taken from b; o.Context 0 is the
// least that suffices. Between repetitions sessions are emptied, and the expert cache stays as it is.
func Bench(ctx context.Context, path string, o Options, b BenchOptions) (r BenchResult, err error) {
	if b, err = b.complete(); err != nil {
		return r, err
	}
	o.Sequences = b.Sequences
	if o.Context == 0 {
		o.Context = b.PromptTokens + b.GenTokens + 1
	}
	e, err := Open(path, o)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	w := bencher{engine: e, o: b}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.open(); err != nil {
		return r, err
	}
	for i := range b.Warmup + b.Repetitions {
		w.draw(i)
		run, err := w.run(ctx)
		if err != nil {
			return r, err
		}
		if i >= b.Warmup {
			r.Runs = append(r.Runs, run)
		}
		if b.Progress != nil {
			b.Progress(i+1, b.Warmup+b.Repetitions)
		}
	}
	r.BenchRun = medians(r.Runs)
	stats := e.Stats()
	r.MemoryPeak, r.ProbeBytesPerS = stats.PeakMemory, stats.ProbeBytesPerS
	r.BenchSetup = setup(e, path, b)
	return r, nil
}

func setup(e *Engine, path string, b BenchOptions) BenchSetup {
	o, info := e.Options(), e.Info()
	return BenchSetup{Model: path, Family: info.Family, WeightBytes: info.WeightBytes,
		ExpertBytes: info.ExpertBytes, PromptTokens: b.PromptTokens, GenTokens: b.GenTokens,
		Sequences: b.Sequences, Repetitions: b.Repetitions, Warmup: b.Warmup,
		Threads: o.Threads, Context: o.Context, Prefetch: o.Prefetch.String(),
		DirectIO: o.DirectIO.String(), Reader: o.Reader, Exact: o.Exact, Halves: o.HalfActivations, Policy: o.Policy,
		Verify: o.Verify, Checksums: info.Checksums, Chosen: e.Chosen(), Plan: e.Plan()}
}

// bencher holds the sessions of a benchmark and their prompts.
type bencher struct {
	engine   *Engine
	o        BenchOptions
	sessions []*Session
	prompts  [][]int32 // PromptTokens, and one more that decoding begins with
}

func (w *bencher) open() error {
	vocabulary := w.engine.Info().Vocabulary
	for _, id := range w.o.Prompt {
		if id < 0 || int(id) >= vocabulary {
			return fmt.Errorf("bench: %w: the prompt has token %d of %d", ErrUsage, id, vocabulary)
		}
	}
	for range w.o.Sequences {
		s, err := w.engine.NewSession()
		if err != nil {
			return err
		}
		w.sessions = append(w.sessions, s)
		w.prompts = append(w.prompts, make([]int32, w.o.PromptTokens+w.o.GenTokens))
	}
	return nil
}

// draw gives each sequence tokens of its own, new ones in every repetition: the experts of the same
// tokens again would be in memory already.
func (w *bencher) draw(repetition int) {
	random := rand.New(rand.NewPCG(w.o.Seed, uint64(repetition)))
	vocabulary := int32(w.engine.Info().Vocabulary)
	for i, ids := range w.prompts {
		part := (repetition*len(w.prompts) + i) * len(ids)
		for j := range ids {
			ids[j] = random.Int32N(vocabulary)
			if n := len(w.o.Prompt); n > 0 { // sequences take different parts of the text
				ids[j] = w.o.Prompt[(part+j)%n]
			}
		}
	}
}

func (w *bencher) close() (err error) {
	for _, s := range w.sessions {
		err = errors.Join(err, s.Close())
	}
	return err
}

func (w *bencher) run(ctx context.Context) (run BenchRun, err error) {
	before := w.engine.Stats()
	prefill, err := w.all(ctx, func(ctx context.Context, i int) error {
		if err := w.sessions[i].Truncate(0); err != nil {
			return err
		}
		return w.sessions[i].Feed(ctx, w.prompts[i][:w.o.PromptTokens])
	})
	if err != nil {
		return run, err
	}
	middle := w.engine.Stats()
	decode, err := w.all(ctx, w.decode)
	if err != nil {
		return run, err
	}
	stats := w.engine.Stats().Sub(middle)
	tokens := float64(w.o.Sequences * w.o.GenTokens)
	return BenchRun{
		PrefillTokensPerS:  float64(w.o.Sequences*w.o.PromptTokens) / prefill.Seconds(),
		DecodeTokensPerS:   tokens / decode.Seconds(),
		BytesReadPerToken:  float64(stats.BytesRead) / tokens,
		ReadBytesPerS:      float64(stats.BytesRead) / decode.Seconds(),
		HitRate:            stats.HitRate(),
		WaitShare:          stats.WaitShare(),
		PrefillBytesRead:   middle.Sub(before).BytesRead,
		ReadBusyBytesPerS:  stats.ReadBytesPerS(),
		HostHitRate:        stats.HostHitRate(),
		Precision:          stats.Precision(),
		Recall:             stats.Recall(),
		CPUExpertsPerToken: float64(stats.CPUExperts) / tokens,
	}, nil
}

// decode feeds a sequence its tokens one by one and picks the likeliest after each, as generating does.
// The tokens fed are given, so that random weights do not lead into a loop, whose few experts would
// soon all be in memory.
func (w *bencher) decode(ctx context.Context, i int) error {
	s := w.sessions[i]
	w.engine.runner.enter(1)
	defer w.engine.runner.enter(-1)
	sampler, err := Sampling{}.sampler()
	if err != nil {
		return err
	}
	ids := w.prompts[i][w.o.PromptTokens:]
	for n := range ids {
		if err := s.feed(ctx, ids[n:n+1], true, nil); err != nil {
			return err
		}
		if _, err := sampler.Sample(s.logits, s.tokens); err != nil {
			return err
		}
	}
	return nil
}

// all runs f for every sequence at the same time and returns how long that took. The first failure
// cancels the others.
func (w *bencher) all(ctx context.Context, f func(ctx context.Context, i int) error) (
	time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, w.o.Sequences)
	var wait sync.WaitGroup
	start := time.Now()
	for i := range w.o.Sequences {
		wait.Go(func() {
			if errs[i] = f(ctx, i); errs[i] != nil {
				cancel()
			}
		})
	}
	wait.Wait()
	took := max(time.Since(start), time.Nanosecond)
	for _, err := range errs { // the cause rather than the cancellations it brought about
		if err != nil && !errors.Is(err, context.Canceled) {
			return took, err
		}
	}
	return took, errors.Join(errs...)
}

// medians takes the median of each figure by itself; of an even number, the lower one.
func medians(runs []BenchRun) BenchRun {
	median := func(figure func(BenchRun) float64) float64 {
		values := make([]float64, len(runs))
		for i, r := range runs {
			values[i] = figure(r)
		}
		slices.Sort(values)
		return values[(len(values)-1)/2]
	}
	return BenchRun{
		PrefillTokensPerS: median(func(r BenchRun) float64 { return r.PrefillTokensPerS }),
		DecodeTokensPerS:  median(func(r BenchRun) float64 { return r.DecodeTokensPerS }),
		BytesReadPerToken: median(func(r BenchRun) float64 { return r.BytesReadPerToken }),
		ReadBytesPerS:     median(func(r BenchRun) float64 { return r.ReadBytesPerS }),
		HitRate:           median(func(r BenchRun) float64 { return r.HitRate }),
		WaitShare:         median(func(r BenchRun) float64 { return r.WaitShare }),
		PrefillBytesRead:  int64(median(func(r BenchRun) float64 { return float64(r.PrefillBytesRead) })),
		ReadBusyBytesPerS: median(func(r BenchRun) float64 { return r.ReadBusyBytesPerS }),
		HostHitRate:       median(func(r BenchRun) float64 { return r.HostHitRate }),
		Precision:         median(func(r BenchRun) float64 { return r.Precision }),
		Recall:            median(func(r BenchRun) float64 { return r.Recall }),
		CPUExpertsPerToken: median(func(r BenchRun) float64 {
			return r.CPUExpertsPerToken
		}),
	}
}
