package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/moering/moering/engine/internal/arch"
	"github.com/moering/moering/engine/internal/weights"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/offload/store"
)

// packTo packs a model into a new file and checks every byte of it.
func packTo(t *testing.T, source string, o PackOptions) (path string, r PackReport) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "packed.gguf")
	r, err := Pack(context.Background(), source, path, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(context.Background(), path, nil); err != nil {
		t.Fatal(err)
	}
	return path, r
}

func loadModel(t *testing.T, path string) *arch.Model {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := arch.Load(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Invariant 1 for packed files: every family, from both formats and in both layouts, gives the logits
// of its GGUF file to the bit, and that of a Hugging Face directory its own wherever the
// architecture does not reorder queries and keys, or carry RoPE in another form.
func TestPackedGivesTheSameLogits(t *testing.T) {
	dirs, err := filepath.Glob(families + "*/golden.json")
	if err != nil || len(dirs) != 9 {
		t.Fatalf("%d families, %v", len(dirs), err)
	}
	logits := func(t *testing.T, path string, ids []int32, o Options) []float32 {
		o.Context = 256
		return score(t, session(t, open(t, path, o)), ids)
	}
	for i, file := range dirs {
		dir := filepath.Dir(file)
		name := filepath.Base(dir)
		g, _ := readGolden(t, dir)
		want := logits(t, filepath.Join(dir, "model.gguf"), g.Prompt, Options{})
		for j, format := range []string{"model.gguf", "hf"} {
			for k, layout := range []string{"grouped", "stacked"} {
				t.Run(name+"/"+format+"/"+layout, func(t *testing.T) {
					path, _ := packTo(t, filepath.Join(dir, format), PackOptions{Layout: layout})
					o := Options{Reader: []string{"", "pread"}[(i+j+k)%2], DirectIO: Toggle((i + k) % 3)}
					got := logits(t, path, g.Prompt, o)
					if name == "llama" && format == "hf" {
						// The divisors of the llama3 rule round differently when made from float64.
						if r := difference(got, want); !(r <= goldenError) {
							t.Errorf("logits differ by %.2g", r)
						}
					} else if !slices.Equal(got, want) {
						t.Errorf("logits differ by %.2g", difference(got, want))
					}
				})
			}
		}
	}
}

// difference is the normalised error of got.
func difference(got, want []float32) float64 {
	var diff, norm float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		diff, norm = diff+d*d, norm+float64(want[i])*float64(want[i])
	}
	return math.Sqrt(diff / norm)
}

// The tiny model streams from packed files as from its own, whatever the budget and the reader.
func TestPackedStreamsTheSameLogits(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	ids := make([]int32, 24)
	for i := range ids {
		ids[i] = int32(rng.IntN(2000))
	}
	want := score(t, session(t, open(t, tiny, Options{Context: 64})), ids)
	for _, layout := range []string{"grouped", "stacked"} {
		path, _ := packTo(t, tiny, PackOptions{Layout: layout})
		_, plan, err := Inspect(path, Options{Context: 64, HostMemory: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, reader := range []string{"", "pread"} {
			o := Options{Context: 64, Reader: reader, HostMemory: plan.Least + rng.Int64N(4<<20)}
			if got := score(t, session(t, open(t, path, o)), ids); !slices.Equal(got, want) {
				t.Errorf("%s, reader %q: logits differ", layout, reader)
			}
		}
	}
}

// span is the range of a file that parts take, and how often the next part does not begin at the page
// after the one before.
func span(parts []arch.Part) (first, last int64, gaps int) {
	first = parts[0].Extent.Offset
	for i, p := range parts {
		page := (last + store.PackAlignment - 1) / store.PackAlignment * store.PackAlignment
		if i > 0 && p.Extent.Offset != page {
			gaps++
		}
		last = p.Extent.End()
	}
	return first, last, gaps
}

// Grouped: each expert, and a layer's matrices apart from experts, are one range from a page on, and
// take one read. Stacked: an expert takes three.
func TestGroupedExpertIsOneRead(t *testing.T) {
	for layout, reads := range map[string]int64{"grouped": 1, "stacked": 3} {
		path, r := packTo(t, tiny, PackOptions{Layout: layout})
		if r.Layout != layout {
			t.Errorf("layout %q", r.Layout)
		}
		m := loadModel(t, path)
		groups := append(weights.Experts(m), weights.Layers(m)...)
		for i := range groups {
			want := 0
			if layout == "stacked" && groups[i].Index >= 0 {
				want = 2
			}
			if at, _, gaps := span(groups[i].Parts); gaps != want || at%store.PackAlignment != 0 {
				t.Fatalf("%s: %v begins at %d and has %d gaps", layout, &groups[i], at, gaps)
			}
		}
		e := open(t, path, Options{Context: 64, Prefetch: Off})
		before := e.Stats()
		generate(t, session(t, e), []int32{1, 2, 3}, 4)
		s := e.Stats().Sub(before)
		if s.Misses == 0 || s.Reads != reads*s.Misses {
			t.Errorf("%s: %d reads for %d groups", layout, s.Reads, s.Misses)
		}
	}
}

// Invariant 4: a flipped bit of an expert, of a weight that stays, of a norm or of the header is an
// error that names the place, at the latest when the weight is wanted, and never a token.
func TestFlippedBitIsNeverComputedWith(t *testing.T) {
	whole, _ := packTo(t, tiny, PackOptions{})
	m := loadModel(t, whole)
	rng := rand.New(rand.NewPCG(12, 12))
	parts := map[string]arch.Part{"expert": m.Groups[3].Down, "matrix": m.Dense[1][arch.Query],
		"norm": m.Dense[2][arch.FFNNorm], "router": m.Dense[3][arch.Router],
		"embedding": m.Head[arch.Embedding]}
	for what, p := range parts {
		for range 3 {
			b := readFile(t, whole)
			b[p.Extent.Offset+rng.Int64N(p.Extent.Size)] ^= 1 << rng.IntN(8)
			path := filepath.Join(t.TempDir(), "m.gguf")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := useAllExperts(path); !errors.Is(err, ErrFormat) ||
				!strings.Contains(err.Error(), p.Name) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if err := useAllExperts(whole); err != nil {
		t.Error(err)
	}
	b := readFile(t, whole)
	at := bytes.Index(b, []byte("rope.freq_base")) + len("rope.freq_base") + 4
	b[at+2] ^= 1
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := useAllExperts(path); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "header") {
		t.Errorf("header: %v", err)
	}
}

// useAllExperts opens a model and computes with so many tokens that every expert of the tiny model
// is wanted.
func useAllExperts(path string) (err error) {
	e, err := Open(path, Options{Context: 256})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	s, err := e.NewSession()
	if err != nil {
		return err
	}
	ids := make([]int32, 250)
	for i := range ids {
		ids[i] = int32(i * 8)
	}
	return s.Feed(context.Background(), ids)
}

// Metadata and weights of a GGUF file stay byte for byte; one layout becomes the other and back.
func TestPackingLosesNothing(t *testing.T) {
	grouped, _ := packTo(t, tiny, PackOptions{})
	stacked, r := packTo(t, tiny, PackOptions{Layout: "stacked"})
	if len(r.Notes) > 0 || r.Source.Types != r.Packed.Types || r.Layout != "stacked" {
		t.Errorf("%+v", r)
	}
	a, err := store.Open(tiny)
	if err != nil {
		t.Fatal(err)
	}
	b, err := store.Open(stacked)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range a.Metadata().Keys() {
		want, _ := a.Metadata().Value(key)
		if got, err := b.Metadata().Value(key); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, tensor := range a.Tensors() {
		want, err1 := a.ReadTensor(tensor.Name, 1<<30)
		got, err2 := b.ReadTensor(tensor.Name, 1<<30)
		if err1 != nil || err2 != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, %v", tensor.Name, err1, err2)
		}
	}
	again, _ := packTo(t, grouped, PackOptions{Layout: "stacked"})
	back, _ := packTo(t, stacked, PackOptions{Layout: "grouped"})
	if !bytes.Equal(readFile(t, again), readFile(t, stacked)) {
		t.Error("stacked from grouped is another file")
	}
	if !bytes.Equal(readFile(t, back), readFile(t, grouped)) {
		t.Error("grouped from stacked is another file")
	}
}

// Requantised weights are those of package quant, the others stay, and the file says what it is.
func TestRequantisation(t *testing.T) {
	source := filepath.Join(t.TempDir(), "f16.gguf")
	o := SynthOptions{Family: "qwen2moe", Layers: 2, Dim: 256, Heads: 4, Experts: 4, ExpertWidth: 96,
		SharedWidth: 256, ExpertType: "F16", DenseType: "BF16"}
	if err := Synth(context.Background(), source, o, nil); err != nil {
		t.Fatal(err)
	}
	from := loadModel(t, source)
	for _, c := range []struct {
		expert, dense string
		fileType      int64
	}{{"Q8_0", "", 32}, {"Q4_0", "Q8_0", 7}, {"Q4_K", "Q4_K", 14}, {"", "Q4_0", 2}} {
		layout := []string{"grouped", "stacked"}[len(c.dense)/2%2]
		path, r := packTo(t, source, PackOptions{ExpertType: c.expert, DenseType: c.dense, Layout: layout})
		to := loadModel(t, path)
		for i := range from.Groups {
			for j, part := range from.Groups[i].Parts() {
				want := c.expert
				if part.Cols == 96 && want == "Q4_K" {
					want = "Q8_0" // 96 is no whole block of 256
				}
				checkRequantised(t, from, to, *part, *to.Groups[i].Parts()[j], want)
			}
		}
		for l := range from.Dense {
			for role, part := range from.Dense[l] {
				want := c.dense
				if part.Rows == 1 || role == arch.Router {
					want = ""
				}
				checkRequantised(t, from, to, part, to.Dense[l][role], want)
			}
		}
		if wantNote := c.expert == "Q4_K"; wantNote != (len(r.Notes) > 0) {
			t.Errorf("%+v: notes %q", c, r.Notes)
		}
		meta := to.Store.Metadata()
		// That of most elements, which are dense here: llama.h has 32 for BF16, 7 Q8_0, 14 Q4_K, 2 Q4_0.
		if got, err := meta.Int("general.file_type"); got != c.fileType || err != nil {
			t.Errorf("%+v: file type %d, %v; %s", c, got, err, r.Packed.Types)
		}
		open(t, path, Options{Context: 64})
	}
	// A file that says its type says the new one.
	path, _ := packTo(t, families+"qwen3/model.gguf", PackOptions{ExpertType: "Q8_0", DenseType: "Q8_0"})
	if got, err := loadModel(t, path).Store.Metadata().Int("general.file_type"); got != 7 || err != nil {
		t.Errorf("file type %d, %v, want 7", got, err)
	}
	_, err := Pack(context.Background(), tiny, filepath.Join(t.TempDir(), "x"),
		PackOptions{ExpertType: "Q8_0"})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "blk.0.ffn_gate_exps") {
		t.Errorf("quantised again: %v", err)
	}
}

// checkRequantised compares a weight with its source, encoded as it should be.
func checkRequantised(t *testing.T, from, to *arch.Model, a, b arch.Part, want string) {
	t.Helper()
	read := func(m *arch.Model, p arch.Part) []byte {
		data, err := m.Store.ReadTensor(p.Tensor, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		tensor, err := m.Store.Tensor(p.Tensor)
		if err != nil {
			t.Fatal(err)
		}
		return data[p.Extent.Offset-tensor.Offset:][:p.Extent.Size]
	}
	expected := read(from, a)
	if want == "" {
		want = a.Type.String()
	}
	if want != a.Type.String() {
		values := make([]float32, a.Rows*a.Cols)
		kind, _ := quant.ParseType(want)
		n, _ := kind.RowBytes(int64(len(values)))
		encoded := make([]byte, n)
		if err := errors.Join(quant.Decode(a.Type, values, expected),
			quant.Encode(kind, encoded, values)); err != nil {
			t.Fatal(err)
		}
		expected = encoded
	}
	if b.Type.String() != want || !bytes.Equal(read(to, b), expected) {
		t.Errorf("%s of %v became %v, want %s, or has other bytes", a.Name, a.Type, b.Type, want)
	}
}

// The width of experts is read from their tensors where no key tells it, in either layout.
func TestExpertWidthIsToldByTheTensors(t *testing.T) {
	b := readFile(t, families+"qwen2moe/model.gguf")
	b = bytes.Replace(b, []byte("qwen2moe.expert_feed"), []byte("another_.expert_feed"), 1)
	source := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(source, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, layout := range []string{"grouped", "stacked"} {
		path, _ := packTo(t, source, PackOptions{Layout: layout})
		if m := loadModel(t, path); m.ExpertWidth == m.DenseWidth || m.ExpertWidth != 24 {
			t.Errorf("%s: expert width %d, dense width %d", layout, m.ExpertWidth, m.DenseWidth)
		}
	}
}

// A tokenizer.json in a GGUF file is believed if its configuration is there too, or nothing else.
func TestWhichTokenizerOfAGGUFFileIsRead(t *testing.T) {
	for _, c := range []struct {
		keys []string
		want bool
	}{
		{nil, false},
		{[]string{"tokenizer.ggml.tokens"}, false},
		{[]string{"tokenizer.huggingface.json"}, true},
		{[]string{"tokenizer.huggingface.json", "tokenizer.ggml.tokens"}, false},
		{[]string{"tokenizer.huggingface.json", "tokenizer.ggml.tokens",
			"moering.side.tokenizer_config.json"}, true},
		{[]string{"moering.side.tokenizer_config.json"}, false},
	} {
		path := filepath.Join(t.TempDir(), "m.gguf")
		w, err := store.NewGGUFWriter(path, store.WriterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range c.keys {
			err = errors.Join(err, w.SetMetadata(key, store.Scalar("{}")))
		}
		if err = errors.Join(err, w.Commit()); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := hubTokenizer(s); got != c.want {
			t.Errorf("%q: %v", c.keys, got)
		}
	}
	s, err := store.Open(families + "qwen3/hf")
	if err != nil || !hubTokenizer(s) {
		t.Errorf("a directory: %v", err)
	}
}

// killKey makes the test binary a process that packs and kills itself: "source target bytes".
const killKey = "MOERING_TEST_PACK_KILL"

// TestPackUntilKilled is the process of TestKilledPackGoesOn.
func TestPackUntilKilled(t *testing.T) {
	words := strings.Fields(os.Getenv(killKey))
	if len(words) != 3 {
		return // this is no such process
	}
	limit, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Pack(context.Background(), words[0], words[1], PackOptions{CheckpointBytes: 1 << 18,
		Progress: func(done, total int64) {
			if done >= limit || done == total {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}})
	t.Fatalf("not killed: %v", err)
}

// Killed at random moments, again and again, a pack ends in the bytes of an undisturbed one.
func TestKilledPackGoesOn(t *testing.T) {
	whole, _ := packTo(t, tiny, PackOptions{})
	want := readFile(t, whole)
	rng := rand.New(rand.NewPCG(11, 11))
	path := filepath.Join(t.TempDir(), "m.gguf")
	for range 3 {
		limit := int64(0)
		for range 3 {
			limit += rng.Int64N(int64(len(want)) / 3)
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPackUntilKilled$")
			c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", killKey, tiny, path, limit))
			out, err := c.CombinedOutput()
			if c.ProcessState == nil || c.ProcessState.String() != "signal: killed" {
				t.Fatalf("%v: %s", err, out)
			}
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("the target is there: %v", err)
			}
		}
		r, err := Pack(context.Background(), tiny, path, PackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Resumed < limit-2<<20 {
			t.Errorf("killed at %d, gone on from %d", limit, r.Resumed)
		}
		if !bytes.Equal(readFile(t, path), want) {
			t.Fatalf("other bytes after a kill at %d", limit)
		}
		left, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// A cancelled pack says so, leaves no target, no goroutine and no descriptor, and goes on.
func TestCancelledPackGoesOn(t *testing.T) {
	whole, _ := packTo(t, tiny, PackOptions{})
	before := descriptors(t)
	path := filepath.Join(t.TempDir(), "m.gguf")
	last := int64(0)
	for i := range 4 {
		ctx, cancel := context.WithCancel(context.Background())
		_, err := Pack(ctx, tiny, path, PackOptions{Progress: func(done, total int64) {
			if done < last {
				t.Errorf("at %d, and before at %d", done, last)
			}
			last = done
			if done > total/5*int64(i+1) {
				cancel()
			}
		}})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%v", err)
		}
		last = 0
		if n := descriptors(t); n != before {
			t.Fatalf("%d descriptors, %d before", n, before)
		}
	}
	r, err := Pack(context.Background(), tiny, path, PackOptions{})
	if err != nil || r.Resumed == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if !bytes.Equal(readFile(t, path), readFile(t, whole)) {
		t.Error("other bytes")
	}
}

// Wrong options and targets are refused before anything is written.
func TestPackRefuses(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there.gguf")
	if err := os.WriteFile(there, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	itself := copyTiny(t, func(b []byte) []byte { return b })
	for _, c := range []struct {
		source, target string
		o              PackOptions
		kind           error
	}{
		{tiny, there, PackOptions{}, ErrUsage},
		{itself, itself, PackOptions{Force: true}, ErrUsage},
		{tiny, filepath.Join(dir, "x"), PackOptions{Layout: "heap"}, ErrUsage},
		{tiny, filepath.Join(dir, "x"), PackOptions{ExpertType: "Q9_9"}, ErrUsage},
		{tiny, filepath.Join(dir, "x"), PackOptions{DenseType: "F32"}, ErrUsage},
		{tiny, filepath.Join(dir, "x"), PackOptions{HostMemory: 1 << 20}, ErrBudget},
		{tiny, filepath.Join(dir, "x"), PackOptions{Threads: -1}, ErrUsage},
		{tiny, filepath.Join(dir, "none", "x"), PackOptions{}, ErrIO},
		{filepath.Join(dir, "none"), filepath.Join(dir, "x"), PackOptions{}, ErrIO},
	} {
		if _, err := Pack(context.Background(), c.source, c.target, c.o); !errors.Is(err, c.kind) {
			t.Errorf("%s to %s, %+v: %v", c.source, c.target, c.o, err)
		}
	}
	if b := readFile(t, there); string(b) != "precious" {
		t.Errorf("the old file is %q", b)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := Verify(context.Background(), tiny, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a file without checksums is verified: %v", err)
	}
}

// A packed source is checked while it is read: damage does not get a new checksum.
func TestDamageIsNotPacked(t *testing.T) {
	path, _ := packTo(t, tiny, PackOptions{})
	b := readFile(t, path)
	m := loadModel(t, path)
	p := m.Groups[20].Up
	b[p.Extent.Offset+100] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "m.gguf")
	for range 2 { // and not in a second try that goes on from the first
		_, err := Pack(context.Background(), path, target, PackOptions{Layout: "stacked"})
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), p.Name) {
			t.Fatalf("%v", err)
		}
	}
	if err := Verify(context.Background(), path, nil); !errors.Is(err, ErrFormat) ||
		!strings.Contains(err.Error(), p.Name) {
		t.Errorf("%v", err)
	}
}

// A Hugging Face model's tokenizer, chat template and ends of text come along.
func TestPackedModelUnderstandsText(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(dir, os.DirFS(families+"qwen3/hf")); err != nil {
		t.Fatal(err)
	}
	const tokenizers = "../tests/testdata/tokenizers/"
	for _, name := range []string{"qwen2", "llama2"} {
		config := `{"bos_token": null, "eos_token": "a", "chat_template": "{% for m in messages %}` +
			`[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"}`
		for file, text := range map[string][]byte{
			"tokenizer.json":         readFile(t, tokenizers+name+".json"),
			"tokenizer_config.json":  []byte(config),
			"generation_config.json": []byte(`{"eos_token_id": [7, 9]}`),
		} {
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		path, r := packTo(t, dir, PackOptions{})
		a, b := open(t, dir, Options{Context: 64}), open(t, path, Options{Context: 64})
		chat := []Message{{Role: "user", Content: "Hello there"}}
		x, err1 := a.EncodeChat(chat)
		y, err2 := b.EncodeChat(chat)
		if err1 != nil || err2 != nil || !slices.Equal(x, y) || len(x) == 0 {
			t.Errorf("%s: %v, %v and %v, %v", name, x, err1, y, err2)
		}
		for _, text := range []string{"Hello, world", " 12345 naïve\n\n東京"} {
			x, err1 := a.Encode(text, true)
			y, err2 := b.Encode(text, true)
			if err1 != nil || err2 != nil || !slices.Equal(x, y) || a.Decode(x) != b.Decode(y) {
				t.Errorf("%s: %v, %v and %v, %v", name, x, err1, y, err2)
			}
		}
		if !reflect.DeepEqual(a.ends, b.ends) || !b.ends[7] || !b.ends[9] {
			t.Errorf("%s: ends %v and %v", name, a.ends, b.ends)
		}
		if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "tokenizer") {
			t.Errorf("%s: notes %q", name, r.Notes) // the model has fewer tokens than the tokenizer
		}
		again, _ := packTo(t, path, PackOptions{Layout: "stacked"})
		c := open(t, again, Options{Context: 64})
		if z, err := c.EncodeChat(chat); err != nil || !slices.Equal(z, x) || !reflect.DeepEqual(a.ends, c.ends) {
			t.Errorf("%s packed again: %v, %v", name, z, err)
		}
	}
}
