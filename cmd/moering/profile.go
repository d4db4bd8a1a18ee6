package main

import "github.com/pkg/profile"

// startProfile begins a profile and returns what ends it. The package's own signal handler would
// exit without cleaning up, so it stays off.
func startProfile(kind, dir string) (stop func()) {
	var mode func(*profile.Profile)
	switch kind {
	case "cpu":
		mode = profile.CPUProfile
	case "mem":
		mode = profile.MemProfile
	case "trace":
		mode = profile.TraceProfile
	default:
		return func() {}
	}
	p := profile.Start(mode, profile.ProfilePath(dir), profile.NoShutdownHook, profile.Quiet)
	return p.Stop
}
