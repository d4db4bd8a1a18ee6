// Package pack rewrites a model for streaming: what goes where in the packed file, in which type,
// and under which metadata. The file itself is written by package store.
//
// docs/decisions/0009-packed-layout.md says why the file looks as it does.
package pack
