package store

import (
	"sync/atomic"
	"testing"

	"github.com/zeebo/xxh3"
)

// BenchmarkVerify checks one matrix after the other of the size that the yardstick's experts have;
// together they are in no cache.
func BenchmarkVerify(b *testing.B) {
	const size, matrices = 768 * 2048 / 32 * 18, 64
	data := make([]byte, matrices*size)
	for i := range data {
		data[i] = byte(i * i) // of period 256, so that all matrices have one checksum
	}
	m := &Model{files: []File{{Path: "x"}}, tensors: []Tensor{{Name: "x", Shape: []int64{size}, Size: size}},
		sums: &checksums{sums: []uint64{xxh3.Hash(data[:size])}, first: []int{0}}}
	integrity := &Integrity{model: m, mode: VerifyAlways, seen: make([]atomic.Uint64, 1)}
	b.SetBytes(size)
	for i := 0; b.Loop(); i++ {
		if err := integrity.Verify(Extent{Size: size}, data[i%matrices*size:][:size]); err != nil {
			b.Fatal(err)
		}
	}
}
