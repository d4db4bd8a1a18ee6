// Package tiny carries the model that the repository ships, for programs that must run without
// files. The data is part of the binary and is read from it on demand, page by page.
package tiny

import _ "embed"

//go:embed tiny.gguf
var model string

// Model returns the bytes of tiny.gguf.
func Model() string { return model }
