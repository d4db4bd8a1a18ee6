package conformance

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
)

// cacheTypes are the types of a key-value cache; the last one is optional.
var cacheTypes = []quant.Type{quant.F32, quant.F16, quant.Q8_0}

// cache is a paged key-value cache with several sequences, and the rows of a batch over it.
type cache struct {
	kv     kernels.KV // without memory
	pages  int
	tables []int32 // (sequences, PagesMax)
	seqs   []int32 // (rows)
	pos    []int32 // (rows)
}

// newCache draws sequences of some length, now and then a thousand positions, whose pages lie
// anywhere in the pool, and rows: for each sequence some positions in ascending order, the last
// one among them.
func newCache(rng *rand.Rand, kind quant.Type) *cache {
	c := &cache{}
	c.kv = kernels.KV{PageTokens: [...]int{1, 3, 4, 16, 32}[rng.IntN(5)], KVHeads: 1 + rng.IntN(3),
		HeadDim: [...]int{1, 5, 8, 16, 24, 40, 64}[rng.IntN(7)], PagesMax: 2 + rng.IntN(4), Type: kind}
	if kind.IsQuantized() {
		c.kv.HeadDim = kind.BlockSize() * (1 + rng.IntN(3))
	}
	layers, sequences := 1+rng.IntN(3), 1+rng.IntN(3)
	if rng.IntN(5) == 0 { // long enough that a device may cut a context in parts
		c.kv.PageTokens, c.kv.PagesMax, c.kv.KVHeads, sequences = 32, 40, 1, 1
	}
	c.kv.Layer = rng.IntN(layers)
	c.kv.PageBytes = int64(layers) * c.kv.LayerBytes()
	c.pages = sequences*c.kv.PagesMax + 1
	free := rng.Perm(c.pages)
	for s := range sequences {
		length := 1 + rng.IntN(c.kv.PagesMax*c.kv.PageTokens)
		for p := range c.kv.PagesMax {
			c.tables = append(c.tables, -1) // no page: must not be looked at
			if p*c.kv.PageTokens < length {
				c.tables[len(c.tables)-1], free = int32(free[0]), free[1:]
			}
		}
		first := length - 1 - rng.IntN(min(length, [...]int{6, 40}[rng.IntN(2)]))
		for at := first; at < length; at++ {
			if at == length-1 || rng.IntN(3) > 0 {
				c.seqs, c.pos = append(c.seqs, int32(s)), append(c.pos, int32(at))
			}
		}
	}
	return c
}

func (c *cache) String() string {
	return fmt.Sprintf("%v, %d pages of %d tokens and %d bytes, layer %d, kv heads %d, head dim %d, "+
		"sequences %v, positions %v", c.kv.Type, c.pages, c.kv.PageTokens, c.kv.PageBytes, c.kv.Layer,
		c.kv.KVHeads, c.kv.HeadDim, c.seqs, c.pos)
}

// key returns where the pool's values have the key of a head; its value lies side() further on.
func (c *cache) key(seq, pos, head int) int {
	page := int(c.tables[seq*c.kv.PagesMax+pos/c.kv.PageTokens])
	return page*c.pageValues() + c.kv.Layer*2*c.side() +
		(head*c.kv.PageTokens+pos%c.kv.PageTokens)*c.kv.HeadDim
}

func (c *cache) side() int { return c.kv.KVHeads * c.kv.PageTokens * c.kv.HeadDim }

func (c *cache) pageValues() int {
	return int(c.kv.PageBytes) / c.kv.Type.BlockBytes() * c.kv.Type.BlockSize()
}

// pool returns the values of pages of NaN, which would show wherever they are read.
func (c *cache) pool() []float32 {
	v := make([]float32, c.pages*c.pageValues())
	for i := range v {
		v[i] = float32(math.NaN())
	}
	return v
}

// encode returns the bytes of values; blocks of NaN, which have no encoding, get a scale of NaN.
func (c *cache) encode(v []float32) []byte {
	size, elements := c.kv.Type.BlockBytes(), c.kv.Type.BlockSize()
	data := make([]byte, len(v)/elements*size)
	for to := data; len(to) > 0; to, v = to[size:], v[elements:] {
		if quant.Encode(c.kv.Type, to[:size], v[:elements]) != nil {
			binary.LittleEndian.PutUint16(to, 0x7E00)
		}
	}
	return data
}

func (c *cache) decode(data []byte) []float32 {
	v := make([]float32, len(data)/c.kv.Type.BlockBytes()*c.kv.Type.BlockSize())
	_ = quant.Decode(c.kv.Type, v, data) // whole blocks, or nothing after a failure
	return v
}

