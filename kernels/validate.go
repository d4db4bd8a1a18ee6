package kernels

import (
	"fmt"
	"math"
	"unsafe"
)

// Validate checks what can be known of an op without reading device memory: that each span lies in
// its buffer, is aligned and holds its shape; that weights have a decodable type, whole blocks and
// matching dimensions; that what is written overlaps nothing that is read. Indices that lie in
// device memory (token ids, positions, tables) are not checked, but those of ExpertFFN are. Every
// device calls it.
//
// The errors name the op and the field, and wrap ErrDevice. Validate allocates nothing for a good
// op, and is safe for concurrent use.
func Validate(op Op) error {
	var c checker
	switch o := op.(type) {
	case *Embed:
		c.embed(o)
	case *RMSNorm:
		c.rmsNorm(o)
	case *MatMul:
		c.matMul(o)
	case *RoPE:
		c.rope(o)
	case *KVAppend:
		c.kvAppend(o)
	case *Attention:
		c.attention(o)
	case *Route:
		c.route(o)
	case *ExpertFFN:
		c.expertFFN(o)
	case *Combine:
		c.combine(o)
	case *GatherRows:
		c.gatherRows(o)
	default:
		return fmt.Errorf("%w: unknown op %T", ErrDevice, op)
	}
	if c.err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDevice, opName(op), c.err)
	}
	return nil
}

func opName(op Op) string { return fmt.Sprintf("%T", op)[len("*kernels."):] }

// checker keeps the first failure of an op.
type checker struct{ err error }

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// count checks a number of rows: zero is an op that does nothing.
func (c *checker) count(name string, n int) {
	if n < 0 || n > math.MaxInt32 {
		c.fail("%s is %d", name, n)
	}
}

// size checks a dimension, which is at least one.
func (c *checker) size(name string, n int) {
	if n < 1 || n > math.MaxInt32 {
		c.fail("%s is %d", name, n)
	}
}

// values checks a span of n*m four-byte values. Both factors were checked by count or size.
func (c *checker) values(name string, s Span, n, m int) {
	if c.err != nil {
		return
	}
	c.span(name, s)
	switch {
	case c.err != nil:
	case int64(n)*int64(m) > s.Bytes/4:
		c.fail("%s has %d bytes, (%d, %d) values need %d", name, s.Bytes, n, m,
			4*int64(n)*int64(m))
	case s.Addr()%4 != 0:
		c.fail("%s is at address %#x, not a multiple of 4", name, s.Addr())
	}
}

func (c *checker) span(name string, s Span) {
	switch {
	case s.Buffer == nil:
		c.fail("%s is missing", name)
	case s.Offset < 0 || s.Bytes < 0 || s.Offset > s.Buffer.Bytes ||
		s.Bytes > s.Buffer.Bytes-s.Offset:
		c.fail("%s spans bytes %d+%d of a buffer of %d", name, s.Offset, s.Bytes, s.Buffer.Bytes)
	}
}

func (c *checker) weight(name string, w *Weight, rows, cols int) {
	if c.err != nil {
		return
	}
	if w.Rows != rows || w.Cols != cols {
		c.fail("%s is (%d, %d), must be (%d, %d)", name, w.Rows, w.Cols, rows, cols)
		return
	}
	c.matrix(name, w)
}

func (c *checker) matrix(name string, w *Weight) {
	if w.Rows < 1 || w.Rows > math.MaxInt32 || w.Cols < 1 || w.Cols > math.MaxInt32 {
		c.fail("%s is (%d, %d)", name, w.Rows, w.Cols)
	}
	c.span(name, w.Data)
	if c.err != nil {
		return
	}
	if !w.Type.CanDecode() {
		c.fail("%s has type %v, which no kernel multiplies with", name, w.Type)
		return
	}
	row, ok := w.Type.RowBytes(int64(w.Cols))
	if !ok {
		c.fail("%s has %d columns, not whole %v blocks of %d", name, w.Cols, w.Type,
			w.Type.BlockSize())
		return
	}
	if row > w.Data.Bytes/int64(w.Rows) {
		c.fail("%s has %d bytes, %d rows of %d %v values need %d each", name, w.Data.Bytes, w.Rows,
			w.Cols, w.Type, row)
	}
}

