package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moering/moering/engine"
)

// synthCommand writes a model with random weights. Flags that are not given take the preset's
// value, or a small default.
type synthCommand struct {
	Path        string `arg:"" help:"The GGUF file, or with --safetensors the directory, to write."`
	Preset      string `placeholder:"NAME" help:"A named shape: yardstick (24 layers of 128 experts, 8.2 GB)."`
	Family      string `placeholder:"NAME" help:"qwen3moe, qwen2moe, olmoe, mixtral, llama (dense) or qwen3 (dense)."`
	Layers      int    `placeholder:"N" help:"Layers."`
	Dim         int    `placeholder:"N" help:"Width of the hidden state."`
	Heads       int    `placeholder:"N" help:"Attention heads."`
	KVHeads     int    `name:"kv-heads" placeholder:"N" help:"Key and value heads."`
	HeadDim     int    `placeholder:"N" help:"Width of a head."`
	Experts     int    `placeholder:"N" help:"Experts of a layer."`
	TopK        int    `placeholder:"N" help:"Experts that a token uses."`
	ExpertWidth int    `placeholder:"N" help:"Width of an expert, or of a dense feed-forward network."`
	SharedWidth int    `placeholder:"N" help:"Width of the shared expert (qwen2moe)."`
	Vocabulary  int    `placeholder:"N" help:"Tokens."`
	Context     int    `placeholder:"N" help:"Context length that the file claims."`
	ExpertType  string `placeholder:"TYPE" help:"Of experts: Q4_0, Q4_K, Q5_K, Q6_K, Q8_0, F16, BF16, F32."`
	DenseType   string `placeholder:"TYPE" help:"Of the other matrices."`
	Seed        uint64 `default:"0" help:"Same seed, same file."`
	Tied        bool   `help:"The embedding is also the output matrix."`
	Safetensors bool   `help:"Write a Hugging Face directory without a tokenizer; types F32, F16 or BF16 (the default)."`
	JSON        bool   `name:"json" help:"Print one JSON object."`
}

func (c *synthCommand) options() (engine.SynthOptions, error) {
	var o engine.SynthOptions
	if c.Preset != "" {
		var err error
		if o, err = engine.SynthPreset(c.Preset); err != nil {
			return o, err
		}
	}
	for _, f := range []struct {
		to    *int
		value int
	}{{&o.Layers, c.Layers}, {&o.Dim, c.Dim}, {&o.Heads, c.Heads}, {&o.KVHeads, c.KVHeads},
		{&o.HeadDim, c.HeadDim}, {&o.Experts, c.Experts}, {&o.ExpertsUsed, c.TopK},
		{&o.ExpertWidth, c.ExpertWidth}, {&o.SharedWidth, c.SharedWidth},
		{&o.Vocabulary, c.Vocabulary}, {&o.Context, c.Context}} {
		if f.value != 0 {
			*f.to = f.value
		}
	}
	for _, f := range []struct {
		to    *string
		value string
	}{{&o.Family, c.Family}, {&o.ExpertType, c.ExpertType}, {&o.DenseType, c.DenseType}} {
		if f.value != "" {
			*f.to = f.value
		}
	}
	o.Seed, o.Tied, o.Safetensors = c.Seed, o.Tied || c.Tied, c.Safetensors
	return o.Complete()
}

func describeSynth(o engine.SynthOptions) string {
	s := fmt.Sprintf("%s, seed %d, %d layers of %d, %d/%d heads of %d, ", o.Family, o.Seed, o.Layers,
		o.Dim, o.Heads, o.KVHeads, o.HeadDim)
	if o.Experts > 0 {
		s += fmt.Sprintf("%d experts of which %d are used, ", o.Experts, o.ExpertsUsed)
	}
	return s + fmt.Sprintf("width %d, vocabulary %d; %s experts, %s otherwise", o.ExpertWidth,
		o.Vocabulary, o.ExpertType, o.DenseType)
}

// Run is called by kong.
func (c *synthCommand) Run(a *app, ctx *runContext) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "model: %s\n", describeSynth(o))
	p := a.newProgress("writing", true)
	defer p.close()
	start := time.Now()
	if err := engine.Synth(ctx, c.Path, o, p.update); err != nil {
		return err
	}
	p.close()
	file := c.Path
	if c.Safetensors {
		file = filepath.Join(file, "model.safetensors")
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	if c.JSON {
		return a.printJSON(struct {
			Path    string  `json:"path"`
			Bytes   int64   `json:"bytes"`
			Seconds float64 `json:"seconds"`
		}{c.Path, info.Size(), seconds})
	}
	bytes := float64(info.Size())
	_, err = fmt.Fprintf(a.stdout, "%s: %s in %.1f s (%s/s)\n", c.Path, formatBytes(bytes), seconds,
		formatBytes(bytes/seconds))
	return err
}
