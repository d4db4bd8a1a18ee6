package store

import (
	"context"
	"errors"
	"os"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// Bounds of Check: readers at once, the buffer of each, and how many errors are collected.
const (
	checkReaders     = 2
	checkBufferBytes = 4 << 20
	checkErrorsMax   = 16
)

// Check reads the whole of a packed file and compares every byte: weights and header with their
// checksums, padding with zero. Progress, if not nil, receives the bytes read and in all, from one
// goroutine at a time.
//
// # Errors
//
// A file without checksums is an error that wraps ErrUnsupported. What is wrong is reported in
// order of the file, joined, at most 16 places; each wraps ErrFormat or ErrIO. The error of a ctx
// that ended is returned alone.
func (m *Model) Check(ctx context.Context, progress func(done, total int64)) error {
	if m.sums == nil {
		return &Error{File: m.path, Offset: noOffset, Kind: ErrUnsupported,
			Reason: "the file has no checksums", Advice: "moering pack writes a file that has"}
	}
	c := &checker{m: m, ctx: ctx, progress: progress}
	c.note(0, m.checkHeader())
	c.note(len(m.tensors), m.checkSize())
	for i := range m.files {
		c.total += m.files[i].Size
	}
	files, err := m.OpenFiles(false)
	if err != nil {
		return err
	}
	c.files = files
	var all sync.WaitGroup
	for range checkReaders {
		all.Go(c.work)
	}
	all.Wait()
	for _, f := range files {
		c.note(0, f.Close())
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	sort.SliceStable(c.found, func(i, j int) bool { return c.found[i].at < c.found[j].at })
	var errs []error
	for _, f := range c.found[:min(len(c.found), checkErrorsMax)] {
		errs = append(errs, f.err)
	}
	return errors.Join(errs...)
}

// checkSize checks that nothing lies behind the padding of the last tensor, and that it is there.
func (m *Model) checkSize() error {
	if len(m.files) != 1 || len(m.tensors) == 0 {
		return nil
	}
	last := m.tensors[len(m.tensors)-1]
	want := alignUp(last.Offset+last.Size, PackAlignment)
	if m.files[0].Size == want {
		return nil
	}
	return formatError(m.files[0].Path, "", min(want, m.files[0].Size), adviceDamaged,
		"the file has %d bytes, and should have %d", m.files[0].Size, want)
}

// finding is an error and where in the order of the files it belongs.
type finding struct {
	at  int
	err error
}

type checker struct {
	m        *Model
	ctx      context.Context
	files    []*os.File
	progress func(done, total int64)
	next     atomic.Int64 // tensor to take

	mu          sync.Mutex
	done, total int64
	found       []finding
}

// note records an error, if it is one.
func (c *checker) note(at int, err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found = append(c.found, finding{at, err})
}

func (c *checker) advance(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
}

// work takes tensor after tensor: its pieces, and the padding up to the next tensor.
func (c *checker) work() {
	buffer := make([]byte, min(checkBufferBytes, c.total))
	for c.ctx.Err() == nil {
		i := int(c.next.Add(1)) - 1
		if i >= len(c.m.tensors) {
			return
		}
		t := &c.m.tensors[i]
		if i == 0 || c.m.tensors[i-1].File != t.File {
			c.beforeData(i, buffer)
		}
		for slice := range pieces(t.Shape) {
			c.note(i, c.piece(i, slice, buffer))
		}
		end := c.m.files[t.File].Size
		if i+1 < len(c.m.tensors) && c.m.tensors[i+1].File == t.File {
			end = c.m.tensors[i+1].Offset
		}
		c.note(i, c.zeros(i, t.Offset+t.Size, end, buffer))
	}
}

// beforeData counts a file's header as read, and checks the padding behind it.
func (c *checker) beforeData(i int, buffer []byte) {
	t := &c.m.tensors[i]
	header := c.m.headerEnd[t.File]
	c.note(i, c.zeros(i, header, t.Offset, buffer))
	c.advance(header)
}

// piece reads one piece and compares its checksum.
func (c *checker) piece(tensor, slice int, buffer []byte) error {
	t := &c.m.tensors[tensor]
	size := t.Size / int64(pieces(t.Shape))
	var h xxh3.Hasher
	err := c.read(tensor, t.Offset+int64(slice)*size, size, buffer, func(b []byte) error {
		_, err := h.Write(b)
		return err
	})
	if err != nil || c.ctx.Err() != nil {
		return err
	}
	if sum := h.Sum64(); sum != c.m.sums.sums[c.m.sums.first[tensor]+slice] {
		return c.m.wrongSum(tensor, slice, sum)
	}
	return nil
}

// zeros checks the padding from start to end, behind or before a tensor.
func (c *checker) zeros(tensor int, start, end int64, buffer []byte) error {
	at := start
	return c.read(tensor, start, end-start, buffer, func(b []byte) error {
		for k, v := range b {
			if v != 0 {
				t := &c.m.tensors[tensor]
				return formatError(c.m.files[t.File].Path, t.Name, at+int64(k), adviceDamaged,
					"the padding beside the tensor is %d, and should be 0", v)
			}
		}
		at += int64(len(b))
		return nil
	})
}

// read gives n bytes from offset to take, in parts.
func (c *checker) read(tensor int, offset, n int64, buffer []byte, take func([]byte) error) error {
	t := &c.m.tensors[tensor]
	for n > 0 && c.ctx.Err() == nil {
		b := buffer[:min(n, int64(len(buffer)))]
		if err := readFull(c.files[t.File], b, offset); err != nil {
			return readFailed(c.m.files[t.File].Path, t.Name, offset, "the file", err)
		}
		if err := take(b); err != nil {
			return err
		}
		offset, n = offset+int64(len(b)), n-int64(len(b))
		c.advance(int64(len(b)))
	}
	return nil
}
