package store

import (
	"encoding/binary"
	"math"
	"strconv"
)

// fileBytesMax bounds a file that is written, so that no sum of sizes can overflow.
const fileBytesMax = 1 << 50

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// appendString appends a GGUF string: a 64-bit length, then the bytes.
func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

// appendValue appends a metadata value without its type: a scalar, or type and number of the
// elements and the elements.
func appendValue(b []byte, v any) []byte {
	le := binary.LittleEndian
	switch v := v.(type) {
	case uint8:
		return append(b, v)
	case int8:
		return append(b, uint8(v))
	case uint16:
		return le.AppendUint16(b, v)
	case int16:
		return le.AppendUint16(b, uint16(v))
	case uint32:
		return le.AppendUint32(b, v)
	case int32:
		return le.AppendUint32(b, uint32(v))
	case uint64:
		return le.AppendUint64(b, v)
	case int64:
		return le.AppendUint64(b, uint64(v))
	case float32:
		return le.AppendUint32(b, math.Float32bits(v))
	case float64:
		return le.AppendUint64(b, math.Float64bits(v))
	case bool:
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case string:
		return appendString(b, v)
	}
	return appendArray(b, v)
}

// appendArray appends type and number of the elements and the elements.
func appendArray(b []byte, v any) []byte {
	switch v := v.(type) {
	case []uint8:
		return appendList(b, v)
	case []int8:
		return appendList(b, v)
	case []uint16:
		return appendList(b, v)
	case []int16:
		return appendList(b, v)
	case []uint32:
		return appendList(b, v)
	case []int32:
		return appendList(b, v)
	case []uint64:
		return appendList(b, v)
	case []int64:
		return appendList(b, v)
	case []float32:
		return appendList(b, v)
	case []float64:
		return appendList(b, v)
	case []bool:
		return appendList(b, v)
	case []string:
		return appendList(b, v)
	case []Value:
		b = appendListHead(b, KindArray, len(v))
		for _, element := range v {
			b = appendArray(b, element.v)
		}
	}
	return b
}

func appendList[T Element](b []byte, list []T) []byte {
	kind, _, _ := Value{list}.Elem()
	b = appendListHead(b, kind, len(list))
	for _, element := range list {
		b = appendValue(b, element)
	}
	return b
}

func appendListHead(b []byte, kind Kind, n int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(kind))
	return binary.LittleEndian.AppendUint64(b, uint64(n))
}
