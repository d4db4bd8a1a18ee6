package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/moering/moering/engine/internal/forward"
	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/sched"
)

// BatchPlan is what a job would take, from its requests, the model, and this machine's rates.
type BatchPlan struct {
	Requests     int           `json:"requests"`
	Refused      int           `json:"refused"`
	PromptTokens int64         `json:"prompt_tokens"`
	NewTokens    int64         `json:"new_tokens"` // if every request generates as much as it may
	Longest      int           `json:"longest_sequence_tokens"`
	Plan         Plan          `json:"plan"`
	Rates        BatchRates    `json:"rates"`
	Forecast     BatchForecast `json:"forecast"`
	// SmallerKV says what the job would take with more sequences in the same memory, their keys and
	// values stored in a smaller type, which rounds them.
	SmallerKV []sched.Help `json:"smaller_kv"`
}

// BatchForecast is the policy of a job's passes run forward without doing anything.
type BatchForecast = sched.ForecastResult

// BatchRates is what a few measured passes showed.
type BatchRates struct {
	Bandwidth         float64 `json:"read_bytes_per_s"`
	PassSeconds       float64 `json:"pass_seconds"` // of the arithmetic of a pass, whatever its rows
	PrefillRowSeconds float64 `json:"prefill_row_seconds"`
	DecodeRowSeconds  float64 `json:"decode_row_seconds"`
	Exposed           float64 `json:"exposed"`     // share of the shorter of loading and computing
	BytesShare        float64 `json:"bytes_share"` // read by a pass, of what independent choices of experts would
}

// PlanBatch opens the model as Batch would, measures a few passes with the job's own prompts, and
// says what the job would take. It writes nothing and needs no output; nothing is finished by it.
func PlanBatch(ctx context.Context, path string, o Options, b BatchOptions) (r BatchPlan, err error) {
	p, err := openBatch(path, o, b, true)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	e, err := OpenContext(ctx, path, p.fitted)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	r = BatchPlan{Requests: p.job.Len(), Plan: e.plan}
	var jobs []sched.Job
	for i, s := range p.shapes {
		if p.job.Refused(i) {
			r.Refused++
			continue
		}
		jobs = append(jobs, sched.Job{Prompt: int(s.prompt), MaxNew: int(s.new)})
		r.PromptTokens += int64(s.prompt)
		r.NewTokens += int64(s.new)
		r.Longest = max(r.Longest, int(s.most))
	}
	if len(jobs) == 0 {
		return r, nil
	}
	p.asks = e
	probe := batchProbe{engine: e, job: p, model: e.waveModel()}
	if err := probe.run(ctx); err != nil {
		return r, fmt.Errorf("batch: measuring: %w", mapError(err))
	}
	r.Rates = probe.rates
	r.Forecast = sched.Forecast(probe.model, jobs)
	r.SmallerKV = e.smallerKV(probe.model, jobs)
	return r, nil
}

// smallerKV forecasts a job for each type of keys and values that is smaller than the one in use.
func (e *Engine) smallerKV(m sched.WaveModel, jobs []sched.Job) (helps []sched.Help) {
	a, now := e.model, e.options.kvType()
	bytes := func(t quant.Type) int64 { return kv.TokenBytes(t, len(a.Layers), a.KVHeads, a.HeadDim) }
	for _, name := range []string{"f16", "q8_0"} {
		t, _ := parseKVType(name)
		if b := bytes(t); b > 0 && b < bytes(now) {
			small := m
			small.KVTokens = m.KVTokens * bytes(now) / b
			helps = append(helps, sched.Help{What: name, Seconds: sched.Forecast(small, jobs).Seconds})
		}
	}
	return helps
}

// batchProbe measures passes like those of the job.
type batchProbe struct {
	engine *Engine
	job    *batchJob
	model  sched.WaveModel
	rates  BatchRates

	tokens []int32 // of the job's prompts, one after the other
	next   int     // of them to be used
	length int     // of a prompt, on average
	all    []*kv.Sequence
}

