package engine

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/moering/moering/engine/internal/batch"
)

// report writes the page about the run.
func (d *batchDriver) report(path string, r BatchResult) error {
	page := batch.Report{
		Title: "moering batch: " + servedName(d.engine.info.Path), Facts: d.facts(r),
		Charts: d.history.charts(),
		Histograms: []batch.Bars{
			{Title: "Prompt tokens of a request", Histogram: d.history.prompts},
			{Title: "Generated tokens of a request", Histogram: d.history.news},
		},
	}
	for _, q := range d.history.slow {
		page.Slow = append(page.Slow, batch.SlowRequest{ID: q.id, Seconds: q.took.Seconds(),
			Prompt: q.prompt, New: q.new})
	}
	var b bytes.Buffer
	page.Write(&b)
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("batch: %w: report: %w", ErrIO, err)
	}
	return nil
}

// facts are the figures of the whole run.
func (d *batchDriver) facts(r BatchResult) [][2]string {
	s, p := r.Stats, r.Plan
	facts := [][2]string{
		{"model", d.engine.info.Path},
		{"ended", clock().Format(time.RFC3339)},
		{"requests", fmt.Sprintf("%d, of which %d finished, %d refused, %d by earlier runs",
			r.Requests, r.Finished, r.Failed, r.Resumed)},
		{"time", r.Elapsed.Round(time.Millisecond).String()},
		{"tokens", fmt.Sprintf("%d of prompts computed, %d shared, %d generated; %.1f a second",
			r.PromptTokens, r.SharedTokens, r.NewTokens, r.TokensPerS)},
		{"passes", fmt.Sprintf("%d, of %.0f rows on average", s.Passes,
			float64(r.PromptTokens+r.NewTokens)/float64(max(s.Passes, 1)))},
		{"weights", fmt.Sprintf("%s read; hit rate %.1f %%; waiting %.1f %%",
			bytesText(s.BytesRead+s.DenseBytesRead), 100*s.HitRate(), 100*s.WaitShare())},
		{"memory", fmt.Sprintf("peak %s of %s: weights that stay %s, dense weights %s, KV cache %s, "+
			"ring %s, expert cache %s, working memory %s", bytesText(s.PeakMemory), bytesText(p.Budget),
			bytesText(p.Stay), bytesText(p.Dense), bytesText(p.KV), bytesText(p.Ring),
			bytesText(p.Cache), bytesText(p.Work))},
	}
	if r.Preempted > 0 {
		facts = append(facts, [2]string{"preempted", fmt.Sprintf("%d times; %s moved out and in, %d "+
			"tokens computed again", r.Preempted, bytesText(r.MovedBytes), r.RecomputedTokens)})
	}
	return facts
}

// bytesText is a size for people.
func bytesText(n int64) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if v < 999.5 { // what rounds to 1000 has an exponent
			break
		}
		v, unit = v/1000, u
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}

// charts are the figures over time.
func (h *batchHistory) charts() []batch.Chart {
	tokens := batch.Chart{Title: "Throughput", Unit: "tokens/s",
		Names: []string{"prompt", "generated"}}
	traffic := batch.Chart{Title: "Traffic between tiers", Unit: "GB/s",
		Names: []string{"weights from disk", "keys and values"}}
	share := batch.Chart{Title: "Hit rate and waiting", Unit: "%", Names: []string{"hits", "waiting"}}
	tiers := h.below()
	if tiers {
		share.Names = append(share.Names, "hits below")
	}
	for _, s := range h.samples {
		t := s.took.Seconds()
		if t <= 0 {
			continue
		}
		at := s.at.Seconds()
		tokens.Add(at, float64(s.prefill)/t, float64(s.decode)/t)
		traffic.Add(at, float64(s.read)/1e9/t, float64(s.moved)/1e9/t)
		values := []float64{percent(s.hits, s.asked), 100 * s.wait.Seconds() / t}
		if tiers {
			values = append(values, percent(s.hostHits, s.hostAsked))
		}
		share.Add(at, values...)
	}
	return []batch.Chart{tokens, traffic, share}
}

// below reports whether what the device's own memory missed was asked for in host memory.
func (h *batchHistory) below() bool {
	for _, s := range h.samples {
		if s.hostAsked > 0 {
			return true
		}
	}
	return false
}

// percent is a share; all of nothing.
func percent(part, whole int64) float64 {
	if whole == 0 {
		return 100
	}
	return 100 * float64(part) / float64(whole)
}
