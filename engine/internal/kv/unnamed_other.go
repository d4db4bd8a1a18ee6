//go:build !linux

package kv

// unnamedFile makes a file that ends with the process.
func unnamedFile(dir string, _ bool) (spillFile, error) { return namedFile(dir) }
