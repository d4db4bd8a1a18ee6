package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/moering/moering/engine"
)

func open(o engine.Options) *engine.Engine {
	o.Context = 128
	e, err := engine.Open(engine.Builtin, o)
	if err != nil {
		log.Fatal(err)
	}
	return e
}

// Text is generated token by token.
func Example() {
	e, err := engine.Open("mr:tiny", engine.Options{Context: 128})
	if err != nil {
		log.Fatal(err)
	}
	defer e.Close()
	s, err := e.NewSession()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	sampling := engine.Sampling{MaxTokens: 1}
	for token, err := range s.Generate(context.Background(), "package main\n\nimport", sampling) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q %s\n", token.Text, token.Finish)
	}
	// Output: " (\n" length
}

// What a budget would buy, before anything is read.
func ExampleInspect() {
	_, plan, err := engine.Inspect(engine.Builtin, engine.Options{HostMemory: 1, Context: 128})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(plan.Budget < plan.Least, plan.Groups)
	// Output: true 96
}

// A generation that is pulled, for callers that cannot range over one.
func ExampleSession_Start() {
	e := open(engine.Options{})
	defer e.Close()
	s, err := e.NewSession()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	prompt, err := e.Encode("package main\n\nimport", true)
	if err != nil {
		log.Fatal(err)
	}
	g, err := s.Start(prompt, engine.Sampling{MaxTokens: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	for {
		token, err := g.Next(context.Background())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q\n", token.Text)
	}
	// Output: " (\n"
}

// Two continuations of one context, which is computed and stored once.
func ExampleSession_Fork() {
	e := open(engine.Options{Sequences: 2})
	defer e.Close()
	s, err := e.NewSession()
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	ids, err := e.Encode("package main\n\nimport", true)
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Feed(context.Background(), ids); err != nil {
		log.Fatal(err)
	}
	f, err := s.Fork()
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Println(f.Len() == s.Len(), f.Top(1)[0].ID == s.Top(1)[0].ID)
	// Output: true true
}

// A vector for a text.
func ExampleEngine_Embed() {
	e := open(engine.Options{})
	defer e.Close()
	ids, err := e.Encode("func main() {}", true)
	if err != nil {
		log.Fatal(err)
	}
	v, err := e.Embed(context.Background(), ids, engine.PoolMean)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(v) == e.Info().Dim)
	// Output: true
}

// A file of prompts, answered to the last by a job that can be killed at any moment: the same call goes
// on.
func ExampleBatch() {
	dir, err := os.MkdirTemp("", "moering-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	in, out := filepath.Join(dir, "in.txt"), filepath.Join(dir, "out.jsonl")
	if err := os.WriteFile(in, []byte("package main\nfunc main\ntype T\n"), 0o600); err != nil {
		log.Fatal(err)
	}
	r, err := engine.Batch(context.Background(), engine.Builtin, engine.Options{},
		engine.BatchOptions{Input: in, Output: out, MaxTokens: 8})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Requests, r.Finished, r.Failed, r.Complete)
	// Output: 3 3 0 true
}
