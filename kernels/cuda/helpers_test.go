//go:build cgo

package cuda

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/moering/moering/kernels"
)

// standIn is the stand-in driver of a test. The library is one for the process, so that tests which
// use it do not run in parallel.
type standIn struct {
	t testing.TB
	d *driver
}

// play returns the stand-in, set back to its beginning; at the end of the test it must hold nothing,
// and must have found nothing wrong.
func play(t testing.TB) *standIn {
	t.Helper()
	d, err := openDriver(library(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := d.control("fresh"); !ok {
		t.Skip("the library is a driver, and this test needs the stand-in")
	}
	p := &standIn{t, d}
	t.Cleanup(func() {
		p.check()
		p.ask("fresh")
	})
	return p
}

func (p *standIn) check() {
	p.t.Helper()
	if v := p.ask("violations"); v != "" {
		p.t.Errorf("the stand-in found:\n%s", v)
	}
	if live := p.ask("live"); live != nothing {
		p.t.Errorf("left behind: %s", live)
	}
}

const nothing = "contexts 0, streams 0, events 0, modules 0, allocations 0 (0 bytes), " +
	"registrations 0 (0 bytes), of cuBLASLt 0"

func (p *standIn) ask(format string, args ...any) string {
	p.t.Helper()
	reply, ok := p.d.control(fmt.Sprintf(format, args...))
	if !ok {
		p.t.Fatalf("the stand-in does not know %q", fmt.Sprintf(format, args...))
	}
	return reply
}

// firstStream is the stand-in's number for the first stream that a test makes on its device, whose own
// stream clears memory; later ones follow.
const firstStream = 2

func (p *standIn) calls() int {
	n, err := strconv.Atoi(p.ask("calls"))
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// expect checks that a planted mistake was found, as an error and by the stand-in, and forgives it.
func (p *standIn) expect(err error, text string) {
	p.t.Helper()
	if !errors.Is(err, kernels.ErrDevice) || !strings.Contains(err.Error(), text) {
		p.t.Errorf("the error is %v; it should wrap ErrDevice and say %q", err, text)
	}
	if v := p.ask("violations"); !strings.Contains(v, text) {
		p.t.Errorf("the stand-in found %q, not %q", v, text)
	}
	p.ask("fresh")
}

// open returns a device on the stand-in, closed at the end of the test.
func (p *standIn) open(o Options) *Device {
	p.t.Helper()
	o.Library = library(p.t)
	d, err := Open(o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = d.Close() })
	return d
}

func newStream(t testing.TB, d *Device, name string) *stream {
	t.Helper()
	s, err := d.NewStream(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*stream)
}

func alloc(t testing.TB, d *Device, bytes int64) *kernels.Buffer {
	t.Helper()
	return kept(t)(d.Alloc(bytes))
}

func pin(t testing.TB, d *Device, bytes int64) *kernels.Buffer {
	t.Helper()
	return kept(t)(d.Pin(bytes))
}

func kept(t testing.TB) func(*kernels.Buffer, error) *kernels.Buffer {
	return func(b *kernels.Buffer, err error) *kernels.Buffer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Free() })
		return b
	}
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

func holds(t testing.TB, b []byte, v byte) {
	t.Helper()
	for i, got := range b {
		if got != v {
			t.Fatalf("byte %d of %d is %#x, must be %#x", i, len(b), got, v)
		}
	}
}
