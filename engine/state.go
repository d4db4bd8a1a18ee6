package engine

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/moering/moering/engine/internal/kv"
	"github.com/moering/moering/kernels"
	"github.com/moering/moering/offload/reader"
	"github.com/moering/moering/offload/store"
)

// A saved session, all numbers little-endian:
//
//	magic     8 bytes "MRSTATE1"; the digit is the version
//	model     16 bytes, see identity
//	shape     5 * uint32: layers, key-value heads, bytes of a head's row, tokens of a page, tokens
//	logits    uint32: how many follow the tokens; 0 or the vocabulary
//	tokens    int32 each
//	logits    float32 each
//	pages     for each page, layer, keys and values, head: the rows of the page's tokens
//	checksum  16 bytes, XXH3-128 of all before
const (
	stateMagic     = "MRSTATE1"
	stateShape     = 6 // numbers of uint32
	checksumBytes  = 16
	identityParts  = 32   // tensors of which the identity knows bytes
	identitySample = 4096 // bytes of each
)

// Save writes the session: tokens, keys and values, and logits, so that a session restored from it,
// on this model with the same options that shape arithmetic (Device, Exact), continues to the bit.
// A generation's sampler is not part of it. Errors of w are wrapped.
func (s *Session) Save(w io.Writer) error {
	if s.closed {
		return ErrClosed
	}
	sum := xxh3.New()
	out := io.MultiWriter(w, sum)
	head, err := s.engine.stateHead(len(s.tokens), len(s.logits))
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	for _, v := range []any{head, s.tokens, s.logits} {
		if err := binary.Write(out, binary.LittleEndian, v); err != nil {
			return fmt.Errorf("save: %w", err)
		}
	}
	err = s.pages(func(rows []byte) error { _, err := out.Write(rows); return err }, false)
	if err == nil {
		end := sum.Sum128().Bytes()
		_, err = w.Write(end[:])
	}
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// Restore replaces what the session holds by what Save wrote, and reads not a byte more. A state of
// another model or version, or a damaged one, is an error that wraps ErrFormat; one that does not
// fit the context, ErrContext. After an error the session is empty.
func (s *Session) Restore(r io.Reader) error {
	if err := s.Truncate(0); err != nil {
		return err
	}
	err := s.restore(r)
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: the state is cut short: %w", ErrFormat, err)
	}
	s.seq.Truncate(0)
	s.tokens, s.logits = s.tokens[:0], s.logits[:0]
	return fmt.Errorf("restore: %w", mapError(err))
}

func (s *Session) restore(r io.Reader) error {
	sum := xxh3.New()
	in := io.TeeReader(r, sum)
	e := s.engine
	want, err := e.stateHead(0, 0)
	if err != nil {
		return err
	}
	head := make([]byte, len(want))
	if _, err := io.ReadFull(in, head); err != nil {
		return err
	}
	fixed := len(want) - 8 // all but the numbers of tokens and logits
	switch {
	case !bytes.Equal(head[:len(stateMagic)], want[:len(stateMagic)]):
		return fmt.Errorf("%w: not a saved session, or one of another version", ErrFormat)
	case !bytes.Equal(head[:fixed], want[:fixed]):
		return fmt.Errorf("%w: the session was saved with another model or cache layout", ErrFormat)
	}
	tokens := binary.LittleEndian.Uint32(head[fixed:])
	logits := binary.LittleEndian.Uint32(head[fixed+4:])
	if int64(tokens) > int64(e.options.Context) {
		return fmt.Errorf("%w: the state has %d tokens, over the limit of %d", ErrContext, tokens,
			e.options.Context)
	}
	if logits != 0 && int64(logits) != int64(e.model.Vocab) {
		return fmt.Errorf("%w: %d logits, of a vocabulary of %d", ErrFormat, logits, e.model.Vocab)
	}
	s.tokens, s.logits = make([]int32, tokens), make([]float32, logits)
	for _, v := range []any{s.tokens, s.logits} {
		if err := binary.Read(in, binary.LittleEndian, v); err != nil {
			return err
		}
	}
	if err := s.seq.Grow(int(tokens)); err != nil {
		return err
	}
	s.seq.Len = int(tokens)
	err = s.pages(func(rows []byte) error { _, err := io.ReadFull(in, rows); return err }, true)
	if err != nil {
		return err
	}
	return s.verify(r, sum.Sum128())
}

