package pack

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/store"
)

// Bounds on the buffers. A chunk is part of a piece; so many are in flight that every thread has
// one, one is being read and one being written.
const (
	chunkElementsMost  = 1 << 20
	chunkElementsLeast = 1 << 15
	chunksBeside       = 2
	// chunkElementBytes is what an element takes: as read, as float32, as written.
	chunkElementBytes = 4 + 4 + 4
	// programBytes is what the process needs beside the buffers and the header.
	programBytes = 64 << 20
	// headerCopies are how often the header is in memory: metadata of the source, of the target,
	// and rendered.
	headerCopies = 4
)

// chunk is a part of a piece on its way from source to target.
type chunk struct {
	src   []byte
	f32   []float32
	out   []byte // what was converted
	dst   []byte // what to write: src or out
	s     *source
	kind  quant.Type
	bytes int // of src
	done  chan error
}

// converter reads, converts and writes: one goroutine reads in order, some convert, the caller
// writes in order.
type converter struct {
	m         *arch.Model
	files     []*os.File
	integrity *store.Integrity
	elements  int // of a chunk
	threads   int
}

// chunkElements returns how many elements a chunk has within a budget, and the budget that would do
// if this one does not.
func chunkElements(memory, headerBytes int64, threads int) (elements int, least int64) {
	fixed := programBytes + headerCopies*headerBytes
	chunks := int64(threads + chunksBeside)
	least = fixed + chunks*chunkElementsLeast*chunkElementBytes
	if memory == 0 {
		return chunkElementsMost, least
	}
	elements = chunkElementsMost
	for int64(elements)*chunks*chunkElementBytes > memory-fixed && elements > chunkElementsLeast {
		elements /= 2
	}
	if memory < least {
		return 0, least
	}
	return elements, least
}

// run converts sources from the first on, and gives what is ready to write, in order.
func (c *converter) run(ctx context.Context, sources []source, kinds []quant.Type,
	write func([]byte) error) error {
	ctx, stop := context.WithCancel(ctx)
	n := c.threads + chunksBeside
	free, work, ordered := make(chan *chunk, n), make(chan *chunk, n), make(chan *chunk, n)
	for range n {
		free <- &chunk{done: make(chan error, 1)}
	}
	var all sync.WaitGroup
	var readErr error
	all.Go(func() {
		defer close(ordered)
		defer close(work)
		readErr = c.read(ctx, sources, kinds, free, func(k *chunk) { work <- k; ordered <- k })
	})
	for range c.threads {
		all.Go(func() {
			for k := range work {
				k.done <- k.convert()
			}
		})
	}
	var err error
	for k := range ordered { // to the end, so that no goroutine is left behind
		if failed := <-k.done; err == nil {
			if err = failed; err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = write(k.dst)
			}
			if err != nil {
				stop()
			}
		}
		free <- k
	}
	stop()
	all.Wait()
	if err == nil {
		err = readErr
	}
	return err
}

// read fills chunks from the files and passes them on, until a failure or the end of ctx.
func (c *converter) read(ctx context.Context, sources []source, kinds []quant.Type,
	free <-chan *chunk, pass func(*chunk)) error {
	for i := range sources {
		s := &sources[i]
		rows, cols := s.part.Rows, s.part.Cols
		total := rows * cols
		step := c.elements
		if s.heads > 0 { // whole rows; of a bias, which has one, elements
			if rows == 1 {
				step = total
			} else {
				step = max(1, step/cols) * cols
			}
		}
		var sum xxh3.Hasher
		for at := 0; at < total; at += step {
			var k *chunk
			select {
			case k = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			k.s, k.kind = s, kinds[i]
			if err := c.fill(k, at, min(step, total-at)); err != nil {
				return err
			}
			if _, err := sum.Write(k.src[:k.bytes]); err != nil {
				return err
			}
			// Before the last chunk is passed on: a piece that is damaged is never complete.
			if at+step >= total && s.literal == nil {
				if want, ok := c.integrity.Sum(s.part.Extent); ok && sum.Sum64() != want {
					return c.damaged(s)
				}
			}
			pass(k)
		}
	}
	return nil
}

// damaged reports a source that has another checksum than its file records.
func (c *converter) damaged(s *source) error {
	return fmt.Errorf("%w: %s: tensor %s at byte %d does not have its checksum", store.ErrFormat,
		c.files[s.part.Extent.File].Name(), s.part.Name, s.part.Extent.Offset)
}

// fill reads n elements of a source from element at on.
func (c *converter) fill(k *chunk, at, n int) error {
	s := k.s
	t := s.part.Type
	k.bytes = n / t.BlockSize() * t.BlockBytes()
	if cap(k.src) < k.bytes {
		k.src = make([]byte, k.bytes)
	}
	k.src = k.src[:k.bytes]
	switch {
	case s.literal != nil:
		copy(k.src, s.literal[at*4:])
		return nil
	case s.heads > 0:
		return c.fillReordered(k, at, n)
	}
	return c.readAt(s, k.src, int64(at/t.BlockSize()*t.BlockBytes()))
}

// fillReordered reads rows in the order of the llama architecture of GGUF: it pairs rows 2i and
// 2i+1 of a head in RoPE where Hugging Face pairs i and i+half.
func (c *converter) fillReordered(k *chunk, at, n int) error {
	s := k.s
	rows, cols := s.part.Rows, s.part.Cols
	if rows == 1 {
		rows, cols = cols, 1
	}
	rowBytes, ok := s.part.Type.RowBytes(int64(cols))
	if !ok {
		return fmt.Errorf("%w: tensor %s: rows of %d %v", ErrModel, s.part.Name, cols, s.part.Type)
	}
	head := rows / s.heads
	for i := range n / cols {
		row := at/cols + i
		in := row % head
		from := row - in + in%2*(head/2) + in/2
		b := k.src[int64(i)*rowBytes:][:rowBytes]
		if err := c.readAt(s, b, int64(from)*rowBytes); err != nil {
			return err
		}
	}
	return nil
}

func (c *converter) readAt(s *source, b []byte, offset int64) error {
	f := c.files[s.part.Extent.File]
	offset += s.part.Extent.Offset
	n, err := f.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %s: tensor %s at byte %d: %w", store.ErrIO, f.Name(), s.part.Name, offset,
		err)
}

// convert turns src into dst.
func (k *chunk) convert() error {
	from := k.s.part.Type
	if from == k.kind {
		k.dst = k.src
		return nil
	}
	n := k.bytes / from.BlockBytes() * from.BlockSize()
	bytes, ok := k.kind.RowBytes(int64(n))
	if !ok {
		return fmt.Errorf("%w: tensor %s: %d elements of %v", ErrModel, k.s.part.Name, n, k.kind)
	}
	if cap(k.f32) < n {
		k.f32 = make([]float32, n)
	}
	if cap(k.out) < int(bytes) {
		k.out = make([]byte, bytes)
	}
	k.f32, k.out = k.f32[:n], k.out[:bytes]
	k.dst = k.out
	err := quant.Decode(from, k.f32, k.src)
	if err == nil {
		err = quant.Encode(k.kind, k.dst, k.f32)
	}
	if err != nil {
		return fmt.Errorf("%w: tensor %s: %w", ErrModel, k.s.part.Name, err)
	}
	return nil
}