// disjoint checks that memory which is written shares no byte with other memory of the op.
func (c *checker) disjoint(name string, written Span, other string, s Span) {
	if c.err != nil || written.IsZero() || s.IsZero() {
		return
	}
	a, b := written.Addr(), s.Addr()
	if a < b+uintptr(s.Bytes) && b < a+uintptr(written.Bytes) {
		c.fail("%s overlaps %s", name, other)
	}
}

func (c *checker) embed(o *Embed) {
	c.count("Rows", o.Rows)
	c.matrix("Table", &o.Table)
	if o.Table.Layout != Published {
		c.fail("Table has layout %d, must be in the published one", o.Table.Layout)
	}
	c.values("IDs", o.IDs, o.Rows, 1)
	c.values("Out", o.Out, o.Rows, o.Table.Cols)
	c.disjoint("Out", o.Out, "IDs", o.IDs)
	c.disjoint("Out", o.Out, "Table", o.Table.Data)
}

func (c *checker) rmsNorm(o *RMSNorm) {
	c.count("Rows", o.Rows)
	c.size("Dim", o.Dim)
	c.values("X", o.X, o.Rows, o.Dim)
	c.values("Out", o.Out, o.Rows, o.Dim)
	c.values("Gain", o.Gain, o.Dim, 1)
	if c.err == nil && o.X.Addr() != o.Out.Addr() {
		c.disjoint("Out", o.Out, "X, and is not X", o.X)
	}
	c.disjoint("Out", o.Out, "Gain", o.Gain)
}

func (c *checker) matMul(o *MatMul) {
	c.count("Rows", o.Rows)
	for i := range o.Terms {
		t := &o.Terms[i]
		c.weight("W", &t.W, t.W.Rows, o.Terms[0].W.Cols)
		c.values("X", o.X, o.Rows, t.W.Cols)
		c.values("Out", t.Out, o.Rows, t.W.Rows)
		if !t.Bias.IsZero() {
			c.values("Bias", t.Bias, t.W.Rows, 1)
		}
		c.disjoint("Out", t.Out, "X", o.X)
		for j := range i {
			c.disjoint("Out", t.Out, "the Out of another term", o.Terms[j].Out)
		}
	}
}

func (c *checker) rope(o *RoPE) {
	c.count("Rows", o.Rows)
	c.size("Heads", o.Heads)
	c.size("HeadDim", o.HeadDim)
	if o.Rotated < 0 || o.Rotated%2 != 0 || o.Rotated > o.HeadDim {
		c.fail("Rotated is %d, must be even and at most HeadDim (%d)", o.Rotated, o.HeadDim)
	}
	c.values("X", o.X, o.Rows, c.times(o.Heads, o.HeadDim))
	c.values("Cos", o.Cos, o.Rows, o.Rotated/2)
	c.values("Sin", o.Sin, o.Rows, o.Rotated/2)
	c.disjoint("X", o.X, "Cos", o.Cos)
	c.disjoint("X", o.X, "Sin", o.Sin)
}

// times multiplies two checked dimensions to the length of a row.
func (c *checker) times(a, b int) int {
	if n := int64(a) * int64(b); c.err == nil && n > math.MaxInt32 {
		c.fail("a row of %d*%d values is too long", a, b)
	}
	return a * b
}

func (c *checker) kv(k *KV) {
	c.size("KV.PagesMax", k.PagesMax)
	c.size("KV.PageTokens", k.PageTokens)
	c.size("KV.KVHeads", k.KVHeads)
	c.size("KV.HeadDim", k.HeadDim)
	c.count("KV.Layer", k.Layer)
	if _, ok := CacheBytes(k.Type, int64(k.HeadDim)); !ok {
		c.fail("KV.Type is %v with KV.HeadDim %d", k.Type, k.HeadDim)
	}
	layer := k.LayerBytes()
	if c.err == nil && (k.PageBytes%4 != 0 || layer <= 0 ||
		k.PageBytes/layer <= int64(k.Layer)) {
		c.fail("KV.PageBytes is %d, layer %d of %d bytes does not fit", k.PageBytes, k.Layer, layer)
	}
	c.values("KV.Pool", k.Pool, 1, 1)
	c.values("KV.Tables", k.Tables, k.PagesMax, 1)
}

