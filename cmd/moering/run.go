package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/moering/moering/engine"
)

// runCommand generates text after a prompt.
type runCommand struct {
	modelFlags
	Prompt string `arg:"" optional:"" help:"What to go on from; without it, --file or standard input."`
	File   string `short:"f" placeholder:"PATH" help:"Read the prompt from a file; - is standard input."`
	Chat   bool   `help:"The prompt is a message; wrap it in the model's chat template."`
	System string `placeholder:"TEXT" help:"System message; with --chat."`
	samplingFlags
}

// samplingFlags mirror engine.Sampling.
type samplingFlags struct {
	MaxTokens     int      `short:"n" default:"256" help:"Most tokens to generate; 0: until the context is full."`
	Temperature   float32  `default:"0.8" help:"0 always takes the most likely token."`
	TopK          int      `default:"0" placeholder:"K" help:"Keep the K most likely tokens; 0: all."`
	TopP          float32  `default:"0.95" help:"Keep the fewest tokens with this probability; 1: all."`
	MinP          float32  `default:"0" help:"Drop tokens below this share of the best one's probability."`
	RepeatPenalty float32  `default:"1" help:"Divide the logits of recent tokens by this."`
	RepeatWindow  int      `default:"64" help:"How many tokens are recent."`
	Seed          uint64   `default:"0" help:"Same seed, same text."`
	Stop          []string `sep:"none" placeholder:"TEXT" help:"End before this text; may be given again."`
	LogProbs      int      `placeholder:"N" help:"With --json: report the N most likely tokens of each step."`
	IgnoreEOS     bool     `name:"ignore-eos" help:"Go on after the end-of-text token."`
}

func (f *samplingFlags) sampling() engine.Sampling {
	return engine.Sampling{Temperature: f.Temperature, TopK: f.TopK, TopP: f.TopP, MinP: f.MinP,
		RepetitionPenalty: f.RepeatPenalty, RepetitionWindow: f.RepeatWindow, Seed: f.Seed,
		Stop: f.Stop, MaxTokens: f.MaxTokens, LogProbs: f.LogProbs, IgnoreEOS: f.IgnoreEOS}
}

