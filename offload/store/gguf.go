package store

import (
	"fmt"
	"io"
	"math"
	"math/bits"
)

// The fixed parts of a GGUF file (ggml/docs/gguf.md).
const (
	ggufMagic            = "GGUF"
	ggufVersionMin       = 2
	ggufVersionMax       = 3
	ggufAlignmentDefault = 32
	ggufAlignmentKey     = "general.alignment"
	// ggufPairBytesMin is the least a key-value pair takes: length of the key, type, one byte.
	ggufPairBytesMin = 8 + 4 + 1
	// ggufTensorBytesMin is the least a tensor's entry takes: length of the name, number of dims,
	// type, offset.
	ggufTensorBytesMin = 8 + 4 + 4 + 8
)

// readGGUF reads the header of one GGUF file of file.Size bytes: metadata and tensors, with offsets
// from the start of the file, in the order of the header. All that a header can claim is checked:
// lengths, duplicates, shapes, alignment, range and overlap.
func readGGUF(r io.ReaderAt, file File) (part, error) {
	s := newSource(r, file.Size, file.Path)
	version, err := readGGUFVersion(s)
	if err != nil {
		return part{}, err
	}
	tensorCount := s.count(ggufTensorBytesMin, tensorsMax, "the number of tensors")
	keyCount := s.count(ggufPairBytesMin, ggufKeysMax, "the number of metadata keys")
	metadata := readGGUFMetadata(s, keyCount)
	alignment := ggufAlignment(s, metadata)
	tensors, declaredAt := readGGUFTensors(s, tensorCount)
	if s.err != nil {
		return part{}, s.err
	}
	dataStart := alignUp(s.pos, alignment)
	if err := placeGGUFTensors(file, tensors, declaredAt, dataStart, alignment); err != nil {
		return part{}, err
	}
	return part{file: file, tensors: tensors, metadata: metadata, version: version,
		headerEnd: s.pos}, nil
}

// readGGUFVersion checks magic and version, and names byte order and old versions as such.
func readGGUFVersion(s *source) (version uint32, err error) {
	magic := string(s.peek(len(ggufMagic), "the magic"))
	if s.err != nil {
		return 0, s.err
	}
	unsupported := func(format string, args ...any) (uint32, error) {
		return 0, &Error{File: s.file, Offset: 0, Kind: ErrUnsupported,
			Reason: fmt.Sprintf(format, args...),
			Advice: "convert the model to GGUF version 3, little-endian"}
	}
	if magic == "FUGG" {
		return unsupported("a big-endian GGUF file")
	}
	if magic != ggufMagic {
		return 0, formatError(s.file, "", 0, "give a GGUF file or a Hugging Face directory",
			"not a GGUF file: it begins with %q", magic)
	}
	version = s.u32("the version")
	if s.err != nil {
		return 0, s.err
	}
	if swapped := bits.ReverseBytes32(version); version > math.MaxUint16 && swapped <= math.MaxUint16 {
		return unsupported("a big-endian GGUF file (version %d)", swapped)
	}
	if version < ggufVersionMin || version > ggufVersionMax {
		return unsupported("GGUF version %d, and only %d to %d are read", version, ggufVersionMin,
			ggufVersionMax)
	}
	return version, nil
}

// readGGUFMetadata reads the key-value pairs.
func readGGUFMetadata(s *source, count int) *Metadata {
	m := newMetadata(s.file)
	for range count {
		at := s.pos
		key := s.str(ggufKeyBytesMax, "a metadata key")
		if s.err == nil && key == "" {
			s.fail(at, adviceDamaged, "a metadata key is empty")
		}
		what := "metadata key " + quoted(key)
		kind := Kind(s.u32(what))
		value := readGGUFValue(s, kind, ggufDepthMax, what)
		if s.err == nil && !m.add(key, value) {
			s.fail(at, adviceInvalid, "%s is there twice", what)
		}
		if s.err != nil {
			break
		}
	}
	return m
}

