package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// copyShards puts the split set of testdata into a new directory and returns its three paths.
func copyShards(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i := range 3 {
		name := splitName{prefix: "split", count: 3}.shard(i)
		paths = append(paths, filepath.Join(dir, name))
		write(t, paths[i], readTestdata(t, name))
	}
	return paths
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, path, old, new string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s does not hold %q", path, old)
	}
	write(t, path, []byte(strings.Replace(string(b), old, new, 1)))
}

// must fails the test on an error of the set-up.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair renders a metadata pair of a 16-bit value, as a shard has it.
func pair(key string, kind Kind, value byte) string {
	return key + string([]byte{byte(kind), 0, 0, 0, value, 0})
}

func TestBrokenSplitSets(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, paths []string)
		kind   error
		words  string
	}{
		{"missing", func(t *testing.T, p []string) { must(t, os.Remove(p[2])) }, ErrIO,
			"split-00003-of-00003.gguf"},
		{"same file by link", func(t *testing.T, p []string) {
			must(t, os.Remove(p[2]))
			must(t, os.Symlink(p[1], p[2]))
		}, ErrFormat, "the same file as"},
		{"same file by hard link", func(t *testing.T, p []string) {
			must(t, os.Remove(p[2]))
			must(t, os.Link(p[0], p[2]))
		}, ErrFormat, "the same file as"},
		{"link to itself", func(t *testing.T, p []string) {
			must(t, os.Remove(p[2]))
			must(t, os.Symlink(p[2], p[2]))
		}, ErrIO, "split-00003-of-00003.gguf"},
		{"swapped", func(t *testing.T, p []string) {
			must(t, os.Rename(p[1], p[1]+".x"))
			must(t, os.Rename(p[2], p[1]))
			must(t, os.Rename(p[1]+".x", p[2]))
		}, ErrFormat, "file 2 of 3"},
		{"copied over another", func(t *testing.T, p []string) {
			write(t, p[2], readTestdata(t, filepath.Base(p[1])))
		}, ErrFormat, "file 1 of 3"},
		{"other count in one", func(t *testing.T, p []string) {
			replace(t, p[2], pair(splitCountKey, KindUint16, 3), pair(splitCountKey, KindUint16, 2))
		}, ErrFormat, "of 2"},
		{"other count in the one given", func(t *testing.T, p []string) {
			replace(t, p[0], pair(splitCountKey, KindUint16, 3), pair(splitCountKey, KindUint16, 4))
		}, ErrFormat, "one file of 4"},
		{"other tensors in one", func(t *testing.T, p []string) {
			replace(t, p[1], pair(splitTensorsKey, KindInt32, 11), pair(splitTensorsKey, KindInt32, 9))
		}, ErrFormat, "is 9 here and 11"},
		{"fewer tensors than said", func(t *testing.T, p []string) {
			for _, path := range p {
				replace(t, path, pair(splitTensorsKey, KindInt32, 11),
					pair(splitTensorsKey, KindInt32, 12))
			}
		}, ErrFormat, "is 12, and the 3 files have 11"},
		{"tensor in two", func(t *testing.T, p []string) {
			replace(t, p[1], "output.weight", "blk.0.attn_qq")
			replace(t, p[2], "four.dims", "norm.bf16")
		}, ErrFormat, `"norm.bf16"`},
		{"no number", func(t *testing.T, p []string) {
			replace(t, p[1], "split.no", "split.on")
		}, ErrNotFound, splitNumberKey},
		{"a plain file among them", func(t *testing.T, p []string) {
			write(t, p[1], readTestdata(t, "v3.gguf"))
		}, ErrNotFound, splitNumberKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			paths := copyShards(t)
			c.damage(t, paths)
			_, err := Open(paths[0])
			wantError(t, err, c.kind, filepath.Dir(paths[0]), c.words)
		})
	}
}

func TestShardUnderAnotherName(t *testing.T) {
	paths := copyShards(t)
	other := filepath.Join(filepath.Dir(paths[0]), "model.gguf")
	must(t, os.Rename(paths[0], other))
	_, err := Open(other)
	wantError(t, err, ErrFormat, "model.gguf", "one file of 3")
	plain := filepath.Join(filepath.Dir(paths[0]), "plain-00001-of-00002.gguf")
	write(t, plain, readTestdata(t, "v3.gguf"))
	_, err = Open(plain)
	wantError(t, err, ErrFormat, "plain-00001-of-00002.gguf")
	alone := filepath.Join(filepath.Dir(paths[0]), "plain-00001-of-00001.gguf")
	write(t, alone, readTestdata(t, "v3.gguf"))
	if _, err := Open(alone); err != nil {
		t.Errorf("a set of one file: %v", err)
	}
}

