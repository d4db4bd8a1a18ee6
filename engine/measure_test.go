package engine

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/internal/figures"
	"github.com/moering/moering/kernels"
)

// The figures of tests/gpu/run.sh that are of whole models, one JSON line each. Nothing is asserted of a
// time.

// modelSizes are what models are measured with.
type modelSizes struct {
	synth               SynthOptions
	deviceMemory        int64 // the cap; 0: little more than the least that works
	copyBytes           int64
	sequences           []int // at the same time, of a run each; the most first, which bring all experts to memory
	prompt, gen, repeat int
}

func fullModel() modelSizes {
	return modelSizes{synth: SynthOptions{Family: "qwen3moe", Layers: 8, Dim: 2048, Heads: 32, KVHeads: 4,
		HeadDim: 128, Experts: 128, ExpertsUsed: 8, ExpertWidth: 768, Vocabulary: 4096, DenseType: "BF16"},
		deviceMemory: 3 << 30, copyBytes: 256 << 20, sequences: []int{64, 1}, prompt: 16, gen: 16, repeat: 3}
}

func tinyModel() modelSizes {
	return modelSizes{synth: SynthOptions{Family: "qwen2moe", Layers: 3, Dim: 64, Heads: 4, Experts: 8,
		ExpertsUsed: 2, ExpertWidth: 32, Vocabulary: 300, DenseType: "BF16"}, copyBytes: 64 << 10,
		sequences: []int{3, 1}, prompt: 2, gen: 2, repeat: 1}
}

// TestMeasureModel measures a model whose weights do not fit the device's memory, in a directory of
// safetensors that MOERING_MEASURE_MODEL names, made where it is not there; and the same with everything in
// the device's memory. What the first takes more than the longer of copying and computing is what does not
// overlap.
func TestMeasureModel(t *testing.T) {
	full, z := figures.Full(t), tinyModel()
	if full {
		z = fullModel()
	}
	z.synth.Safetensors = true
	library, model := cudaLibrary(t), os.Getenv("MOERING_MEASURE_MODEL")
	if model == "" {
		model = t.TempDir() + "/model"
	}
	if _, err := os.Stat(model); errors.Is(err, fs.ErrNotExist) {
		if err := Synth(t.Context(), model, z.synth, nil); err != nil {
			t.Fatal(err)
		}
	}
	most, length := slices.Max(z.sequences), z.prompt+z.gen+1
	// Activations are rounded as transformers rounds them.
	o := onCUDA(library, Options{Sequences: most, Context: length, HalfActivations: true,
		KVTokens: most * kv.Pages(length) * kv.PageTokens, DeviceMemory: z.deviceMemory})
	if z.deviceMemory == 0 {
		least := leastOnCUDA(t, model, library, o)
		o.DeviceMemory, o.HostMemory = least.Least+64<<10, least.HostLeast+1<<20
	}
	rate := copyRate(t, o, z.copyBytes)
	capped := measured(t, model, o, z)
	if full && strings.Contains(capped[0].device, "stand-in") {
		t.Fatal("times of the stand-in must not be recorded as a GPU's")
	}
	o.DeviceMemory = 0
	whole := measured(t, model, o, z)
	for i, n := range z.sequences {
		c, w := &capped[i], &whole[i]
		line := map[string]any{"sequences": n, "prompt_tokens": z.prompt,
			"gen_tokens": z.gen, "family": z.synth.Family, "half_activations": true, "weight_bytes": c.info.WeightBytes,
			"expert_bytes": c.info.ExpertBytes, "memory_budget_bytes": c.plan.Budget,
			"host_budget_bytes": c.plan.HostBudget, "device": c.device,
			"prefill_tokens_per_s": c.run.PrefillTokensPerS, "decode_tokens_per_s": c.run.DecodeTokensPerS,
			"hit_rate": c.run.HitRate, "wait_share": c.run.WaitShare, "seconds": c.seconds,
			"copied_bytes": c.copied, "pinned_copy_gb_per_s": rate / 1e9,
			"share_of_copy_in": float64(c.copied) / c.seconds / rate, "disk_bytes": c.disk}
		if w.plan.Resident {
			line["seconds_resident"] = w.seconds
			line["ratio_to_longer"] = c.seconds / max(w.seconds, float64(c.copied)/rate)
		}
		figures.Record(t, "model under a memory cap", line)
	}
}

// modelRun is the median of the runs with a number of sequences.
type modelRun struct {
	run          BenchRun
	plan         Plan
	info         Info
	device       string
	seconds      float64 // of the whole run
	copied, disk int64   // to the device, and from disk
}

// measured measures a model with each number of sequences, after a run that brings everything to memory.
func measured(t *testing.T, model string, o Options, z modelSizes) (list []modelRun) {
	t.Helper()
	e, err := Open(model, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range z.sequences {
		b, err := BenchOptions{PromptTokens: z.prompt, GenTokens: z.gen, Sequences: n}.complete()
		if err != nil {
			t.Fatal(err)
		}
		w := bencher{engine: e, o: b}
		if err := w.open(); err != nil {
			t.Fatal(err)
		}
		var runs []modelRun
		for i := range z.repeat + 1 {
			w.draw(i)
			before, copied, start := e.Stats(), copiedBytes(e), time.Now()
			r, err := w.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			seconds, disk := time.Since(start).Seconds(), e.Stats().Sub(before)
			if i > 0 {
				runs = append(runs, modelRun{r, e.Plan(), e.Info(), e.device.Info().Detail, seconds,
					copiedBytes(e) - copied, disk.BytesRead + disk.DenseBytesRead})
			}
		}
		if err := w.close(); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(runs, func(a, b modelRun) int { return int(math.Copysign(1, a.seconds-b.seconds)) })
		list = append(list, runs[len(runs)/2])
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return list
}

// copiedBytes is what was copied to the device's sections since open.
func copiedBytes(e *Engine) int64 {
	dense := int64(0)
	for i := range e.groups.layers {
		dense = max(dense, e.groups.layers[i].Bytes())
	}
	return e.experts.Counters().Fills.Reads*e.info.GroupBytes + e.dense.Counters().Fills.Reads*dense
}

// copyRate measures copies from page-locked memory to the device, in bytes a second.
func copyRate(t *testing.T, o Options, bytes int64) float64 {
	t.Helper()
	d, err := openDevice(o)
	if err != nil {
		t.Fatal(err)
	}
	must := func(b *kernels.Buffer, err error) *kernels.Buffer {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	to, from := must(d.Alloc(bytes)), must(d.Pin(bytes))
	s, err := d.NewStream("copies")
	if err != nil {
		t.Fatal(err)
	}
	const copies = 8
	seconds, err := fastest(func() error {
		for range copies {
			s.Copy(to.All(), from.All())
		}
		return s.Sync()
	})
	if err = errors.Join(err, s.Close(), to.Free(), from.Free(), d.Close()); err != nil {
		t.Fatal(err)
	}
	return copies * float64(bytes) / seconds
}