// readGGUFValue reads one value; depth bounds how many arrays may still be opened.
func readGGUFValue(s *source, kind Kind, depth int, what string) Value {
	switch kind {
	case KindUint8:
		return Scalar(s.u8(what))
	case KindInt8:
		return Scalar(int8(s.u8(what)))
	case KindUint16:
		return Scalar(s.u16(what))
	case KindInt16:
		return Scalar(int16(s.u16(what)))
	case KindUint32:
		return Scalar(s.u32(what))
	case KindInt32:
		return Scalar(int32(s.u32(what)))
	case KindUint64:
		return Scalar(s.u64(what))
	case KindInt64:
		return Scalar(int64(s.u64(what)))
	case KindFloat32:
		return Scalar(s.f32(what))
	case KindFloat64:
		return Scalar(s.f64(what))
	case KindBool:
		return Scalar(s.flag(what))
	case KindString:
		return Scalar(s.str(ggufStringBytesMax, what))
	case KindArray:
		return readGGUFArray(s, depth, what)
	}
	s.fail(s.pos, adviceDamaged, "%s: value type %d is not known", what, uint32(kind))
	return Value{}
}

// readGGUFArray reads an array: type of the elements, their number, the elements.
func readGGUFArray(s *source, depth int, what string) Value {
	at := s.pos
	if depth == 0 {
		s.fail(at, adviceInvalid, "%s: arrays nested more than %d deep", what, ggufDepthMax)
		return Value{}
	}
	kind := Kind(s.u32(what))
	if s.err == nil && kind.bytesMin() == 0 {
		s.fail(at, adviceDamaged, "%s: element type %d is not known", what, uint32(kind))
	}
	if s.err != nil {
		return Value{}
	}
	n := s.count(kind.bytesMin(), math.MaxInt32, what+": the number of elements")
	switch kind {
	case KindUint8:
		return Array(readList(s, n, func() uint8 { return s.u8(what) }))
	case KindInt8:
		return Array(readList(s, n, func() int8 { return int8(s.u8(what)) }))
	case KindUint16:
		return Array(readList(s, n, func() uint16 { return s.u16(what) }))
	case KindInt16:
		return Array(readList(s, n, func() int16 { return int16(s.u16(what)) }))
	case KindUint32:
		return Array(readList(s, n, func() uint32 { return s.u32(what) }))
	case KindInt32:
		return Array(readList(s, n, func() int32 { return int32(s.u32(what)) }))
	case KindUint64:
		return Array(readList(s, n, func() uint64 { return s.u64(what) }))
	case KindInt64:
		return Array(readList(s, n, func() int64 { return int64(s.u64(what)) }))
	case KindFloat32:
		return Array(readList(s, n, func() float32 { return s.f32(what) }))
	case KindFloat64:
		return Array(readList(s, n, func() float64 { return s.f64(what) }))
	case KindBool:
		return Array(readList(s, n, func() bool { return s.flag(what) }))
	case KindString:
		return Array(readList(s, n, func() string { return s.str(ggufStringBytesMax, what) }))
	}
	return Value{readList(s, n, func() Value { return readGGUFArray(s, depth-1, what) })}
}

// listPreallocatedMax bounds what readList reserves before it has seen elements.
const listPreallocatedMax = 4096

// readList reads n elements, and grows with what is really there: n is only a claim. It stops at
// the first failure.
func readList[T any](s *source, n int, read func() T) []T {
	list := make([]T, 0, min(n, listPreallocatedMax))
	for range n {
		element := read()
		if s.err != nil {
			return nil
		}
		list = append(list, element)
	}
	return list
}

// ggufAlignment returns what tensor offsets are multiples of.
func ggufAlignment(s *source, m *Metadata) int64 {
	if s.err != nil || !m.Has(ggufAlignmentKey) {
		return ggufAlignmentDefault
	}
	alignment, err := m.Uint(ggufAlignmentKey)
	if err != nil {
		s.err = err
		return ggufAlignmentDefault
	}
	if alignment > alignmentMax || bits.OnesCount64(alignment) != 1 {
		s.fail(noOffset, adviceInvalid, "%s is %d, not a power of two up to %d", ggufAlignmentKey,
			alignment, alignmentMax)
		return ggufAlignmentDefault
	}
	return int64(alignment)
}

