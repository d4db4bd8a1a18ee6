package engine

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/moering/moering/kernels/quant"
)

// The last hidden state, through the output matrix, gives the logits; the mean is over all tokens,
// whatever the chunks.
func TestEmbeddingIsTheStateBehindTheLogits(t *testing.T) {
	path := filepath.Join(families, "mixtral", "model.gguf")
	e := open(t, path, Options{Device: "ref", Context: 64, Sequences: 1})
	ids := []int32{3, 1, 4, 1, 5}
	embed := func(e *Engine, n int, p Pooling) []float32 {
		t.Helper()
		v, err := e.Embed(context.Background(), ids[:n], p)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	dim := e.Info().Dim
	mean := make([]float64, dim)
	for n := 1; n <= len(ids); n++ {
		state := embed(e, n, PoolLast)
		for i, v := range state {
			mean[i] += float64(v) / float64(len(ids))
		}
	}
	for i, v := range embed(e, len(ids), PoolMean) {
		if math.Abs(float64(v)-mean[i]) > 1e-6*(1+math.Abs(mean[i])) { // float32 rounding
			t.Fatalf("mean %d is %g, want %g", i, v, mean[i])
		}
	}
	s := session(t, e)
	if err := s.Feed(context.Background(), ids); err != nil {
		t.Fatal(err)
	}
	logits := slices.Clone(s.Logits())
	s.Close()
	state := embed(e, len(ids), PoolLast)
	w := e.resident.Output
	row := make([]float32, dim)
	rowBytes := int64(len(w.Data.Host())) / int64(w.Rows)
	for r := range w.Rows {
		encoded := w.Data.Host()[int64(r)*rowBytes:][:rowBytes]
		if err := quant.Decode(w.Type, row, encoded); err != nil {
			t.Fatal(err)
		}
		var sum, norm float64
		for i, v := range row {
			sum += float64(v) * float64(state[i])
			norm += math.Abs(float64(v) * float64(state[i]))
		}
		if math.Abs(sum-float64(logits[r])) > 1e-6*norm { // both round to float32
			t.Fatalf("logit %d is %g from the hidden state, %g from the model", r, sum, logits[r])
		}
	}
	small := open(t, path, Options{Device: "ref", Context: 64, Chunk: 2})
	if !slices.Equal(embed(small, 5, PoolMean), embed(e, 5, PoolMean)) {
		t.Error("the chunk changes the embedding")
	}
	for _, bad := range [][]int32{nil, {-1}, {1 << 30}} {
		if _, err := e.Embed(context.Background(), bad, PoolMean); !errors.Is(err, ErrUsage) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	_, err := e.Embed(context.Background(), make([]int32, 65), PoolMean)
	if !errors.Is(err, ErrContext) {
		t.Errorf("longer than the context: %v", err)
	}
}