func TestSplitNames(t *testing.T) {
	for name, want := range map[string]bool{
		"m-00001-of-00003.gguf": true, "-00003-of-00003.gguf": true, "m-00000-of-00003.gguf": false,
		"m-00004-of-00003.gguf": false, "m-1-of-3.gguf": false, "m-00001-of-00003.bin": false,
		"m-00001-of-00003.gguf\n": false,
	} {
		parsed, ok := parseSplitName(name)
		if ok != want {
			t.Errorf("%q is a shard: %v", name, ok)
		}
		if ok && parsed.shard(parsed.number-1) != name {
			t.Errorf("%q becomes %q", name, parsed.shard(parsed.number-1))
		}
	}
}

// copyDir copies a checkpoint of testdata into a new directory.
func copyDir(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))))
	return dir
}

func TestBrokenDirectories(t *testing.T) {
	const shard2 = "model-00002-of-00002.safetensors"
	index := func(text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, safetensorsIndex), []byte(text))
		}
	}
	edit := func(old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, safetensorsIndex), old, new)
		}
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, name))) }
	}
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		kind   error
		words  string
	}{
		{"no config", remove("config.json"), ErrNotFound, "config.json"},
		{"no index", remove(safetensorsIndex), ErrUnsupported, "neither"},
		{"missing shard", remove(shard2), ErrIO, shard2},
		{"missing tensor", edit(`"scalar"`, `"vector"`), ErrFormat, `"vector"`},
		{"other shard", func(t *testing.T, dir string) {
			edit(`"scalar": "model-00001`, `"scalar": "model-00002`)(t, dir)
		}, ErrFormat, "the index says"},
		{"parent", edit(shard2, "../"+shard2), ErrFormat, "not the name"},
		{"absolute", edit(shard2, "/etc/model.safetensors"), ErrFormat, "not the name"},
		{"sub-directory", edit(shard2, "sub/"+shard2), ErrFormat, "not the name"},
		{"backslash", edit(shard2, `..\\`+shard2), ErrFormat, "not the name"},
		{"no file name", edit(shard2, ""), ErrFormat, "not the name"},
		{"another kind of file", edit(shard2, "pytorch_model.bin"), ErrFormat, "not the name"},
		{"no JSON", index("{"), ErrFormat, "not JSON"},
		{"empty", index(""), ErrFormat, "not JSON"},
		{"no map", index("{}"), ErrFormat, "weight_map"},
		{"empty map", index(`{"weight_map":{}}`), ErrFormat, "weight_map"},
		{"map of numbers", index(`{"weight_map":{"a":1}}`), ErrFormat, "a string"},
		{"tensor twice", index(`{"weight_map":{"a":"a.safetensors","a":"b.safetensors"}}`), ErrFormat,
			"twice"},
		{"tensor in two files", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, shard2),
				readTestdata(t, "hf-sharded/model-00001-of-00002.safetensors"))
		}, ErrFormat, "also in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, "hf-sharded")
			c.damage(t, dir)
			_, err := Open(dir)
			wantError(t, err, c.kind, dir, c.words)
		})
	}
}

func TestWhatIsNoModel(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "none.gguf"))
	wantError(t, err, ErrIO, "none.gguf")
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v does not wrap the system's error", err)
	}
	_, err = Open(dir)
	wantError(t, err, ErrUnsupported, "neither")
	write(t, filepath.Join(dir, "model.bin"), []byte("PK"))
	_, err = Open(filepath.Join(dir, "model.bin"))
	wantError(t, err, ErrUnsupported, "not a model file")
	must(t, os.Mkdir(filepath.Join(dir, safetensorsFile), 0o700))
	_, err = Open(filepath.Join(dir, safetensorsFile))
	if err == nil {
		t.Error("an empty directory is a model")
	}
	write(t, filepath.Join(dir, "blob"), readTestdata(t, "v3.gguf"))
	if _, err = Open(filepath.Join(dir, "blob")); err != nil {
		t.Errorf("a GGUF file without the name of one: %v", err)
	}
}

