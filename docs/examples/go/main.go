// Command generate generates text with Moering from Go.
//
//	go run ./docs/examples/go mr:tiny "package main" 7
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/moering/moering/engine"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintf(os.Stderr, "usage: %s MODEL PROMPT SEED\n", os.Args[0])
		os.Exit(1)
	}
	if err := generate(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "generating:", err)
		os.Exit(1)
	}
}

func generate(model, prompt, seed string) error {
	n, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	e, err := engine.Open(model, engine.Options{Context: 512, Sequences: 1})
	if err != nil {
		return err
	}
	defer e.Close()
	s, err := e.NewSession()
	if err != nil {
		return err
	}
	defer s.Close()
	sampling := engine.Sampling{Temperature: 0.8, TopP: 0.95, MaxTokens: 64, Seed: n}
	for token, err := range s.Generate(context.Background(), prompt, sampling) {
		if err != nil {
			return err
		}
		fmt.Print(token.Text)
	}
	return nil
}
