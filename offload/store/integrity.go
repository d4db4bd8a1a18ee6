package store

import (
	"fmt"
	"math"
	"sort"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// The metadata of a packed file (docs/decisions/0009-packed-layout.md). The version counts changes
// that an older reader must not ignore.
const (
	packPrefix       = "moering.pack."
	packVersionKey   = packPrefix + "version"
	packLayoutKey    = packPrefix + "layout"
	packMethodKey    = packPrefix + "checksum"
	packChecksumsKey = packPrefix + "checksums"
	packHeaderKey    = packPrefix + "header"

	packVersion = 1
	packMethod  = "xxh3-64"
	// PackAlignment of every tensor of a packed file, in bytes.
	PackAlignment = 4096
)

// stackedDims is the rank of a tensor that stacks the experts of a layer.
const stackedDims = 3

const advicePacked = "take another copy of the file, or pack the model again"

// pieces is the number of checksums of a tensor: one, or one for each expert of a stack.
func pieces(shape []int64) int {
	if len(shape) == stackedDims {
		return int(shape[0])
	}
	return 1
}

// checksums are those of a packed model. Piece by piece they follow the tensors as Model lists
// them, which is the order of the file.
type checksums struct {
	sums   []uint64
	first  []int  // tensor → index of its first piece
	header uint64 // of everything before the data
}

// readChecksums understands the metadata of a packed file; nil for another file. It is strict: a
// damaged key must not turn a file with checksums into one without.
func readChecksums(m *Model) (*checksums, error) {
	meta := m.metadata
	packed := false
	for _, key := range meta.keys {
		packed = packed || len(key) >= len(packPrefix) && key[:len(packPrefix)] == packPrefix
	}
	if !packed {
		return nil, nil
	}
	version, err := meta.Uint(packVersionKey)
	if err != nil {
		return nil, packError(err)
	}
	method, err := meta.String(packMethodKey)
	if err != nil {
		return nil, packError(err)
	}
	if version != packVersion || method != packMethod {
		return nil, &Error{File: m.path, Offset: noOffset, Kind: ErrUnsupported,
			Reason: fmt.Sprintf("packed in version %d with checksums %s, and %d with %s is read", version,
				quoted(method), packVersion, packMethod),
			Advice: "use a newer version of this program, or pack the model again"}
	}
	c := &checksums{first: make([]int, len(m.tensors))}
	n := 0
	for i := range m.tensors {
		c.first[i] = n
		more := pieces(m.tensors[i].Shape)
		if more > math.MaxInt32-n {
			return nil, formatError(m.path, m.tensors[i].Name, noOffset, adviceInvalid,
				"shape %v has more checksums than can be", m.tensors[i].Shape)
		}
		n += more
	}
	v, err := meta.Value(packChecksumsKey)
	if err != nil {
		return nil, packError(err)
	}
	sums, ok := v.v.([]uint64)
	if !ok {
		return nil, meta.wrongType(packChecksumsKey, "an array of uint64", v)
	}
	if len(sums) != n {
		return nil, formatError(m.path, "", noOffset, advicePacked,
			"%d checksums, and the tensors need %d", len(sums), n)
	}
	c.sums = sums
	if v, err = meta.Value(packHeaderKey); err != nil {
		return nil, packError(err)
	}
	if c.header, ok = v.v.(uint64); !ok {
		return nil, meta.wrongType(packHeaderKey, "a uint64", v)
	}
	return c, nil
}

// packError makes a missing key what it is in a packed file: damage.
func packError(err error) error {
	if e, ok := err.(*Error); ok && e.Kind == ErrNotFound {
		e.Kind, e.Advice = ErrFormat, advicePacked
	}
	return err
}

// VerifyMode says when bytes are compared with their checksums.
type VerifyMode int

// The modes; the zero value checks every read (docs/decisions/0018-every-read-is-checked.md).
const (
	VerifyAlways VerifyMode = iota
	VerifyFirst             // what was found right once is believed from then on
	VerifyOff
)

// String returns "always", "first" or "off".
func (v VerifyMode) String() string {
	switch v {
	case VerifyFirst:
		return "first"
	case VerifyOff:
		return "off"
	}
	return "always"
}

// ParseVerifyMode reads what String prints.
func ParseVerifyMode(s string) (VerifyMode, error) {
	for _, v := range []VerifyMode{VerifyAlways, VerifyFirst, VerifyOff} {
		if s == v.String() {
			return v, nil
		}
	}
	return VerifyAlways, usageError("", "", "%s is none of always, first, off", quoted(s))
}

// Integrity compares what was read of a model with the checksums of its file. All methods are safe
// for concurrent use, allocate nothing unless they fail, and do nothing on a nil *Integrity, which
// is what a model without checksums has.
type Integrity struct {
	model *Model
	mode  VerifyMode
	seen  []atomic.Uint64 // a bit a piece: it was found right once
}

// HasChecksums reports whether the file carries checksums, as packed files do.
func (m *Model) HasChecksums() bool { return m.sums != nil }

// Layout is how a packed file lays out experts, "grouped" or "stacked"; "" for other files.
func (m *Model) Layout() string {
	if m.sums == nil {
		return ""
	}
	layout, err := m.metadata.String(packLayoutKey)
	if err != nil {
		return ""
	}
	return layout
}

// Integrity returns the checks of a model: nil where it has no checksums or mode is VerifyOff. It
// first checks the header itself, from the metadata and tensor list in memory; a header that was
// changed since is an error that wraps ErrFormat.
func (m *Model) Integrity(mode VerifyMode) (*Integrity, error) {
	if m.sums == nil || mode == VerifyOff {
		return nil, nil
	}
	if err := m.checkHeader(); err != nil {
		return nil, err
	}
	return &Integrity{model: m, mode: mode, seen: make([]atomic.Uint64, (len(m.sums.sums)+63)/64)}, nil
}

// Verify checks the bytes of one extent, which is that of a whole tensor or of one Slice of a
// stacked one, as Model lists them; data is exactly its bytes as they lie in the file.
//
// # Errors
//
// Bytes that do not have the checksum are an error that wraps ErrFormat and names file, tensor,
// offset and both checksums. An extent that has no checksum is one that wraps ErrUsage.
func (i *Integrity) Verify(e Extent, data []byte) error {
	if i == nil {
		return nil
	}
	tensor, slice, ok := i.model.pieceAt(e)
	if !ok || int64(len(data)) != e.Size {
		return usageError(i.model.path, "", "no checksum for %d bytes at %d of file %d (%d given)",
			e.Size, e.Offset, e.File, len(data))
	}
	piece := i.model.sums.first[tensor] + slice
	word, bit := &i.seen[piece/64], uint64(1)<<(piece%64)
	if i.mode == VerifyFirst && word.Load()&bit != 0 {
		return nil
	}
	if sum := xxh3.Hash(data); sum != i.model.sums.sums[piece] {
		return i.model.wrongSum(tensor, slice, sum)
	}
	word.Or(bit)
	return nil
}

// Sum returns the checksum of an extent; ok is false where there is none.
func (i *Integrity) Sum(e Extent) (sum uint64, ok bool) {
	if i == nil {
		return 0, false
	}
	tensor, slice, ok := i.model.pieceAt(e)
	if !ok {
		return 0, false
	}
	return i.model.sums.sums[i.model.sums.first[tensor]+slice], true
}

// pieceAt finds the tensor and slice whose bytes an extent is.
func (m *Model) pieceAt(e Extent) (tensor, slice int, ok bool) {
	after := sort.Search(len(m.tensors), func(k int) bool {
		t := &m.tensors[k]
		return t.File > e.File || t.File == e.File && t.Offset > e.Offset
	})
	if after == 0 || e.Size <= 0 {
		return 0, 0, false
	}
	t := &m.tensors[after-1]
	n := int64(pieces(t.Shape))
	size := t.Size / n
	at := e.Offset - t.Offset
	ok = t.File == e.File && size == e.Size && at%size == 0 && at/size < n
	return after - 1, int(at / max(size, 1)), ok
}

// wrongSum reports bytes that do not have their checksum.
func (m *Model) wrongSum(tensor, slice int, sum uint64) error {
	t := &m.tensors[tensor]
	name, n := t.Name, int64(pieces(t.Shape))
	if n > 1 {
		name = fmt.Sprintf("%s[%d]", name, slice)
	}
	return formatError(m.files[t.File].Path, name, t.Offset+int64(slice)*(t.Size/n), adviceDamaged,
		"the %d bytes have %s %016x, and %016x is recorded", t.Size/n, packMethod, sum,
		m.sums.sums[m.sums.first[tensor]+slice])
}

// verifyTensor checks all bytes of a tensor.
func (m *Model) verifyTensor(tensor int, data []byte) error {
	if m.sums == nil {
		return nil
	}
	n := pieces(m.tensors[tensor].Shape)
	size := len(data) / n
	for slice := range n {
		sum := xxh3.Hash(data[slice*size : (slice+1)*size])
		if sum != m.sums.sums[m.sums.first[tensor]+slice] {
			return m.wrongSum(tensor, slice, sum)
		}
	}
	return nil
}

// checkHeader renders the header from what was read of it, with the header's checksum as 0, and
// compares. A split set has headers that the packer did not write; those are not checked.
func (m *Model) checkHeader() error {
	if len(m.files) != 1 {
		return nil
	}
	alignment := uint32(ggufAlignmentDefault)
	if a, err := m.metadata.Uint(ggufAlignmentKey); err == nil && a <= alignmentMax {
		alignment = uint32(a)
	}
	o, err := newOutline(m.path, alignment)
	if err != nil {
		return err
	}
	o.metadata = newMetadata(m.path)
	for _, key := range m.metadata.keys {
		v := m.metadata.values[key]
		if key == packHeaderKey {
			v = Scalar(uint64(0))
		}
		o.metadata.add(key, v)
	}
	for i := range m.tensors {
		t := &m.tensors[i]
		if err := o.declare(t.Name, t.Type, t.Shape); err != nil {
			return err
		}
	}
	b, err := o.header()
	if err != nil {
		return err
	}
	sum := xxh3.Hash(b)
	if sum == m.sums.header && m.version == ggufVersionMax && m.placedAs(&o, int64(len(b))) {
		return nil
	}
	return formatError(m.path, "", 0, advicePacked,
		"the header has %s %016x, and %016x is recorded: it was damaged, or changed after packing",
		packMethod, sum, m.sums.header)
}

// placedAs reports whether the tensors lie where the outline has them.
func (m *Model) placedAs(o *outline, headerBytes int64) bool {
	data := alignUp(headerBytes, o.alignment)
	for i := range m.tensors {
		if m.tensors[i].Offset != data+o.declared[i].offset {
			return false
		}
	}
	return true
}
