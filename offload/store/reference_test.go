package store

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
)

// expectedModel is what testdata/make.py recorded of a model, as the Python packages read it.
type expectedModel struct {
	Files    []string                 `json:"files"`
	Metadata map[string]expectedValue `json:"metadata"`
	Tensors  []expectedTensor         `json:"tensors"`
}

type expectedValue struct {
	Kind   string   `json:"kind"`
	Value  string   `json:"value"`
	Elem   string   `json:"elem"`
	Values []string `json:"values"`
}

type expectedTensor struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	File   int     `json:"file"`
	Offset int64   `json:"offset"`
	Size   int64   `json:"size"`
	CRC32  uint32  `json:"crc32"`
}

func readExpected(t testing.TB) map[string]expectedModel {
	t.Helper()
	text, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]expectedModel
	if err := json.Unmarshal(text, &expected); err != nil {
		t.Fatal(err)
	}
	return expected
}

// TestReadsWhatThePythonPackagesWrote compares files, tensors, data and metadata with the listing.
func TestReadsWhatThePythonPackagesWrote(t *testing.T) {
	expected := readExpected(t)
	if len(expected) != 6 {
		t.Fatalf("%d models in the listing, want 6", len(expected))
	}
	for path, want := range expected {
		t.Run(path, func(t *testing.T) {
			m, err := Open(filepath.Join("testdata", path))
			if err != nil {
				t.Fatal(err)
			}
			compareModel(t, m, want)
		})
	}
}

func compareModel(t *testing.T, m *Model, want expectedModel) {
	t.Helper()
	var files []string
	for _, f := range m.Files() {
		name, err := filepath.Rel("testdata", f.Path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, name)
	}
	if !reflect.DeepEqual(files, want.Files) {
		t.Errorf("files %v, want %v", files, want.Files)
	}
	var got []expectedTensor
	for _, tensor := range m.Tensors() {
		data, err := m.ReadTensor(tensor.Name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if known := tensor.Type.Known(); known && tensor.Type.String() != tensor.DType {
			t.Errorf("%s: type %v, dtype %s", tensor.Name, tensor.Type, tensor.DType)
		}
		got = append(got, expectedTensor{tensor.Name, tensor.DType, tensor.Shape, tensor.File,
			tensor.Offset, tensor.Size, crc32.ChecksumIEEE(data)})
	}
	for i := range max(len(got), len(want.Tensors)) {
		if i >= len(got) || i >= len(want.Tensors) || !reflect.DeepEqual(got[i], want.Tensors[i]) {
			t.Fatalf("tensor %d:\n got %+v\nwant %+v", i, got, want.Tensors)
		}
	}
	if m.Metadata().Len() != len(want.Metadata) {
		t.Errorf("%d metadata keys, want %d", m.Metadata().Len(), len(want.Metadata))
	}
	for key, wantValue := range want.Metadata {
		v, err := m.Metadata().Value(key)
		if err != nil {
			t.Fatal(err)
		}
		if got := renderValue(v); !reflect.DeepEqual(got, wantValue) {
			t.Errorf("%s: got %+v, want %+v", key, got, wantValue)
		}
	}
}

// renderValue prints a value as make.py does.
func renderValue(v Value) expectedValue {
	if v.Kind() != KindArray {
		return expectedValue{Kind: v.Kind().String(), Value: renderScalar(v.Any())}
	}
	elem, n, _ := v.Elem()
	list := reflect.ValueOf(v.Any())
	out := expectedValue{Kind: "array", Elem: elem.String()}
	for i := range n {
		out.Values = append(out.Values, renderScalar(list.Index(i).Interface()))
	}
	return out
}

func renderScalar(v any) string {
	switch v := v.(type) {
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case Value: // an inner array, as Python prints a list of integers
		list, s := reflect.ValueOf(v.Any()), "["
		for i := range list.Len() {
			if i > 0 {
				s += ", "
			}
			s += fmt.Sprint(list.Index(i))
		}
		return s + "]"
	}
	return fmt.Sprint(v)
}

// TestAnyShardOpensTheSet opens a split set by each of its files.
func TestAnyShardOpensTheSet(t *testing.T) {
	want := readExpected(t)["split-00002-of-00003.gguf"]
	for i := 1; i <= 3; i++ {
		m, err := Open(fmt.Sprintf("testdata/split-%05d-of-00003.gguf", i))
		if err != nil {
			t.Fatal(err)
		}
		compareModel(t, m, want)
	}
}

// TestSafetensorsFileOpensItsModel opens a directory by a file in it.
func TestSafetensorsFileOpensItsModel(t *testing.T) {
	expected := readExpected(t)
	for path, model := range map[string]string{
		"hf-single/model.safetensors":                         "hf-single",
		"hf-sharded/model-00002-of-00002.safetensors":         "hf-sharded",
		"hf-sharded/model.safetensors.index.json":             "hf-sharded",
		"hf-sharded/../hf-sharded/../hf-single":               "hf-single",
		"hf-single/../hf-single/../hf-single/../aligned.gguf": "aligned.gguf",
	} {
		m, err := Open("testdata/" + path)
		if err != nil {
			t.Fatal(err)
		}
		compareModel(t, m, expected[model])
	}
}
