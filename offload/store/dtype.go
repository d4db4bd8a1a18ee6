package store

import (
	"fmt"
	"math"

	"github.com/moering/moering/kernels/quant"
)

// layout is how elements of a type lie on disk: blocks of so many elements in so many bytes.
type layout struct {
	dtype         string
	blockElements int64
	blockBytes    int64
}

// NoType is the Type of a tensor whose DType is no block format of package quant.
const NoType quant.Type = math.MaxUint32

// ggufLayout returns the layout of a GGUF tensor type by its number; ok is false for a number that
// is not known. Beside the formats of package quant it knows the others of ggml.h (enum ggml_type,
// with the block structs of ggml-common.h), so that a file that uses one of them is read and the
// type can be refused by name.
func ggufLayout(number uint32) (l layout, ok bool) {
	if t := quant.Type(number); t.Known() {
		return layout{t.String(), int64(t.BlockSize()), int64(t.BlockBytes())}, true
	}
	switch number {
	case 9:
		return layout{"Q8_1", 32, 36}, true
	case 15:
		return layout{"Q8_K", 256, 292}, true
	case 16:
		return layout{"IQ2_XXS", 256, 66}, true
	case 17:
		return layout{"IQ2_XS", 256, 74}, true
	case 18:
		return layout{"IQ3_XXS", 256, 98}, true
	case 19:
		return layout{"IQ1_S", 256, 50}, true
	case 21:
		return layout{"IQ3_S", 256, 110}, true
	case 22:
		return layout{"IQ2_S", 256, 82}, true
	case 29:
		return layout{"IQ1_M", 256, 56}, true
	case 34:
		return layout{"TQ1_0", 256, 54}, true
	case 35:
		return layout{"TQ2_0", 256, 66}, true
	case 40:
		return layout{"NVFP4", 64, 36}, true
	case 41:
		return layout{"Q1_0", 128, 18}, true
	case 42:
		return layout{"Q2_0", 64, 18}, true
	}
	return layout{}, false
}

// safetensorsLayout returns the layout of a safetensors dtype; ok is false for a name that is not
// known. The list is that of the reference implementation (enum Dtype of safetensors 0.8). Types
// narrower than a byte are laid out as the fewest elements that fill whole bytes.
func safetensorsLayout(dtype string) (l layout, ok bool) {
	switch dtype {
	case "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ":
		return layout{dtype, 1, 1}, true
	case "I16", "U16", "F16", "BF16":
		return layout{dtype, 1, 2}, true
	case "I32", "U32", "F32":
		return layout{dtype, 1, 4}, true
	case "I64", "U64", "F64", "C64":
		return layout{dtype, 1, 8}, true
	case "F4":
		return layout{dtype, 2, 1}, true
	case "F6_E2M3", "F6_E3M2":
		return layout{dtype, 4, 3}, true
	}
	return layout{}, false
}

// elementCount multiplies the dims of a shape, and refuses negative dims and overflow. A shape of
// no dims is a scalar of one element.
func elementCount(shape []int64) (int64, error) {
	n := int64(1)
	for _, dim := range shape {
		if dim < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		}
		if dim > 0 && n > math.MaxInt64/dim {
			return 0, fmt.Errorf("shape %v has more elements than 63 bits can count", shape)
		}
		n *= dim
	}
	return n, nil
}

// bytesOf returns the size on disk of a tensor of this layout. wholeRows demands that each row (the
// last dim) is a whole number of blocks, as GGUF does; else only the total must be.
func (l layout) bytesOf(shape []int64, wholeRows bool) (int64, error) {
	elements, err := elementCount(shape)
	if err != nil {
		return 0, err
	}
	row := elements
	if wholeRows && len(shape) > 0 {
		row = shape[len(shape)-1]
	}
	if row%l.blockElements != 0 || elements%l.blockElements != 0 {
		return 0, fmt.Errorf("shape %v is not a whole number of %s blocks of %d", shape, l.dtype,
			l.blockElements)
	}
	blocks := elements / l.blockElements
	if blocks > math.MaxInt64/l.blockBytes {
		return 0, fmt.Errorf("shape %v of %s has more bytes than 63 bits can count", shape, l.dtype)
	}
	return blocks * l.blockBytes, nil
}

// setLayout fills in the type's name and, where there is one, the block format.
func (t *Tensor) setLayout(l layout) {
	t.DType = l.dtype
	t.blockElements = l.blockElements
	t.Type = NoType
	if known, ok := quant.ParseType(l.dtype); ok {
		t.Type = known
	}
}
