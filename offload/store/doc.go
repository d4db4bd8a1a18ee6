// Package store reads what is on disk: GGUF files (version 2 and 3, single or split) and Hugging
// Face directories of safetensors. It turns them into one flat list of tensors, each with a type, a
// shape and a place (file, offset, size), and it writes GGUF files.
//
// The package knows files, tensors and bytes, and nothing of model families. Only headers are read
// at Open; weights are read by offload/reader from the extents that are listed here, or, for a few
// small tensors, with Model.ReadTensor.
//
// Everything read is treated as hostile. Each length is checked against what is left of the file
// and against a named limit (limits.go) before memory is taken for it, and a bad file ends in an
// *Error that names file, tensor and offset and says what to do. Nothing here panics on bad input.
package store