func (c *checker) kvAppend(o *KVAppend) {
	c.count("Rows", o.Rows)
	c.kv(&o.KV)
	row := c.times(o.KV.KVHeads, o.KV.HeadDim)
	c.values("K", o.K, o.Rows, row)
	c.values("V", o.V, o.Rows, row)
	c.values("Seqs", o.Seqs, o.Rows, 1)
	c.values("Pos", o.Pos, o.Rows, 1)
	c.disjoint("KV.Pool", o.KV.Pool, "K", o.K)
	c.disjoint("KV.Pool", o.KV.Pool, "V", o.V)
}

func (c *checker) attention(o *Attention) {
	c.count("Rows", o.Rows)
	c.kv(&o.KV)
	c.size("Heads", o.Heads)
	c.count("Window", o.Window)
	if c.err == nil && o.Heads%o.KV.KVHeads != 0 {
		c.fail("Heads is %d, not a multiple of KV.KVHeads (%d)", o.Heads, o.KV.KVHeads)
	}
	row := c.times(o.Heads, o.KV.HeadDim)
	c.values("Q", o.Q, o.Rows, row)
	c.values("Out", o.Out, o.Rows, row)
	c.values("Seqs", o.Seqs, o.Rows, 1)
	c.values("Pos", o.Pos, o.Rows, 1)
	c.disjoint("Out", o.Out, "Q", o.Q)
	c.disjoint("Out", o.Out, "KV.Pool", o.KV.Pool)
}

func (c *checker) route(o *Route) {
	c.count("Rows", o.Rows)
	c.size("Experts", o.Experts)
	c.size("TopK", o.TopK)
	if o.TopK > o.Experts {
		c.fail("TopK is %d of %d experts", o.TopK, o.Experts)
	}
	c.values("Logits", o.Logits, o.Rows, o.Experts)
	c.values("IDs", o.IDs, o.Rows, o.TopK)
	c.values("Weights", o.Weights, o.Rows, o.TopK)
	c.disjoint("IDs", o.IDs, "Logits", o.Logits)
	c.disjoint("Weights", o.Weights, "Logits", o.Logits)
	c.disjoint("Weights", o.Weights, "IDs", o.IDs)
}

func (c *checker) expertFFN(o *ExpertFFN) {
	c.size("Dim", o.Dim)
	c.size("Width", o.Width)
	c.values("X", o.X, 0, o.Dim)
	c.values("Out", o.Out, 0, o.Dim)
	c.disjoint("Out", o.Out, "X", o.X)
	if o.Act != SiLU {
		c.fail("Act is %d, unknown", o.Act)
	}
	if c.err != nil {
		return
	}
	rows, slots := o.X.Bytes/4/int64(o.Dim), o.Out.Bytes/4/int64(o.Dim)
	for i := range o.Experts {
		e := &o.Experts[i]
		if len(e.Rows) != len(e.Slots) {
			c.fail("expert %d has %d rows and %d slots", i, len(e.Rows), len(e.Slots))
		}
		if len(e.Rows) == 0 {
			continue // its weights are not read, and need not be there
		}
		c.weight("Gate", &e.Gate, o.Width, o.Dim)
		c.weight("Up", &e.Up, o.Width, o.Dim)
		c.weight("Down", &e.Down, o.Dim, o.Width)
		c.indices("row", e.Rows, rows)
		c.indices("slot", e.Slots, slots)
		if c.err != nil {
			c.err = fmt.Errorf("expert %d: %w", i, c.err)
			return
		}
	}
}