func TestSideFiles(t *testing.T) {
	dir := copyDir(t, "hf-single")
	m, err := Open(dir)
	must(t, err)
	config, err := m.SideFile(SideConfig)
	must(t, err)
	if string(config) != "{\"model_type\": \"test\"}\n" {
		t.Errorf("config.json is %q", config)
	}
	_, err = m.SideFile(SideTokenizer)
	wantError(t, err, ErrNotFound, "tokenizer.json")
	_, err = m.SideFile("../secret")
	wantError(t, err, ErrUsage, "secret")
	must(t, os.Truncate(filepath.Join(dir, SideConfig), sideBytesMax+1))
	_, err = m.SideFile(SideConfig)
	wantError(t, err, ErrFormat, "config.json", "limit")
}

func TestReadsAfterOpen(t *testing.T) {
	dir := copyDir(t, "hf-single")
	m, err := Open(dir)
	must(t, err)
	_, err = m.Tensor("none")
	wantError(t, err, ErrNotFound, dir, `"none"`)
	if m.Has("none") || !m.Has("scalar") {
		t.Error("Has is wrong")
	}
	_, err = m.ReadTensor("t.float64", 47)
	wantError(t, err, ErrUsage, `"t.float64"`, "48 bytes")
	files, err := m.OpenFiles(false)
	must(t, err)
	for _, f := range files {
		must(t, f.Close())
	}
	_, err = m.OpenFile(1, false)
	wantError(t, err, ErrUsage, "no file 1")
	path := filepath.Join(dir, safetensorsFile)
	must(t, os.Truncate(path, m.Files()[0].Size-1))
	_, err = m.ReadTensor("scalar", 4)
	wantError(t, err, ErrFormat, path, "has changed")
	must(t, os.Remove(path))
	_, err = m.OpenFiles(true)
	wantError(t, err, ErrIO, path)
}

func TestSliceIsOneExpert(t *testing.T) {
	m, err := Open("testdata/v3.gguf")
	must(t, err)
	experts, err := m.Tensor("blk.0.ffn_gate_exps.weight")
	must(t, err)
	for i := range int64(4) {
		e, err := experts.Slice(i)
		must(t, err)
		const expertBytes = 3 * 64 / 32 * 34
		want := Extent{File: 0, Offset: experts.Offset + i*expertBytes, Size: expertBytes}
		if e != want {
			t.Errorf("expert %d is %+v, want %+v", i, e, want)
		}
	}
	for _, i := range []int64{-1, 4} {
		_, err = experts.Slice(i)
		wantError(t, err, ErrUsage, "slice")
	}
	quantised := Tensor{Name: "q", DType: "Q8_0", Shape: []int64{64}, Size: 68, blockElements: 32}
	_, err = quantised.Slice(1)
	wantError(t, err, ErrUsage, "whole number of Q8_0 blocks")
}

func TestHullIsAligned(t *testing.T) {
	for _, c := range []struct{ e, want Extent }{
		{Extent{1, 4096, 4096}, Extent{1, 4096, 4096}},
		{Extent{1, 4095, 2}, Extent{1, 0, 8192}},
		{Extent{1, 5000, 0}, Extent{1, 4096, 4096}},
	} {
		hull, lead := c.e.Hull(4096)
		if hull != c.want || lead != c.e.Offset-hull.Offset {
			t.Errorf("hull of %+v is %+v, lead %d", c.e, hull, lead)
		}
	}
}

// TestDirectOpenWorksOrSaysWhy opens for direct reads: the descriptor has O_DIRECT, or the error
// names the file and what was refused.
func TestDirectOpenWorksOrSaysWhy(t *testing.T) {
	m, err := Open("testdata/v3.gguf")
	must(t, err)
	files, err := m.OpenFiles(true)
	if err != nil {
		wantError(t, err, ErrIO, "v3.gguf", "direct reads")
		return
	}
	flags, err := unix.FcntlInt(files[0].Fd(), unix.F_GETFL, 0)
	if err != nil || flags&directFlag == 0 {
		t.Errorf("flags %#x, %v: the descriptor is not direct", flags, err)
	}
	must(t, files[0].Close())
}