// probeTokensMax bounds how much of the prompts is read for a probe.
const probeTokensMax = 1 << 14

// probed is what a pass showed.
type probed struct {
	rows          int
	compute, busy float64 // seconds
	bytes         int64
	reading       float64 // seconds
}

// probeRepeats is how often each kind of pass is measured: the faster one counts, for what else the
// machine does can only slow it down.
const probeRepeats = 2

// run measures: prompts over a whole pass, after one that finds nothing in memory; over half of one;
// and a row of each of many sequences that decode.
func (b *batchProbe) run(ctx context.Context) error {
	defer b.release()
	if err := b.read(); err != nil {
		return err
	}
	chunk := b.model.RowsMax
	if _, err := b.prefill(ctx, chunk); err != nil {
		return err
	}
	full, err := b.faster(func() (probed, error) { return b.prefill(ctx, chunk) })
	if err != nil {
		return err
	}
	half, err := b.faster(func() (probed, error) { return b.prefill(ctx, max(chunk/2, 1)) })
	if err != nil {
		return err
	}
	decode, err := b.faster(func() (probed, error) { return b.decode(ctx) })
	if err != nil {
		return err
	}
	b.solve(full, half, decode)
	return nil
}

// faster measures a few times.
func (b *batchProbe) faster(measure func() (probed, error)) (best probed, err error) {
	for i := range probeRepeats {
		p, err := measure()
		if err != nil {
			return p, err
		}
		if i == 0 || p.busy < best.busy {
			best = p
		}
	}
	return best, nil
}

// read gathers tokens of prompts.
func (b *batchProbe) read() error {
	count := 0
	for i := range b.job.shapes {
		if b.job.job.Refused(i) || len(b.tokens) >= probeTokensMax {
			continue
		}
		r, err := b.job.job.Request(i)
		if err != nil {
			return batchError(err)
		}
		for _, in := range batchInputs(r) {
			ids, bad := b.engine.batchTokens(r, in)
			if bad != nil {
				return bad
			}
			b.tokens = append(b.tokens, ids...)
			count++
		}
	}
	b.length = min(max(len(b.tokens)/max(count, 1), 1), b.engine.options.Context-1)
	return nil
}

func (b *batchProbe) release() {
	for _, s := range b.all {
		s.Close()
	}
	b.all = b.all[:0]
}

// probeRows is a pass under construction.
type probeRows struct {
	batch forward.Batch
	seqs  []*kv.Sequence
	rows  []int // of each
}

// add puts n rows of a sequence into the pass.
func (b *batchProbe) add(p *probeRows, s *kv.Sequence, n int) {
	for i := range n {
		p.batch.Tokens = append(p.batch.Tokens, b.tokens[b.next%len(b.tokens)])
		p.batch.Seqs = append(p.batch.Seqs, s.Row)
		p.batch.Pos = append(p.batch.Pos, int32(s.Len+i))
		b.next++
	}
	p.batch.Logits = append(p.batch.Logits, int32(len(p.batch.Tokens)-1))
	p.seqs, p.rows = append(p.seqs, s), append(p.rows, n)
}

// prefill computes prompts of the average length, as many as a number of rows and memory have room
// for.
func (b *batchProbe) prefill(ctx context.Context, rows int) (probed, error) {
	b.release()
	var p probeRows
	for left := rows; left > 0; {
		n := min(left, b.length)
		s, err := b.engine.pool.Sequence()
		if errors.Is(err, kv.ErrFull) && len(b.all) > 0 {
			break
		} else if err != nil {
			return probed{}, err
		}
		if err := s.Grow(n); err != nil {
			s.Close()
			if errors.Is(err, kv.ErrFull) && len(b.all) > 0 {
				break
			}
			return probed{}, err
		}
		b.all = append(b.all, s)
		b.add(&p, s, n)
		left -= n
	}
	return b.pass(ctx, &p, false)
}

