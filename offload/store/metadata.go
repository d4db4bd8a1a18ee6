package store

import (
	"fmt"
	"math"
)

// Metadata is the key-value part of a GGUF file; of a split model, that of its first file. For
// other formats it is empty. It is immutable and safe for concurrent use.
//
// The typed accessors return an error that wraps ErrNotFound for a missing key, and ErrFormat for a
// value of another type or out of range; they never convert silently between integer, float, bool
// and string.
type Metadata struct {
	file   string
	keys   []string // as ordered in the file
	values map[string]Value
}

// newMetadata returns an empty set; file is named in errors.
func newMetadata(file string) *Metadata {
	return &Metadata{file: file, values: map[string]Value{}}
}

// add appends a pair; false means that the key was there already.
func (m *Metadata) add(key string, v Value) bool {
	if _, dup := m.values[key]; dup {
		return false
	}
	m.keys = append(m.keys, key)
	m.values[key] = v
	return true
}

// Len is the number of keys.
func (m *Metadata) Len() int { return len(m.keys) }

// Keys lists the keys in the order of the file, in a slice of the caller's own.
func (m *Metadata) Keys() []string { return append([]string(nil), m.keys...) }

// Has reports whether there is such a key.
func (m *Metadata) Has(key string) bool {
	_, ok := m.values[key]
	return ok
}

// Value returns the value of a key as it is stored.
func (m *Metadata) Value(key string) (Value, error) {
	v, ok := m.values[key]
	if !ok {
		return Value{}, &Error{File: m.file, Offset: noOffset, Kind: ErrNotFound,
			Reason: fmt.Sprintf("metadata key %s is missing", quoted(key))}
	}
	return v, nil
}

// wrongType reports a key whose value is not what was asked for.
func (m *Metadata) wrongType(key, want string, v Value) error {
	return formatError(m.file, "", noOffset, adviceInvalid, "metadata key %s is %s, not %s",
		quoted(key), v.describe(), want)
}

// String returns a string.
func (m *Metadata) String(key string) (string, error) {
	v, err := m.Value(key)
	if err != nil {
		return "", err
	}
	s, ok := v.v.(string)
	if !ok {
		return "", m.wrongType(key, "a string", v)
	}
	return s, nil
}

// Bool returns a bool.
func (m *Metadata) Bool(key string) (bool, error) {
	v, err := m.Value(key)
	if err != nil {
		return false, err
	}
	b, ok := v.v.(bool)
	if !ok {
		return false, m.wrongType(key, "a bool", v)
	}
	return b, nil
}

// Int returns an integer of any width that fits an int64.
func (m *Metadata) Int(key string) (int64, error) {
	v, err := m.Value(key)
	if err != nil {
		return 0, err
	}
	switch i := v.v.(type) {
	case uint8:
		return int64(i), nil
	case int8:
		return int64(i), nil
	case uint16:
		return int64(i), nil
	case int16:
		return int64(i), nil
	case uint32:
		return int64(i), nil
	case int32:
		return int64(i), nil
	case int64:
		return i, nil
	case uint64:
		if i > math.MaxInt64 {
			return 0, m.wrongType(key, "an integer of 63 bits", v)
		}
		return int64(i), nil
	}
	return 0, m.wrongType(key, "an integer", v)
}

// Uint returns an integer of any width that is not negative.
func (m *Metadata) Uint(key string) (uint64, error) {
	v, err := m.Value(key)
	if err != nil {
		return 0, err
	}
	if u, ok := v.v.(uint64); ok {
		return u, nil
	}
	i, err := m.Int(key)
	if err != nil {
		return 0, err
	}
	if i < 0 {
		return 0, formatError(m.file, "", noOffset, adviceInvalid,
			"metadata key %s is %d, and must not be negative", quoted(key), i)
	}
	return uint64(i), nil
}

// Float returns a float32 or float64. The value may be NaN or infinite, as the file has it.
func (m *Metadata) Float(key string) (float64, error) {
	v, err := m.Value(key)
	if err != nil {
		return 0, err
	}
	switch f := v.v.(type) {
	case float32:
		return float64(f), nil
	case float64:
		return f, nil
	}
	return 0, m.wrongType(key, "a float", v)
}

// Strings returns an array of strings, shared with the metadata: it must not be changed.
func (m *Metadata) Strings(key string) ([]string, error) {
	v, err := m.Value(key)
	if err != nil {
		return nil, err
	}
	s, ok := v.v.([]string)
	if !ok {
		return nil, m.wrongType(key, "an array of strings", v)
	}
	return s, nil
}

// Bools returns an array of bools, shared with the metadata: it must not be changed.
func (m *Metadata) Bools(key string) ([]bool, error) {
	v, err := m.Value(key)
	if err != nil {
		return nil, err
	}
	b, ok := v.v.([]bool)
	if !ok {
		return nil, m.wrongType(key, "an array of bools", v)
	}
	return b, nil
}

// Ints returns an array of integers of any width that fit int64, as a slice of the caller's own.
func (m *Metadata) Ints(key string) ([]int64, error) {
	v, err := m.Value(key)
	if err != nil {
		return nil, err
	}
	switch a := v.v.(type) {
	case []uint8:
		return widen[int64](a), nil
	case []int8:
		return widen[int64](a), nil
	case []uint16:
		return widen[int64](a), nil
	case []int16:
		return widen[int64](a), nil
	case []uint32:
		return widen[int64](a), nil
	case []int32:
		return widen[int64](a), nil
	case []int64:
		return widen[int64](a), nil
	case []uint64:
		for _, u := range a {
			if u > math.MaxInt64 {
				return nil, m.wrongType(key, "an array of integers of 63 bits", v)
			}
		}
		return widen[int64](a), nil
	}
	return nil, m.wrongType(key, "an array of integers", v)
}

// Floats returns an array of float32 or float64, as a slice of the caller's own.
func (m *Metadata) Floats(key string) ([]float64, error) {
	v, err := m.Value(key)
	if err != nil {
		return nil, err
	}
	switch a := v.v.(type) {
	case []float32:
		return widen[float64](a), nil
	case []float64:
		return widen[float64](a), nil
	}
	return nil, m.wrongType(key, "an array of floats", v)
}

// number is what widen converts between.
type number interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64 | float32 | float64
}

// widen copies a slice into a wider type.
func widen[To, From number](in []From) []To {
	out := make([]To, len(in))
	for i, x := range in {
		out[i] = To(x)
	}
	return out
}