// readGGUFTensors reads the tensor list. Offsets are still from the start of the data. It also
// returns where each entry lies in the header, for errors.
func readGGUFTensors(s *source, count int) (tensors []Tensor, declaredAt []int64) {
	seen := map[string]bool{}
	for range count {
		at := s.pos
		t := readGGUFTensor(s)
		if s.err == nil && seen[t.Name] {
			s.fail(at, adviceInvalid, "the tensor is there twice")
		}
		if s.err != nil {
			return nil, nil
		}
		s.tensor = ""
		seen[t.Name] = true
		tensors = append(tensors, t)
		declaredAt = append(declaredAt, at)
	}
	return tensors, declaredAt
}

// readGGUFTensor reads one entry: name, dims innermost first, type, offset.
func readGGUFTensor(s *source) Tensor {
	at := s.pos
	t := Tensor{Name: s.str(tensorNameBytesMax, "a tensor name")}
	if s.err == nil && t.Name == "" {
		s.fail(at, adviceDamaged, "a tensor name is empty")
	}
	s.tensor = t.Name
	dims := s.u32("the number of dims")
	if s.err == nil && dims > ggufDimsMax {
		s.fail(at, adviceDamaged, "%d dims, and at most %d are allowed", dims, ggufDimsMax)
	}
	if s.err != nil {
		return t
	}
	t.Shape = make([]int64, dims)
	for i := range t.Shape {
		dim := s.u64("a dim")
		if s.err == nil && (dim == 0 || dim > math.MaxInt64) {
			s.fail(at, adviceDamaged, "dim %d is %d", i, dim)
		}
		t.Shape[len(t.Shape)-1-i] = int64(dim)
	}
	number := s.u32("the type")
	offset := s.u64("the offset")
	if s.err != nil {
		return t
	}
	if offset > math.MaxInt64 {
		s.fail(at, adviceDamaged, "offset %d is larger than any file", offset)
		return t
	}
	t.Offset = int64(offset)
	t.setGGUFType(s, at, number)
	return t
}

// setGGUFType fills in type and size from the type's number.
func (t *Tensor) setGGUFType(s *source, at int64, number uint32) {
	l, ok := ggufLayout(number)
	if !ok {
		if s.err == nil {
			s.err = &Error{File: s.file, Tensor: t.Name, Offset: at, Kind: ErrUnsupported,
				Reason: fmt.Sprintf("tensor type number %d is not known", number),
				Advice: "the file is damaged, or newer than this program"}
		}
		return
	}
	size, err := l.bytesOf(t.Shape, true)
	if err != nil {
		s.fail(at, adviceDamaged, "%v", err)
		return
	}
	t.Size = size
	t.setLayout(l)
}

// placeGGUFTensors turns offsets into offsets from the start of the file, and checks that every
// tensor is aligned, lies in the file and overlaps no other.
func placeGGUFTensors(file File, tensors []Tensor, declaredAt []int64, dataStart, alignment int64,
) error {
	for i := range tensors {
		t := &tensors[i]
		if t.Offset%alignment != 0 {
			return formatError(file.Path, t.Name, declaredAt[i], adviceInvalid,
				"offset %d is not a multiple of the alignment, %d", t.Offset, alignment)
		}
		if left := file.Size - dataStart; t.Size > left || t.Offset > left-t.Size {
			return formatError(file.Path, t.Name, declaredAt[i], adviceDamaged,
				"%d bytes at offset %d of the data, which begins at byte %d, reach past the end of "+
					"the file, %d bytes", t.Size, t.Offset, dataStart, file.Size)
		}
		t.Offset += dataStart
	}
	return checkOverlap(file, tensors)
}

// checkOverlap refuses two tensors of one file that share bytes. It does not reorder tensors.
func checkOverlap(file File, tensors []Tensor) error {
	ordered := append([]Tensor(nil), tensors...)
	sortByOffset(ordered)
	for i := 1; i < len(ordered); i++ {
		before, t := &ordered[i-1], &ordered[i]
		if before.Offset+before.Size > t.Offset {
			return formatError(file.Path, t.Name, t.Offset, adviceInvalid,
				"the tensor overlaps tensor %s, which ends at byte %d", quoted(before.Name),
				before.Offset+before.Size)
		}
	}
	return nil
}

// alignUp rounds n up to a multiple of align, a power of two. n is at most the size of a file, so
// it cannot overflow.
func alignUp(n, align int64) int64 { return (n + align - 1) &^ (align - 1) }