// decode computes one more row of each sequence, and of forks of them, as many as memory has room
// for.
func (b *batchProbe) decode(ctx context.Context) (probed, error) {
	most := min(b.model.RowsMax, int(b.model.KVTokens)/max(b.length, 1), b.model.SequencesMax)
	for i := 0; len(b.all) < most; i++ {
		s, err := b.all[i].Fork(b.all[i].Len)
		if err != nil {
			break
		}
		b.all = append(b.all, s)
	}
	var p probeRows
	for _, s := range b.all {
		if s.Len+1 > b.engine.options.Context || s.Grow(s.Len+1) != nil {
			continue
		}
		b.add(&p, s, 1)
	}
	if len(p.seqs) == 0 {
		return probed{}, nil
	}
	return b.pass(ctx, &p, true)
}

func (b *batchProbe) pass(ctx context.Context, p *probeRows, decode bool) (probed, error) {
	e := b.engine
	rows := len(p.batch.Tokens)
	before := e.Stats()
	n := map[bool]int{decode: rows}
	p.batch.Sweep = true
	err := e.runner.compute(ctx, p.batch, n[true], n[false], func(int, []float32) {}, nil)
	if err != nil {
		return probed{}, err
	}
	for i, s := range p.seqs {
		s.Len += p.rows[i]
	}
	s := e.Stats().Sub(before)
	busy := s.Busy.Seconds()
	return probed{rows: rows, busy: busy, compute: max(busy-s.Wait.Seconds(), 0),
		bytes: s.BytesRead + s.DenseBytesRead, reading: s.ReadBusy.Seconds()}, nil
}

// line fits compute = pass + row*rows by least squares of relative errors, with no part below zero: a
// single pass that something else on the machine slowed down then bends it little.
func line(passes ...probed) (pass, row float64) {
	var n, x, y, xx, xy float64 // weighted sums
	for _, p := range passes {
		if p.rows == 0 || p.compute <= 0 {
			continue
		}
		w, rows := 1/(p.compute*p.compute), float64(p.rows)
		n, x, y, xx, xy = n+w, x+w*rows, y+w*p.compute, xx+w*rows*rows, xy+w*rows*p.compute
	}
	if xx == 0 {
		return 0, 0
	}
	if d := n*xx - x*x; d > 1e-9*n*xx {
		row, pass = (n*xy-x*y)/d, (xx*y-x*xy)/d
	}
	if pass <= 0 || row <= 0 { // through the origin
		return 0, xy / xx
	}
	return pass, row
}

// solve turns the passes into rates.
func (b *batchProbe) solve(full, half, decode probed) {
	r, m := &b.rates, &b.model
	r.PassSeconds, r.PrefillRowSeconds = line(full, half, decode)
	r.DecodeRowSeconds = r.PrefillRowSeconds
	if decode.rows > 0 {
		r.DecodeRowSeconds = max(decode.compute-r.PassSeconds, 0) / float64(decode.rows)
	}
	var bytes, reading float64
	for _, p := range []probed{full, half, decode} {
		bytes, reading = bytes+float64(p.bytes), reading+p.reading
	}
	if reading > 0 {
		r.Bandwidth = bytes / reading
	}
	m.Bandwidth, m.PassSeconds = r.Bandwidth, r.PassSeconds
	m.PrefillRowSeconds, m.DecodeRowSeconds = r.PrefillRowSeconds, r.DecodeRowSeconds
	r.BytesShare = 1
	if expected := m.PassBytes(full.rows); expected > 0 {
		r.BytesShare = float64(full.bytes) / float64(expected)
		m.GroupBytes = int64(float64(m.GroupBytes) * r.BytesShare)
	}
	if r.Bandwidth > 0 {
		load := float64(full.bytes) / r.Bandwidth
		if short := min(load, full.compute); short > 0 {
			r.Exposed = min(max((full.busy-max(load, full.compute))/short, 0), 1)
		}
	}
	m.Exposed = r.Exposed
	m.PrefillBefore = 2*m.BalancedRows() <= m.RowsMax
}