// Run is called by kong.
func (c *runCommand) Run(a *app, ctx *runContext) (err error) {
	if c.System != "" && !c.Chat {
		return fmt.Errorf("%w: --system goes with --chat", engine.ErrUsage)
	}
	if err := c.sampling().Validate(); err != nil {
		return err
	}
	prompt, err := c.prompt(a)
	if err != nil {
		return err
	}
	e, err := c.open(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	ids, err := c.encode(e, prompt)
	if err != nil {
		return err
	}
	s, err := e.NewSession()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	g := generation{app: a, engine: e, json: c.JSON}
	generateErr := g.run(ctx, s, ids, c.sampling())
	return errors.Join(generateErr, g.report(generateErr))
}

// prompt finds the text: exactly one of argument, file and standard input.
func (c *runCommand) prompt(a *app) (string, error) {
	switch {
	case c.Prompt != "" && c.File != "":
		return "", fmt.Errorf("%w: give the prompt or --file, not both", engine.ErrUsage)
	case c.Prompt != "":
		return c.Prompt, nil
	case c.File != "":
		return a.readText(c.File)
	case isTerminal(a.stdin):
		return "", fmt.Errorf("%w: no prompt; give it as an argument, with --file, or on standard input",
			engine.ErrUsage)
	}
	return a.readText("-")
}

func (c *runCommand) encode(e *engine.Engine, prompt string) ([]int32, error) {
	if !c.Chat {
		return e.Encode(prompt, true)
	}
	messages := []engine.Message{{Role: "user", Content: prompt}}
	if c.System != "" {
		messages = append([]engine.Message{{Role: "system", Content: c.System}}, messages...)
	}
	return e.EncodeChat(messages)
}

// generation prints tokens as they come and adds up figures.
type generation struct {
	app    *app
	engine *engine.Engine
	json   bool
	text   strings.Builder
	tokens []engine.Token
	finish string

	promptTokens  int
	prefill       time.Duration // until the first token
	decode        time.Duration // from the first token to the last
	before, first engine.Stats  // snapshots: at the start, at the first token
}

func (g *generation) run(ctx context.Context, s *engine.Session, ids []int32,
	sampling engine.Sampling) error {
	g.promptTokens, g.before = len(ids), g.engine.Stats()
	start := time.Now()
	last := start
	for token, err := range s.GenerateTokens(ctx, ids, sampling) {
		if err != nil {
			return err
		}
		last = time.Now()
		if len(g.tokens) == 0 {
			g.first, g.prefill = g.engine.Stats(), last.Sub(start)
			start = last
		}
		g.tokens = append(g.tokens, token)
		g.text.WriteString(token.Text)
		g.finish, g.decode = token.Finish, last.Sub(start)
		if g.json {
			continue
		}
		if _, err := fmt.Fprint(g.app.stdout, token.Text); err != nil {
			return fmt.Errorf("writing the text: %w", err)
		}
	}
	return nil
}

// runFigures are the numbers behind the closing line.
type runFigures struct {
	PromptTokens      int          `json:"prompt_tokens"`
	GenTokens         int          `json:"gen_tokens"`
	PrefillTokensPerS float64      `json:"prefill_tokens_per_s"`
	DecodeTokensPerS  float64      `json:"decode_tokens_per_s"`
	BytesReadPerToken float64      `json:"bytes_read_per_token"` // while decoding
	BytesRead         int64        `json:"bytes_read"`           // in all
	HitRate           float64      `json:"hit_rate"`
	HostHitRate       float64      `json:"host_hit_rate"`
	WaitShare         float64      `json:"wait_share"`
	ReadBytesPerS     float64      `json:"read_bytes_per_s"`  // while at least one read was under way
	ProbeBytesPerS    float64      `json:"probe_bytes_per_s"` // 0: the disk was not probed
	Precision         float64      `json:"precision"`         // of guesses which experts come next
	Recall            float64      `json:"recall"`
	MemoryPeak        int64        `json:"memory_peak_bytes"`
	ExpertBytes       int64        `json:"expert_bytes"`
	Plan              engine.Plan  `json:"plan"`
	Stats             engine.Stats `json:"stats"`
}

func (g *generation) figures() runFigures {
	now := g.engine.Stats()
	all := now.Sub(g.before)
	f := runFigures{PromptTokens: g.promptTokens, GenTokens: len(g.tokens), BytesRead: all.BytesRead,
		HitRate: all.HitRate(), HostHitRate: all.HostHitRate(), WaitShare: all.WaitShare(),
		ReadBytesPerS: all.ReadBytesPerS(), ProbeBytesPerS: all.ProbeBytesPerS,
		Precision: all.Precision(), Recall: all.Recall(), MemoryPeak: now.PeakMemory,
		ExpertBytes: g.engine.Info().ExpertBytes, Plan: g.engine.Plan(), Stats: all}
	if g.prefill > 0 {
		f.PrefillTokensPerS = float64(g.promptTokens) / g.prefill.Seconds()
	}
	if n := len(g.tokens) - 1; n > 0 && g.decode > 0 {
		f.DecodeTokensPerS = float64(n) / g.decode.Seconds()
		f.BytesReadPerToken = float64(now.Sub(g.first).BytesRead) / float64(n)
	}
	return f
}

// report closes the text and prints the figures; after a failure, what there was until then.
func (g *generation) report(failed error) error {
	f := g.figures()
	if g.json {
		if failed != nil {
			return nil
		}
		return g.app.printJSON(struct {
			Text   string `json:"text"`
			Finish string `json:"finish"`
			runFigures
			Tokens []jsonToken `json:"tokens"`
		}{g.text.String(), g.finish, f, jsonTokens(g.tokens)})
	}
	if s := g.text.String(); s != "" && !strings.HasSuffix(s, "\n") {
		fmt.Fprintln(g.app.stdout)
	}
	_, err := fmt.Fprintln(g.app.stderr, f)
	return err
}

// String is the closing lines.
func (f runFigures) String() string {
	b := func(n int64) string { return formatBytes(float64(n)) }
	beside := ""
	if n := f.Stats.CPUExperts; n > 0 {
		beside = fmt.Sprintf("; %d computed on the processor", n)
	}
	return fmt.Sprintf("experts: %s on disk, %s of ring and cache; %s streamed, %s a token; "+
		"hit rate %.1f %%%s\n"+
		"foresight: %s; %d read ahead, %d of them used%s\n"+
		"speed: %d prompt tokens at %.1f/s, %d generated at %.1f/s; waiting %.1f %%; "+
		"peak memory %s of %s",
		b(f.ExpertBytes), b(f.Plan.Ring+f.Plan.Cache), b(f.BytesRead),
		formatBytes(f.BytesReadPerToken), 100*f.HitRate, describeHost(f.Plan, f.HostHitRate)+beside,
		describeGuesses(f.Precision, f.Recall), f.Stats.Prefetched, f.Stats.PrefetchUseful,
		describeReading("; ", f.ReadBytesPerS, f.ProbeBytesPerS), f.PromptTokens, f.PrefillTokensPerS,
		f.GenTokens, f.DecodeTokensPerS, 100*f.WaitShare, b(f.MemoryPeak), b(f.Plan.Budget))
}

// jsonToken is a token in the JSON output.
type jsonToken struct {
	ID           int32             `json:"id"`
	Text         string            `json:"text"`
	LogProb      *float32          `json:"logprob,omitempty"`
	Alternatives []jsonAlternative `json:"alternatives,omitempty"`
}

type jsonAlternative struct {
	ID      int32   `json:"id"`
	LogProb float32 `json:"logprob"`
}

func jsonTokens(tokens []engine.Token) []jsonToken {
	out := make([]jsonToken, len(tokens))
	for i, t := range tokens {
		out[i] = jsonToken{ID: t.ID, Text: t.Text}
		if len(t.Alternatives) == 0 {
			continue
		}
		out[i].LogProb = &t.LogProb
		for _, p := range t.Alternatives {
			out[i].Alternatives = append(out[i].Alternatives, jsonAlternative(p))
		}
	}
	return out
}