func appendTrial(kind quant.Type) maker {
	return func(rng *rand.Rand) trial {
		c := newCache(rng, kind)
		rows, dim := len(c.pos), c.kv.KVHeads*c.kv.HeadDim
		k, v := activations(rng, rows, dim), activations(rng, rows, dim)
		if rng.IntN(2) == 0 { // numbers of which a scale has no inverse, or none at all
			for i := range k[:dim] {
				k[i] *= 1e-37
				v[i] = math.Float32frombits(rng.Uint32() & 0x807FFFFF)
			}
			if kind.IsQuantized() {
				v[len(v)-1] = float32(math.Inf(1))
			}
		}
		before := c.encode(gaussian(rng, len(c.pool()), 1))
		return trial{
			shape: c.String(), rows: rows, whole: true, optional: kind.IsQuantized(),
			run: func(m *machine, pick []int) [][]float32 {
				kv := c.kv
				kv.Pool, kv.Tables = m.changingBytes("Pool", before), m.ints("Tables", c.tables)
				m.run(&kernels.KVAppend{KV: kv, K: m.floats("K", k), V: m.floats("V", v),
					Seqs: m.ints("Seqs", c.seqs), Pos: m.ints("Pos", c.pos), Rows: rows})
				return [][]float32{c.decode(m.download(kv.Pool))}
			},
			tolerance: func(int, int, []float32) float64 { return 0 },
		}
	}
}

func attentionTrial(kind quant.Type) maker {
	return func(rng *rand.Rand) trial {
		c := newCache(rng, kind)
		window := 0
		if rng.IntN(2) == 0 {
			window = 1 + rng.IntN(c.kv.PagesMax*c.kv.PageTokens)
		}
		pool := c.encode(c.fill(rng, window))
		heads := c.kv.KVHeads * (1 + rng.IntN(4))
		dim := heads * c.kv.HeadDim
		sharp := [...]float64{1, 1, 8}[rng.IntN(3)] // at 8 a few positions have all the weight
		q := gaussian(rng, len(c.pos)*dim, sharp)
		scale := 1 / math.Sqrt(float64(c.kv.HeadDim))
		return trial{
			shape: fmt.Sprintf("%v, heads %d, window %d, queries x %v", c, heads, window, sharp),
			rows:  len(c.pos), optional: kind.IsQuantized(),
			run: func(m *machine, pick []int) [][]float32 {
				kv := c.kv
				kv.Pool, kv.Tables = m.bytes("Pool", pool), m.ints("Tables", c.tables)
				out := m.output("Out", len(pick)*dim)
				m.run(&kernels.Attention{KV: kv, Q: m.floats("Q", rowsOf(q, dim, pick)), Out: out,
					Seqs: m.ints("Seqs", rowsOf(c.seqs, 1, pick)),
					Pos:  m.ints("Pos", rowsOf(c.pos, 1, pick)), Rows: len(pick), Heads: heads,
					Scale: float32(scale), Window: window})
				return [][]float32{m.read(out)}
			},
			// An error in a score is a relative error of a weight. Scores have size sharp, and the error
			// of a sum of HeadDim products; weights the error of an exponential (16 units), the result that
			// of a sum over positions; values have size one.
			tolerance: func(_, row int, want []float32) float64 {
				score := 4 * sharp * summing(c.kv.HeadDim)
				sum := summing(int(c.pos[row])+1) + 16*unit
				return (score + sum) * math.Sqrt(float64(dim))
			},
		}
	}
}

// fill returns the values of a pool that holds some only where the rows' windows reach, and takes
// the pages out of reach out of the tables.
func (c *cache) fill(rng *rand.Rand, window int) []float32 {
	pool := c.pool()
	used := make(map[int]bool)
	for t := range c.pos {
		seq, first := int(c.seqs[t]), 0
		if window > 0 {
			first = max(0, int(c.pos[t])-window+1)
		}
		for at := first; at <= int(c.pos[t]); at++ {
			used[seq*c.kv.PagesMax+at/c.kv.PageTokens] = true
			for h := range c.kv.KVHeads {
				key := c.key(seq, at, h)
				if pool[key] == pool[key] {
					continue // another row's window reached it
				}
				copy(pool[key:], gaussian(rng, c.kv.HeadDim, 1))
				copy(pool[key+c.side():], gaussian(rng, c.kv.HeadDim, 1))
			}
		}
	}
	for i := range c.tables {
		if !used[i] {
			c.tables[i] = -1
		}
	}
	return pool
}
