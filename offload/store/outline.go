package store

import (
	"encoding/binary"
	"math/bits"

	"github.com/moering/moering/kernels/quant"
)

// outline is what a GGUF file that is to be written says of itself: metadata, and tensors with
// their places. Its tensors lie in the order of declaration, with no gaps beyond the alignment.
type outline struct {
	path      string // in errors
	alignment int64
	metadata  *Metadata
	declared  []declaredTensor
	names     map[string]bool
	total     int64 // bytes of tensor data declared
	end       int64 // offset in the data of the next tensor to declare
}

// declaredTensor is a tensor with its place in the data.
type declaredTensor struct {
	name   string
	kind   quant.Type
	shape  []int64
	offset int64
	size   int64
}

func newOutline(path string, alignment uint32) (outline, error) {
	if alignment > alignmentMax || bits.OnesCount32(alignment) != 1 {
		return outline{}, usageError(path, "", "alignment %d is not a power of two up to %d", alignment,
			alignmentMax)
	}
	o := outline{path: path, alignment: int64(alignment), metadata: newMetadata(path),
		names: map[string]bool{}}
	if alignment != ggufAlignmentDefault {
		o.metadata.add(ggufAlignmentKey, Scalar(alignment))
	}
	return o, nil
}

func (o *outline) setMetadata(key string, v Value) error {
	switch {
	case key == "" || len(key) > ggufKeyBytesMax:
		return usageError(o.path, "", "a metadata key of %d bytes", len(key))
	case key == ggufAlignmentKey:
		return usageError(o.path, "", "%s is set by the options", ggufAlignmentKey)
	case v.v == nil || v.depth() > ggufDepthMax:
		return usageError(o.path, "", "metadata %s is %s, which cannot be written",
			quoted(key), v.describe())
	case !o.metadata.add(key, v):
		return usageError(o.path, "", "metadata %s is there already", quoted(key))
	}
	return nil
}

func (o *outline) declare(name string, kind quant.Type, shape []int64) error {
	switch {
	case name == "" || len(name) > ggufWriteNameBytesMax:
		return usageError(o.path, name, "a name of %d bytes; at most %d are allowed", len(name),
			ggufWriteNameBytesMax)
	case o.names[name]:
		return usageError(o.path, name, "declared twice")
	case len(shape) > ggufDimsMax || !kind.Known() || len(o.declared) == tensorsMax:
		return usageError(o.path, name, "type %v of %d dims cannot be written", kind, len(shape))
	}
	l, _ := ggufLayout(uint32(kind))
	size, err := l.bytesOf(shape, true)
	if err != nil || size == 0 {
		return usageError(o.path, name, "shape %v of %v cannot be written (%v)", shape, kind, err)
	}
	if size > fileBytesMax-o.end {
		return usageError(o.path, name, "the file would be larger than %d bytes", int64(fileBytesMax))
	}
	o.names[name] = true
	o.declared = append(o.declared, declaredTensor{name: name, kind: kind,
		shape: append([]int64(nil), shape...), offset: o.end, size: size})
	o.total += size
	o.end = alignUp(o.end+size, o.alignment)
	return nil
}

// header renders everything before the data, without the padding.
func (o *outline) header() ([]byte, error) {
	le := binary.LittleEndian
	b := append([]byte(nil), ggufMagic...)
	b = le.AppendUint32(b, ggufVersionMax)
	b = le.AppendUint64(b, uint64(len(o.declared)))
	b = le.AppendUint64(b, uint64(o.metadata.Len()))
	for _, key := range o.metadata.keys {
		v := o.metadata.values[key]
		b = appendString(b, key)
		b = le.AppendUint32(b, uint32(v.Kind()))
		b = appendValue(b, v.v)
	}
	for _, t := range o.declared {
		b = appendString(b, t.name)
		b = le.AppendUint32(b, uint32(len(t.shape)))
		for i := len(t.shape) - 1; i >= 0; i-- {
			b = le.AppendUint64(b, uint64(t.shape[i]))
		}
		b = le.AppendUint32(b, uint32(t.kind))
		b = le.AppendUint64(b, uint64(t.offset))
	}
	if len(b) > ggufHeaderBytesMax {
		return nil, usageError(o.path, "", "a header of %d bytes, over the limit of %d", len(b),
			ggufHeaderBytesMax)
	}
	return b, nil
}
