package store

import (
	"fmt"
	"path/filepath"
	"sort"
	"time"

	"github.com/moering/moering/kernels/quant"
)

// Format is how a model is kept on disk.
type Format int

// The formats that Open reads.
const (
	FormatGGUF Format = iota + 1
	FormatSafetensors
)

// String names the format.
func (f Format) String() string {
	switch f {
	case FormatGGUF:
		return "GGUF"
	case FormatSafetensors:
		return "safetensors"
	}
	return fmt.Sprintf("format %d", int(f))
}

// File is one file that holds tensors.
type File struct {
	Path string
	Size int64 // bytes
	// modified, with Size, tells that a file was replaced between Open and a read.
	modified time.Time
}

// Tensor says what one tensor is and where its bytes lie. Shape is shared and must not be changed.
type Tensor struct {
	Name string
	// DType is the type as the file names it, such as "Q4_K", "BF16" or "F8_E4M3".
	DType string
	// Type is the block format, or NoType: the store lists tensors of types that package quant does
	// not know, so that they can be refused by name.
	Type quant.Type
	// Shape has the outermost dim first (rows, columns), as in row-major order: the ne of a GGUF
	// file reversed. No dims mean a single element.
	Shape  []int64
	File   int   // index into Model.Files
	Offset int64 // bytes from the start of the file
	Size   int64 // bytes

	blockElements int64 // of the type
}

// Extent is a span of bytes in one file of a model.
type Extent struct {
	File   int   // index into Model.Files
	Offset int64 // bytes
	Size   int64 // bytes
}

// End is the offset of the first byte after the extent.
func (e Extent) End() int64 { return e.Offset + e.Size }

// Hull returns the smallest extent with start and size aligned to align (a power of two) that holds
// e, as direct reads need, and the bytes from its start to the start of e. The hull may reach past
// the end of the file by less than align; a read then stops at the end of the file.
func (e Extent) Hull(align int64) (hull Extent, lead int64) {
	start := e.Offset &^ (align - 1)
	end := (e.End() + align - 1) &^ (align - 1)
	return Extent{File: e.File, Offset: start, Size: end - start}, e.Offset - start
}

// Elements is the number of elements. It cannot overflow: Open has checked the shape.
func (t Tensor) Elements() int64 {
	n := int64(1)
	for _, dim := range t.Shape {
		n *= dim
	}
	return n
}

// Extent is all of the tensor's bytes.
func (t Tensor) Extent() Extent { return Extent{File: t.File, Offset: t.Offset, Size: t.Size} }

// Slice returns the bytes of one index of the outermost dim: of a tensor that stacks the experts of
// a layer (experts, rows, columns), those of one expert. It fails with ErrUsage if index is out of
// range or if a slice is not a whole number of blocks.
func (t Tensor) Slice(index int64) (Extent, error) {
	if len(t.Shape) == 0 || index < 0 || index >= t.Shape[0] {
		return Extent{}, usageError("", t.Name, "there is no slice %d in shape %v", index, t.Shape)
	}
	slice := t.Size / t.Shape[0]
	if slice*t.Shape[0] != t.Size || (t.Elements()/t.Shape[0])%t.blockElements != 0 {
		return Extent{}, usageError("", t.Name,
			"a slice of shape %v is not a whole number of %s blocks", t.Shape, t.DType)
	}
	return Extent{File: t.File, Offset: t.Offset + index*slice, Size: slice}, nil
}

// Model is an opened model: its files, tensors and metadata. It holds no descriptor and nothing of
// the weights, needs no Close, is immutable and safe for concurrent use.
type Model struct {
	format   Format
	path     string // as given to Open
	dir      string // where side files lie
	files    []File
	tensors  []Tensor // by file, then offset
	byName   map[string]int
	metadata *Metadata
	sums     *checksums // nil: the file carries none
	version  uint32     // of the first GGUF file
	// headerEnd is the offset of the first byte after each file's header.
	headerEnd []int64
}

