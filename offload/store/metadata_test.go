package store

import (
	"math"
	"reflect"
	"testing"
)

// TestMetadataIsTyped asks for each key through each accessor: the right ones answer, the others
// say what the value is.
func TestMetadataIsTyped(t *testing.T) {
	m := newMetadata("x.gguf")
	m.add("int", Scalar[int16](-3))
	m.add("uint", Scalar[uint64](math.MaxUint64))
	m.add("small", Scalar[uint8](3))
	m.add("float", Scalar[float32](0.5))
	m.add("bool", Scalar(true))
	m.add("string", Scalar("s"))
	m.add("ints", Array([]int32{-1, 2}))
	m.add("uints", Array([]uint64{math.MaxUint64}))
	m.add("floats", Array([]float32{0.25}))
	m.add("bools", Array([]bool{true}))
	m.add("strings", Array([]string{"a"}))
	accessors := map[string]func(string) (any, error){
		"Int":     func(k string) (any, error) { return m.Int(k) },
		"Uint":    func(k string) (any, error) { return m.Uint(k) },
		"Float":   func(k string) (any, error) { return m.Float(k) },
		"Bool":    func(k string) (any, error) { return m.Bool(k) },
		"String":  func(k string) (any, error) { return m.String(k) },
		"Ints":    func(k string) (any, error) { return m.Ints(k) },
		"Floats":  func(k string) (any, error) { return m.Floats(k) },
		"Bools":   func(k string) (any, error) { return m.Bools(k) },
		"Strings": func(k string) (any, error) { return m.Strings(k) },
	}
	right := map[string]map[string]any{
		"int":    {"Int": int64(-3)},
		"uint":   {"Uint": uint64(math.MaxUint64)},
		"small":  {"Int": int64(3), "Uint": uint64(3)},
		"float":  {"Float": 0.5},
		"bool":   {"Bool": true},
		"string": {"String": "s"},
		"ints":   {"Ints": []int64{-1, 2}},
		"uints":  {}, "floats": {"Floats": []float64{0.25}},
		"bools": {"Bools": []bool{true}}, "strings": {"Strings": []string{"a"}},
	}
	if m.Len() != len(right) || m.Keys()[0] != "int" {
		t.Errorf("keys %v", m.Keys())
	}
	for key, answers := range right {
		for name, access := range accessors {
			got, err := access(key)
			if want, ok := answers[name]; ok {
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s(%s) = %v, %v, want %v", name, key, got, err, want)
				}
				continue
			}
			wantError(t, err, ErrFormat, "x.gguf", key)
		}
	}
	for _, access := range accessors {
		_, err := access("none")
		wantError(t, err, ErrNotFound, "x.gguf", `"none"`)
	}
}

// TestIntegersOfAllWidths reads each width as scalar and as array.
func TestIntegersOfAllWidths(t *testing.T) {
	for _, v := range []Value{Scalar[uint8](7), Scalar[int8](7), Scalar[uint16](7), Scalar[int16](7),
		Scalar[uint32](7), Scalar[int32](7), Scalar[uint64](7), Scalar[int64](7)} {
		m := newMetadata("x.gguf")
		m.add("k", v)
		i, err := m.Int("k")
		u, errUint := m.Uint("k")
		if i != 7 || u != 7 || err != nil || errUint != nil {
			t.Errorf("%v: %d %v, %d %v", v.Kind(), i, err, u, errUint)
		}
	}
	for _, v := range []Value{Array([]uint8{7}), Array([]int8{7}), Array([]uint16{7}),
		Array([]int16{7}), Array([]uint32{7}), Array([]int32{7}), Array([]uint64{7}),
		Array([]int64{7})} {
		m := newMetadata("x.gguf")
		m.add("k", v)
		if i, err := m.Ints("k"); err != nil || !reflect.DeepEqual(i, []int64{7}) {
			t.Errorf("%s: %v %v", v.describe(), i, err)
		}
	}
}
