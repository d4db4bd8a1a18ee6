//go:build cgo

package fakecuda

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/moering/moering/kernels/quant"
)

// planted is the player with the kernels of testdata/planted.cc.
func planted(t *testing.T) *Player {
	t.Helper()
	p, err := OpenPlayer(BuildPlayerWith(t, "testdata/planted.cc"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// test runs a kernel of words_args over in, and returns out.
func (p *Player) test(kernel string, blocks, threads, shared uint32, in []uint32,
	outs int) ([]uint32, error) {
	aligned := func(n int) []uint32 {
		b := make([]uint32, n+4)
		for uintptr(unsafe.Pointer(&b[0]))%16 != 0 {
			b = b[1:]
		}
		return b[:n]
	}
	input, out := aligned(max(len(in), 4)), aligned(max(outs, 4))
	copy(input, in)
	var args [16]byte
	binary.NativeEndian.PutUint64(args[:], uint64(uintptr(unsafe.Pointer(&input[0]))))
	binary.NativeEndian.PutUint64(args[8:], uint64(uintptr(unsafe.Pointer(&out[0]))))
	err := p.Launch(kernel, [3]uint32{blocks, 1, 1}, [3]uint32{threads, 1, 1}, shared, args[:])
	runtime.KeepAlive(input)
	return out[:outs], err
}

func count(n int) []uint32 {
	v := make([]uint32, n)
	for i := range v {
		v[i] = uint32(i)
	}
	return v
}

func TestMissingBarriersShow(t *testing.T) {
	p := planted(t)
	reversed, turned := count(256), count(256)
	slices.Reverse(reversed)
	turned = append(turned[2:], turned[:2]...)
	for _, c := range []struct {
		name string
		want []uint32
	}{{"reverse", reversed}, {"rounds", turned}} {
		got, err := p.test(c.name, 2, 256, 1024, count(256), 256)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
		got, err = p.test(c.name+" without barrier", 2, 256, 1024, count(256), 256)
		if err != nil || slices.Equal(got, c.want) {
			t.Errorf("%s: the missing barrier does not show (%v)", c.name, err)
		}
	}
}

func TestMistakesAreErrors(t *testing.T) {
	p := planted(t)
	for _, c := range []struct {
		name    string
		threads uint32
		want    string
	}{
		{"divergent", 256, "wait at a barrier (128)"},
		{"lone lane", 64, "or for lanes of their warp"},
		{"mixed", 32, "different collectives"},
		{"outside", 32, "outside the 1024 bytes"},
		{"before", 32, "outside the 1024 bytes"},
		{"copy unfinished", 32, "before its copies were waited for"},
		{"copy misaligned", 32, "not multiples of 16"},
		{"copy outside", 32, "outside of shared memory"},
		{"no such kernel", 32, "there is no such kernel"},
		{"reverse", 128, "not of the kernel's number of threads"},
	} {
		_, err := p.test(c.name, 1, c.threads, 1024, count(256), 256)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, must say %q", c.name, err, c.want)
		}
		if _, err := p.test("reverse", 1, 256, 1024, count(256), 256); err != nil {
			t.Errorf("after %s: %v", c.name, err)
		}
	}
	if _, err := p.test("reverse", 0, 256, 1024, count(256), 256); err == nil {
		t.Error("a grid of no blocks is launched")
	}
	if _, err := p.test("reverse", 1, 256, 1<<20, count(256), 256); err == nil {
		t.Error("a block has a MiB of shared memory")
	}
}

func TestCopiesComeWhenWaitedFor(t *testing.T) {
	p := planted(t)
	want := count(256)
	want[253], want[254], want[255] = 0, 0, 0 // a copy of 4 bytes fills up with zeros
	got, err := p.test("copies", 1, 256, 1024, count(256), 256)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("copies: %v, %v", got, err)
	}
	got, err = p.test("copies not waited for", 1, 256, 1024, count(256), 256)
	if err != nil || slices.Contains(got, 100) {
		t.Errorf("copies that are not waited for have come: %v, %v", got, err)
	}
}

// TestMatrixInstruction compares it with the product of the matrices that the PTX ISA's figures
// load.
func TestMatrixInstruction(t *testing.T) {
	p := planted(t)
	rng := rand.New(rand.NewPCG(7, 1))
	for range 50 {
		var in [320]uint32
		halves := unsafe.Slice((*uint16)(unsafe.Pointer(&in[0])), 384)
		for i := range halves {
			halves[i] = quant.F32ToBF16(float32(rng.NormFloat64()))
		}
		want := make([]uint32, 128)
		for r := range 16 {
			for c := range 8 {
				start := float32(rng.NormFloat64())
				in[192+r*8+c] = math.Float32bits(start)
				sum := float64(start)
				for k := range 16 {
					sum += float64(quant.BF16ToF32(halves[r*16+k])) *
						float64(quant.BF16ToF32(halves[256+k*8+c]))
				}
				want[r*8+c] = math.Float32bits(towardZero(sum))
			}
		}
		got, err := p.test("matrix", 1, 32, 0, in[:], 128)
		for i := range want { // the sums may differ in the last bit of a float64
			if d := int32(got[i]) - int32(want[i]); err != nil || d < -1 || d > 1 {
				t.Fatalf("element %d is %v, must be %v (%v)", i, math.Float32frombits(got[i]),
					math.Float32frombits(want[i]), err)
			}
		}
		swapped, err := p.test("matrix swapped", 1, 32, 0, in[:], 128)
		if err != nil || slices.Equal(swapped, got) {
			t.Fatalf("a wrong fragment layout does not show (%v)", err)
		}
	}
}

func towardZero(v float64) float32 {
	f := float32(v)
	if math.Abs(float64(f)) > math.Abs(v) {
		f = math.Float32frombits(math.Float32bits(f) - 1)
	}
	return f
}

func TestLanes(t *testing.T) {
	p := planted(t)
	rng := rand.New(rand.NewPCG(7, 2))
	in := make([]uint32, 64)
	for i := range in {
		in[i] = rng.Uint32()
	}
	got, err := p.test("lanes", 1, 64, 0, in, 192)
	for i := range in {
		warp, ballot := i/32*32, uint32(0)
		for l := range 32 {
			ballot |= in[warp+l] & 1 << l
		}
		if want := []uint32{in[warp+3], in[i^1], ballot}; err != nil ||
			!slices.Equal(got[3*i:3*i+3], want) {
			t.Fatalf("thread %d: %v, must be %v (%v)", i, got[3*i:3*i+3], want, err)
		}
	}
}

func TestConversions(t *testing.T) {
	p := planted(t)
	rng := rand.New(rand.NewPCG(7, 3))
	in := make([]uint32, 1<<16)
	for i := range in {
		switch i % 4 {
		case 0:
			in[i] = rng.Uint32()
		case 1:
			in[i] = math.Float32bits(quant.F16ToF32(uint16(i))) + rng.Uint32N(3) - 1
		case 2: // half way between two numbers of 16 bits
			in[i] = rng.Uint32()&^0xffff | 0x8000
		default:
			in[i] = math.Float32bits(float32(rng.NormFloat64() * 1e-5))
		}
	}
	got, err := p.test("conversions", 256, 256, 0, in, 3<<16)
	if err != nil {
		t.Fatal(err)
	}
	for i, bits := range in {
		f := math.Float32frombits(bits)
		half, brain, wide := uint16(got[3*i]), uint16(got[3*i+1]), got[3*i+2]
		if f != f {
			if half != 0x7fff || brain != 0x7fff {
				t.Fatalf("%#x: %#x and %#x, must be the NaN of the instructions", bits, half, brain)
			}
		} else if half != quant.F32ToF16(f) || brain != quant.F32ToBF16(f) {
			t.Fatalf("%v: %#x and %#x, must be %#x and %#x", f, half, brain, quant.F32ToF16(f),
				quant.F32ToBF16(f))
		}
		want := quant.F16ToF32(uint16(i))
		if v := math.Float32frombits(wide); v != want && (v == v || want == want) ||
			want == 0 && wide != math.Float32bits(want) {
			t.Fatalf("half %#x is %v, must be %v", i, v, want)
		}
	}
}

func TestBytes(t *testing.T) {
	p := planted(t)
	rng := rand.New(rand.NewPCG(7, 4))
	in := make([]uint32, 192)
	for i := range in {
		in[i] = rng.Uint32()
	}
	got, err := p.test("bytes", 1, 64, 0, in, 128)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		var pair [8]byte
		binary.LittleEndian.PutUint32(pair[:], in[3*i])
		binary.LittleEndian.PutUint32(pair[4:], in[3*i+1])
		var picked [4]byte
		for n := range picked {
			picked[n] = pair[in[3*i+2]>>(4*n)&7]
		}
		shifted := uint32(binary.LittleEndian.Uint64(pair[:]) >> (in[3*i+2] & 31))
		if got[2*i] != binary.LittleEndian.Uint32(picked[:]) || got[2*i+1] != shifted {
			t.Fatalf("thread %d: %#x", i, got[2*i:2*i+2])
		}
	}
}

// TestManyLaunchAtOnce: each host thread has a machine of its own.
func TestManyLaunchAtOnce(t *testing.T) {
	p := planted(t)
	want := count(256)
	slices.Reverse(want)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 20 {
				got, err := p.test("reverse", 3, 256, 1024, count(256), 256)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%v, %v", got, err)
				}
			}
		})
	}
	wait.Wait()
}
