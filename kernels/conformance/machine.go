package conformance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/moering/moering/kernels"
)

// guardBytes lie before and after each piece of memory that an op is given, filled with guardByte.
const (
	guardBytes = 96
	guardByte  = 0xA5
)

// machine is a device with one stream and the memory of one trial. Its first failure sticks, so
// that a trial is written without error paths. What ops must not change is remembered and verified.
type machine struct {
	dev     kernels.Device
	stream  kernels.Stream
	rng     *rand.Rand // addresses
	buffers []*kernels.Buffer
	images  []image
	err     error
}

// image is what a device buffer must hold, but for the bytes from .. to-1.
type image struct {
	what     string
	buffer   *kernels.Buffer
	bytes    []byte
	from, to int64
}

func newMachine(dev kernels.Device, rng *rand.Rand) *machine {
	m := &machine{dev: dev, rng: rng}
	m.stream, m.err = dev.NewStream("conformance")
	return m
}

func (m *machine) fail(err error) {
	if m.err == nil {
		m.err = err
	}
}

// close verifies the memory, gives everything back and returns the first failure.
func (m *machine) close() error {
	if m.stream != nil {
		m.fail(m.stream.Sync())
		m.verify()
		m.fail(errors.Join(m.stream.Close(), m.stream.Close()))
	}
	for _, b := range m.buffers {
		m.fail(errors.Join(b.Free(), b.Free()))
	}
	return m.err
}

func (m *machine) keep(b *kernels.Buffer, err error) *kernels.Buffer {
	if err != nil {
		m.fail(err)
		return nil
	}
	m.buffers = append(m.buffers, b)
	return b
}

// place copies data to new device memory, at skew bytes past an aligned address, between guards. It
// returns the data's span and its image, which the op may not change.
func (m *machine) place(what string, data []byte, skew int64) (kernels.Span, *image) {
	n, at := int64(len(data)), guardBytes/64*64+64+skew
	full := bytes.Repeat([]byte{guardByte}, int(at+n+guardBytes))
	copy(full[at:], data)
	b := m.keep(m.dev.Alloc(int64(len(full))))
	p := m.keep(m.dev.Pin(int64(len(full))))
	if m.err != nil {
		return kernels.Span{}, &image{}
	}
	copy(p.Host, full)
	m.stream.Copy(b.All(), p.All())
	m.images = append(m.images, image{what: what, buffer: b, bytes: full})
	return b.All().Slice(at, n), &m.images[len(m.images)-1]
}

// skew draws an offset for activations: any multiple of 4 is legal.
func (m *machine) skew() int64 {
	return [...]int64{0, 0, 0, 4, 12, 32}[m.rng.IntN(6)]
}

// floats places an input.
func (m *machine) floats(what string, v []float32) kernels.Span {
	return m.bytes(what, floatBytes(v))
}

func (m *machine) ints(what string, v []int32) kernels.Span {
	data := make([]byte, 4*len(v))
	for i, e := range v {
		binary.LittleEndian.PutUint32(data[4*i:], uint32(e))
	}
	s, _ := m.place(what, data, m.skew())
	return s
}

// changing places memory that the op writes, with its values before.
func (m *machine) changing(what string, v []float32) kernels.Span {
	return m.changingBytes(what, floatBytes(v))
}

// bytes places an input of other elements, whose address is a multiple of 4.
func (m *machine) bytes(what string, data []byte) kernels.Span {
	s, _ := m.place(what, data, m.skew())
	return s
}

// changingBytes is changing for other elements.
func (m *machine) changingBytes(what string, data []byte) kernels.Span {
	s, im := m.place(what, data, m.skew())
	im.from, im.to = s.Offset, s.Offset+s.Bytes
	return s
}

// output places n values that the op must write; they begin as NaN.
func (m *machine) output(what string, n int) kernels.Span {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(math.NaN())
	}
	return m.changing(what, v)
}

// weight places a matrix at an address of any alignment and lands it. Half of the time there is
// room before it, so that it may move down.
func (m *machine) weight(what string, w *hostWeight) kernels.Weight {
	k := m.published(what, w)
	if m.err != nil {
		return k
	}
	im := &m.images[len(m.images)-1]
	memory := k.Data
	if m.rng.IntN(2) == 0 {
		room := m.rng.Int64N(min(64, k.Data.Offset) + 1)
		memory = k.Data.Buffer.All().Slice(k.Data.Offset-room, k.Data.Bytes+room)
	}
	im.from, im.to = memory.Offset, memory.Offset+memory.Bytes
	m.fail(m.stream.Sync())
	landed, err := m.dev.Land(k, memory)
	m.fail(err)
	if err == nil && (landed.Rows != k.Rows || landed.Cols != k.Cols || landed.Type != k.Type) {
		m.fail(fmt.Errorf("%s lands as another matrix: %+v", what, landed))
	}
	return landed
}

// published places a matrix in the layout of its file.
func (m *machine) published(what string, w *hostWeight) kernels.Weight {
	skew := [...]int64{0, 0, 32, 2, 1, 7, 33}[m.rng.IntN(7)]
	s, _ := m.place(what, w.data, skew)
	return kernels.Weight{Data: s, Type: w.kind, Rows: w.rows, Cols: w.cols}
}

func (m *machine) run(op kernels.Op) {
	if m.err == nil {
		m.stream.Run(op)
	}
}

// read waits for the stream and returns a span's values.
func (m *machine) read(s kernels.Span) []float32 {
	data := m.download(s)
	v := make([]float32, len(data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return v
}

// readInts returns a span of int32 as float32 values, which hold the small numbers of the suite.
func (m *machine) readInts(s kernels.Span) []float32 {
	data := m.download(s)
	v := make([]float32, len(data)/4)
	for i := range v {
		v[i] = float32(int32(binary.LittleEndian.Uint32(data[4*i:])))
	}
	return v
}

func (m *machine) download(s kernels.Span) []byte {
	if m.err != nil {
		return nil
	}
	p := m.keep(m.dev.Pin(s.Bytes))
	if m.err != nil {
		return nil
	}
	m.stream.Copy(p.All(), s)
	m.fail(m.stream.Sync())
	return p.Host
}

// verify compares every image with its memory.
func (m *machine) verify() {
	for _, im := range m.images {
		got := m.download(im.buffer.All())
		if m.err != nil {
			return
		}
		if bytes.Equal(got[:im.from], im.bytes[:im.from]) &&
			bytes.Equal(got[im.to:], im.bytes[im.to:]) {
			continue
		}
		for i, b := range got {
			if at := int64(i); b != im.bytes[i] && (at < im.from || at >= im.to) {
				m.fail(fmt.Errorf("%s: byte %d of %d was changed from %#x to %#x", im.what, i,
					len(got), im.bytes[i], b))
				return
			}
		}
	}
}

func floatBytes(v []float32) []byte {
	data := make([]byte, 4*len(v))
	for i, e := range v {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(e))
	}
	return data
}