func (c *checker) indices(name string, list []int32, n int64) {
	for _, v := range list {
		if v < 0 || int64(v) >= n {
			c.fail("%s %d of %d", name, v, n)
			return
		}
	}
}

func (c *checker) combine(o *Combine) {
	c.count("Rows", o.Rows)
	c.size("Dim", o.Dim)
	c.count("TopK", o.TopK)
	c.values("X", o.X, o.Rows, o.Dim)
	if o.TopK > 0 {
		c.values("Y", o.Y, o.Rows, c.times(o.TopK, o.Dim))
		c.disjoint("X", o.X, "Y", o.Y)
		if o.TopK > 1 || !o.IDs.IsZero() {
			c.values("IDs", o.IDs, o.Rows, o.TopK)
		}
		if o.TopK > 1 || !o.Weights.IsZero() {
			c.values("Weights", o.Weights, o.Rows, o.TopK)
		}
	} else if o.Shared.IsZero() {
		c.fail("neither TopK nor Shared is set")
	}
	if !o.Shared.IsZero() {
		c.values("Shared", o.Shared, o.Rows, o.Dim)
		c.disjoint("X", o.X, "Shared", o.Shared)
	}
	if !o.SharedGate.IsZero() {
		c.values("SharedGate", o.SharedGate, o.Rows, 1)
		if o.Shared.IsZero() {
			c.fail("SharedGate without Shared")
		}
	}
}

func (c *checker) gatherRows(o *GatherRows) {
	c.count("Rows", o.Rows)
	c.size("Dim", o.Dim)
	c.values("X", o.X, 0, o.Dim)
	c.values("Index", o.Index, o.Rows, 1)
	c.values("Out", o.Out, o.Rows, o.Dim)
	c.disjoint("Out", o.Out, "X", o.X)
	c.disjoint("Out", o.Out, "Index", o.Index)
}

// ValidateCopy checks the spans of a Stream.Copy: both lie in their buffers and are of equal size.
func ValidateCopy(dst, src Span) error {
	var c checker
	c.span("dst", dst)
	c.span("src", src)
	if c.err == nil && dst.Bytes != src.Bytes {
		c.fail("dst has %d bytes, src %d", dst.Bytes, src.Bytes)
	}
	if c.err != nil {
		return fmt.Errorf("%w: Copy: %w", ErrDevice, c.err)
	}
	return nil
}

// ValidateLand checks the arguments of Device.Land: w's data lie in memory, which lies in its
// buffer, and are a whole matrix in the published layout.
func ValidateLand(w Weight, memory Span) error {
	var c checker
	c.matrix("W", &w)
	c.span("memory", memory)
	if c.err == nil && (w.Data.Buffer != memory.Buffer || w.Data.Offset < memory.Offset ||
		w.Data.Offset+w.Data.Bytes > memory.Offset+memory.Bytes) {
		c.fail("the matrix lies outside its memory")
	}
	if w.Layout != Published {
		c.fail("layout is %d: landed already", w.Layout)
	}
	if c.err != nil {
		return fmt.Errorf("%w: Land: %w", ErrDevice, c.err)
	}
	return nil
}

// HostBuffer returns a buffer over ordinary host memory, aligned to 64 bytes and zeroed, that lives
// until nothing refers to it; for devices whose memory is Go's. Its Free is nil.
func HostBuffer(bytes int64) (*Buffer, error) {
	if bytes < 0 || bytes > hostBytesMax {
		return nil, fmt.Errorf("%w: a buffer of %d bytes", ErrDevice, bytes)
	}
	memory := make([]byte, bytes+hostAlign)
	skip := -int64(uintptr(unsafe.Pointer(&memory[0]))) & (hostAlign - 1)
	memory = memory[skip : skip+bytes : skip+bytes]
	addr := uintptr(unsafe.Pointer(unsafe.SliceData(memory)))
	return &Buffer{Host: memory, Addr: addr, Bytes: bytes}, nil
}

const (
	hostAlign    = 64
	hostBytesMax = 1 << 46 // beyond what a host can address; a wrong size, not a big one
)
