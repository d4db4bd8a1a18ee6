package store

import "fmt"

// Kind is the type of a metadata value, numbered as in a GGUF file.
type Kind uint32

// The value types of GGUF.
const (
	KindUint8 Kind = iota
	KindInt8
	KindUint16
	KindInt16
	KindUint32
	KindInt32
	KindFloat32
	KindBool
	KindString
	KindArray
	KindUint64
	KindInt64
	KindFloat64
	kindCount
)

// String names the kind as the GGUF specification does.
func (k Kind) String() string {
	names := [kindCount]string{"uint8", "int8", "uint16", "int16", "uint32", "int32", "float32",
		"bool", "string", "array", "uint64", "int64", "float64"}
	if k < kindCount {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint32(k))
}

// bytesMin is the least that a value of this kind takes in a file; 0 for an unknown kind.
func (k Kind) bytesMin() uint64 {
	sizes := [kindCount]uint64{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8}
	if k < kindCount {
		return sizes[k]
	}
	return 0
}

// Element is a Go type that a GGUF value, or the element of a GGUF array, can have.
type Element interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64 | float32 | float64 | bool | string
}

// Value is one metadata value: a scalar, a string, an array of one of these, or an array of arrays.
// The zero Value is no value. Values are immutable and safe for concurrent use.
type Value struct {
	v any // an Element, a []Element, or []Value for an array of arrays
}

// Scalar makes a Value of one number, bool or string; its kind is that of the Go type.
func Scalar[T Element](v T) Value { return Value{v} }

// Array makes a Value of a list. It keeps v, which must not be changed afterwards.
func Array[T Element](v []T) Value { return Value{v} }

// ArrayOfArrays makes a Value of a list of arrays, or reports an element that is not an array.
func ArrayOfArrays(v []Value) (Value, error) {
	for i, element := range v {
		if element.Kind() != KindArray {
			return Value{}, usageError("", "", "element %d of an array of arrays is a %v", i,
				element.Kind())
		}
	}
	return Value{v}, nil
}

// Any returns the value as a plain Go value: a number, bool or string, a slice of one of these, or
// a []Value for an array of arrays. Slices are shared and must not be changed.
func (v Value) Any() any { return v.v }

// Kind says which type of value this is; KindArray for all arrays.
func (v Value) Kind() Kind {
	if kind, isScalar := scalarKind(v.v); isScalar {
		return kind
	}
	return KindArray
}

// scalarKind returns the kind of a scalar, and false for arrays.
func scalarKind(v any) (Kind, bool) {
	switch v.(type) {
	case uint8:
		return KindUint8, true
	case int8:
		return KindInt8, true
	case uint16:
		return KindUint16, true
	case int16:
		return KindInt16, true
	case uint32:
		return KindUint32, true
	case int32:
		return KindInt32, true
	case uint64:
		return KindUint64, true
	case int64:
		return KindInt64, true
	case float32:
		return KindFloat32, true
	case float64:
		return KindFloat64, true
	case bool:
		return KindBool, true
	case string:
		return KindString, true
	}
	return 0, false
}

// Elem returns the kind and number of an array's elements; ok is false if the value is no array.
func (v Value) Elem() (kind Kind, n int, ok bool) {
	switch a := v.v.(type) {
	case []uint8:
		return KindUint8, len(a), true
	case []int8:
		return KindInt8, len(a), true
	case []uint16:
		return KindUint16, len(a), true
	case []int16:
		return KindInt16, len(a), true
	case []uint32:
		return KindUint32, len(a), true
	case []int32:
		return KindInt32, len(a), true
	case []uint64:
		return KindUint64, len(a), true
	case []int64:
		return KindInt64, len(a), true
	case []float32:
		return KindFloat32, len(a), true
	case []float64:
		return KindFloat64, len(a), true
	case []bool:
		return KindBool, len(a), true
	case []string:
		return KindString, len(a), true
	case []Value:
		return KindArray, len(a), true
	}
	return 0, 0, false
}

// depth is how deep arrays nest: 0 for a scalar.
func (v Value) depth() int {
	list, ok := v.v.([]Value)
	if !ok {
		if _, isScalar := scalarKind(v.v); isScalar {
			return 0
		}
		return 1
	}
	deepest := 0
	for _, element := range list {
		deepest = max(deepest, element.depth())
	}
	return deepest + 1
}

// describe says what a value is, for messages: "uint32", "array of 3 string".
func (v Value) describe() string {
	if v.v == nil {
		return "no value"
	}
	if kind, n, ok := v.Elem(); ok {
		return fmt.Sprintf("array of %d %v", n, kind)
	}
	return v.Kind().String()
}
