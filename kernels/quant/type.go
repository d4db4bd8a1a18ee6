// Package quant knows the block formats in which published models store their weights: the byte
// layout of each block, and a reference decoder and encoder for it.
//
// The layouts are those of the GGUF specification and of ggml's published block structures. A row
// of weights is a whole number of blocks; a block holds BlockSize elements in BlockBytes bytes.
package quant

import "fmt"

// Type is a storage format of weights. Its value is the ggml type number, as GGUF files carry it.
type Type uint32

// The formats, with the type numbers of the GGUF specification.
const (
	F32   Type = 0
	F16   Type = 1
	Q4_0  Type = 2
	Q4_1  Type = 3
	Q5_0  Type = 6
	Q5_1  Type = 7
	Q8_0  Type = 8
	Q2_K  Type = 10
	Q3_K  Type = 11
	Q4_K  Type = 12
	Q5_K  Type = 13
	Q6_K  Type = 14
	IQ4NL Type = 20
	IQ4XS Type = 23
	I8    Type = 24
	I16   Type = 25
	I32   Type = 26
	I64   Type = 27
	F64   Type = 28
	BF16  Type = 30
	MXFP4 Type = 39
)

type format struct {
	name       string
	blockSize  int // elements
	blockBytes int
}

// formats is indexed by Type; a zero entry is a number that Moering does not know.
var formats = [...]format{
	F32:   {"F32", 1, 4},
	F16:   {"F16", 1, 2},
	Q4_0:  {"Q4_0", 32, 18},
	Q4_1:  {"Q4_1", 32, 20},
	Q5_0:  {"Q5_0", 32, 22},
	Q5_1:  {"Q5_1", 32, 24},
	Q8_0:  {"Q8_0", 32, 34},
	Q2_K:  {"Q2_K", 256, 84},
	Q3_K:  {"Q3_K", 256, 110},
	Q4_K:  {"Q4_K", 256, 144},
	Q5_K:  {"Q5_K", 256, 176},
	Q6_K:  {"Q6_K", 256, 210},
	IQ4NL: {"IQ4_NL", 32, 18},
	IQ4XS: {"IQ4_XS", 256, 136},
	I8:    {"I8", 1, 1},
	I16:   {"I16", 1, 2},
	I32:   {"I32", 1, 4},
	I64:   {"I64", 1, 8},
	F64:   {"F64", 1, 8},
	BF16:  {"BF16", 1, 2},
	MXFP4: {"MXFP4", 32, 17},
}

func (t Type) format() format {
	if int(t) < len(formats) {
		return formats[t]
	}
	return format{}
}

// Known reports whether the number is a format of this package.
func (t Type) Known() bool { return t.format().blockSize != 0 }

// String returns the format's published name, or "type(N)" for an unknown number.
func (t Type) String() string {
	if f := t.format(); f.blockSize != 0 {
		return f.name
	}
	return fmt.Sprintf("type(%d)", uint32(t))
}

// ParseType returns the format with the given published name, as String prints it.
func ParseType(name string) (Type, bool) {
	for t, f := range formats {
		if f.blockSize != 0 && f.name == name {
			return Type(t), true
		}
	}
	return 0, false
}

// BlockSize returns the elements in a block; 0 for an unknown format.
func (t Type) BlockSize() int { return t.format().blockSize }

// BlockBytes returns the bytes of a block; 0 for an unknown format.
func (t Type) BlockBytes() int { return t.format().blockBytes }

// RowBytes returns the bytes of a row of cols elements. It reports false when the format is
// unknown, cols is not a whole number of blocks, or the product overflows int64.
func (t Type) RowBytes(cols int64) (int64, bool) {
	f := t.format()
	if f.blockSize == 0 || cols < 0 || cols%int64(f.blockSize) != 0 {
		return 0, false
	}
	blocks := cols / int64(f.blockSize)
	if blocks > (1<<63-1)/int64(f.blockBytes) {
		return 0, false
	}
	return blocks * int64(f.blockBytes), true
}

// IsFloat reports whether elements are plain floating-point numbers that kernels multiply with
// (F32, F16, BF16); block-quantised formats and integers are not.
func (t Type) IsFloat() bool { return t == F32 || t == F16 || t == BF16 }

// IsQuantized reports whether elements share scales in blocks.
func (t Type) IsQuantized() bool { return t.BlockSize() > 1 }