// verify compares the checksum, and then looks at what a checksum does not promise.
func (s *Session) verify(r io.Reader, sum xxh3.Uint128) error {
	var end [checksumBytes]byte
	if _, err := io.ReadFull(r, end[:]); err != nil {
		return err
	}
	if end != sum.Bytes() {
		return fmt.Errorf("%w: the state's checksum is wrong", ErrFormat)
	}
	for i, id := range s.tokens {
		if id < 0 || int(id) >= s.engine.model.Vocab {
			return fmt.Errorf("%w: token %d of the state is %d, outside the vocabulary", ErrFormat,
				i, id)
		}
	}
	for i, v := range s.logits {
		if math.IsNaN(float64(v)) {
			return fmt.Errorf("%w: logit %d of the state is not a number", ErrFormat, i)
		}
	}
	return nil
}

// stateHead is everything before the tokens.
func (e *Engine) stateHead(tokens, logits int) ([]byte, error) {
	identity, err := e.identity()
	if err != nil {
		return nil, err
	}
	k := e.pool.KV
	head := append([]byte(stateMagic), identity[:]...)
	for _, n := range [stateShape]int{len(e.model.Layers), k.KVHeads, e.rowBytes(), k.PageTokens,
		tokens, logits} {
		head = binary.LittleEndian.AppendUint32(head, uint32(n))
	}
	return head, nil
}

// rowBytes is the size of one position's key or value of one head in the cache.
func (e *Engine) rowBytes() int {
	k := e.pool.KV
	return int(k.PageBytes) / (len(e.model.Layers) * 2 * k.KVHeads * k.PageTokens)
}

// pages visits the rows of the sequence in the order of the format, as bytes in host memory; with
// write, what visit leaves there becomes the cache's content.
func (s *Session) pages(visit func(rows []byte) error, write bool) (err error) {
	e, k := s.engine, s.engine.pool.KV
	stream, err := e.device.NewStream("state")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	buffer, err := e.device.Pin(k.PageBytes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, buffer.Free()) }()
	table := k.Tables.Int32s()[int(s.seq.Row)*k.PagesMax:]
	row := e.rowBytes()
	block := row * k.PageTokens
	for i := range kv.Pages(len(s.tokens)) {
		page := k.Pool.Slice(int64(table[i])*k.PageBytes, k.PageBytes)
		if err := copyNow(stream, buffer.All(), page); err != nil {
			return err
		}
		used := row * min(k.PageTokens, len(s.tokens)-i*k.PageTokens)
		for at := 0; at < int(k.PageBytes); at += block {
			if err := visit(buffer.Host[at : at+used]); err != nil {
				return err
			}
		}
		if !write {
			continue
		}
		if err := copyNow(stream, page, buffer.All()); err != nil {
			return err
		}
	}
	return nil
}

func copyNow(s kernels.Stream, dst, src kernels.Span) error {
	s.Copy(dst, src)
	return s.Sync()
}

// identity tells models apart: a hash of the names, types and shapes of all tensors, and of the
// first bytes of some. Two fine-tunes of one model differ in those; a rename of the file changes
// nothing, and neither does its deletion while it is open.
func (e *Engine) identity() (id [checksumBytes]byte, err error) {
	tensors := e.model.Store.Tensors()
	slices.SortFunc(tensors, func(a, b store.Tensor) int { return cmp.Compare(a.Name, b.Name) })
	sum := xxh3.New()
	for _, t := range tensors {
		fmt.Fprintf(sum, "%q %s %v %d\n", t.Name, t.DType, t.Shape, t.Size)
	}
	align := int64(max(reader.Align, e.reader.Align()))
	buffer, err := e.device.Pin(identitySample + 3*align)
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, buffer.Free()) }()
	skip := -int64(buffer.Addr) & (align - 1)
	for i := range min(identityParts, len(tensors)) {
		t := tensors[i*len(tensors)/min(identityParts, len(tensors))]
		if err := e.sample(sum, t, buffer.Host[skip:], align); err != nil {
			return id, err
		}
	}
	return sum.Sum128().Bytes(), nil
}

// sample hashes a tensor's first bytes.
func (e *Engine) sample(sum io.Writer, t store.Tensor, memory []byte, align int64) error {
	n := min(t.Size, identitySample)
	offset, length, lead := reader.Hull(t.Offset, n, align)
	done := make(chan error, 1)
	q := reader.Request{File: t.File, Offset: offset, Buf: memory[:length], Need: int(lead + n),
		Label: t.Name, Done: func(_ *reader.Request, err error) { done <- err }}
	if err := e.reader.Submit(&q); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	_, err := sum.Write(memory[lead : lead+n])
	return err
}