// Format says how the model is kept.
func (m *Model) Format() Format { return m.format }

// Path is the path that was given to Open.
func (m *Model) Path() string { return m.path }

// Files lists the files that hold tensors, in a slice of the caller's own.
func (m *Model) Files() []File { return append([]File(nil), m.files...) }

// Metadata is the key-value part of a GGUF file; it is empty for safetensors.
func (m *Model) Metadata() *Metadata { return m.metadata }

// Tensors lists all tensors by file and offset, in a slice of the caller's own.
func (m *Model) Tensors() []Tensor { return append([]Tensor(nil), m.tensors...) }

// Has reports whether there is a tensor of this name.
func (m *Model) Has(name string) bool {
	_, ok := m.byName[name]
	return ok
}

// Tensor returns a tensor by name; a missing one is an error that wraps ErrNotFound.
func (m *Model) Tensor(name string) (Tensor, error) {
	i, ok := m.byName[name]
	if !ok {
		return Tensor{}, &Error{File: m.path, Tensor: name, Offset: noOffset, Kind: ErrNotFound,
			Reason: "the tensor is missing"}
	}
	return m.tensors[i], nil
}

// Bytes is the size of all tensors together.
func (m *Model) Bytes() int64 {
	var n int64
	for i := range m.tensors {
		n += m.tensors[i].Size
	}
	return n
}

// part is what the header of one file says, before parts are put together to a model.
type part struct {
	file    File
	tensors []Tensor // File is not set yet
	// metadata is that of a GGUF file, nil for safetensors.
	metadata *Metadata
	version  uint32 // of a GGUF file
	// headerEnd is the offset of the first byte after a GGUF header, before padding.
	headerEnd int64
}

// newModel numbers the parts, orders their tensors and refuses a name that two files share.
func newModel(format Format, path, dir string, parts []part) (*Model, error) {
	m := &Model{format: format, path: path, dir: dir, metadata: newMetadata(path)}
	if len(parts) > 0 && parts[0].metadata != nil {
		m.metadata, m.version = parts[0].metadata, parts[0].version
	}
	total := 0
	for i := range parts {
		total += len(parts[i].tensors)
	}
	if total > tensorsMax {
		return nil, formatError(path, "", noOffset, adviceInvalid,
			"%d tensors in all files, over the limit of %d", total, tensorsMax)
	}
	m.byName = make(map[string]int, total)
	m.tensors = make([]Tensor, 0, total)
	for i := range parts {
		m.files = append(m.files, parts[i].file)
		m.headerEnd = append(m.headerEnd, parts[i].headerEnd)
		sortByOffset(parts[i].tensors)
		for _, t := range parts[i].tensors {
			if first, dup := m.byName[t.Name]; dup {
				return nil, formatError(parts[i].file.Path, t.Name, t.Offset, adviceShards,
					"the tensor is also in %s", m.files[m.tensors[first].File].Path)
			}
			t.File = i
			m.byName[t.Name] = len(m.tensors)
			m.tensors = append(m.tensors, t)
		}
	}
	var err error
	if m.sums, err = readChecksums(m); err != nil {
		return nil, err
	}
	return m, nil
}

// sortByOffset orders the tensors of one file as they lie on disk; empty ones come first.
func sortByOffset(tensors []Tensor) {
	sort.SliceStable(tensors, func(i, j int) bool {
		a, b := &tensors[i], &tensors[j]
		return a.Offset < b.Offset || a.Offset == b.Offset && a.Size < b.Size
	})
}

// inDir reports whether name is a plain file name: no separators, no "..", nothing hidden in it.
func inDir(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > tensorNameBytesMax {
		return false
	}
	for _, r := range name {
		if r == '/' || r == '\\' || r == ':' || r < ' ' {
			return false
		}
	}
	return filepath.Base(name) == name && filepath.IsLocal(name)
}
