// Package core is what the C API does, without C: handles, the lifetimes of engines and sessions in
// any order of closing, refusal of concurrent use, cancellation from any thread, and status codes.
// It holds no knowledge of models; package engine does the work.
package core
