package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// versionCommand says which build this is.
type versionCommand struct {
	JSON bool `name:"json" help:"Print one JSON object."`
}

// build is what the Go toolchain recorded.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"` // of the source; empty if built outside a checkout
	Modified bool   `json:"modified"` // the source differed from the revision
	Go       string `json:"go"`
	System   string `json:"system"`
}

func readBuild() build {
	b := build{Version: "unknown", Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// Run is called by kong.
func (c *versionCommand) Run(a *app) error {
	b := readBuild()
	if c.JSON {
		return a.printJSON(b)
	}
	_, err := fmt.Fprintf(a.stdout, "moering %s (%s, %s)\n", b.Version, b.Go, b.System)
	return err
}
