package store

// Limits on what a header may claim, beside the size of the file itself. Each is several times what
// the largest published model needs, so that meeting one means a broken or hostile file.
const (
	// ggufHeaderBytesMax bounds metadata and tensor list together. The largest vocabularies
	// (256k tokens with merges) take some 20 MB.
	ggufHeaderBytesMax = 256 << 20
	ggufKeysMax        = 1 << 16
	// ggufKeyBytesMax is the limit of the GGUF specification.
	ggufKeyBytesMax = 1<<16 - 1
	// ggufStringBytesMax bounds one metadata string; chat templates are some 10 KB.
	ggufStringBytesMax = 64 << 20
	// ggufDepthMax bounds arrays of arrays. No published key nests at all.
	ggufDepthMax = 4
	// ggufDimsMax is GGML_MAX_DIMS of ggml.h.
	ggufDimsMax = 4
	// ggufWriteNameBytesMax is GGML_MAX_NAME less its NUL: other readers refuse longer names.
	ggufWriteNameBytesMax = 63
	// alignmentMax bounds general.alignment; packed files use 4096.
	alignmentMax = 1 << 24

	// tensorsMax bounds the tensors of a model. One expert a tensor, DeepSeek-V3 has 91,000.
	tensorsMax         = 1 << 20
	tensorNameBytesMax = 1024
	// shapeDimsMax bounds the rank of a safetensors tensor.
	shapeDimsMax = 8
	// shardsMax bounds the files of one model.
	shardsMax = 4096

	// safetensorsHeaderBytesMax is the limit of the reference implementation.
	safetensorsHeaderBytesMax = 100_000_000
	indexBytesMax             = 64 << 20
)
