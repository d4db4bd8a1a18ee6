package store

import (
	"encoding/binary"
	"errors"
	"io"
	"strconv"
)

// The fixed parts of a safetensors file (huggingface/safetensors, README, "Format"): a 64-bit
// little-endian length, so many bytes of JSON, then the data.
const (
	safetensorsLengthBytes = 8
	safetensorsMetadataKey = "__metadata__"
)

// readSafetensors reads the header of one safetensors file of file.Size bytes. It is as strict as
// the reference implementation: the data of the tensors fills the file from the end of the header
// to its last byte, with no hole and no overlap.
func readSafetensors(r io.ReaderAt, file File) (part, error) {
	header, err := readSafetensorsHeader(r, file)
	if err != nil {
		return part{}, err
	}
	tensors, err := parseSafetensorsHeader(file, header)
	if err != nil {
		return part{}, err
	}
	dataStart := int64(safetensorsLengthBytes + len(header))
	if err := placeSafetensors(file, tensors, dataStart); err != nil {
		return part{}, err
	}
	return part{file: file, tensors: tensors}, nil
}

// readSafetensorsHeader returns the JSON of the header, of a length that is checked first.
func readSafetensorsHeader(r io.ReaderAt, file File) ([]byte, error) {
	if file.Size < safetensorsLengthBytes {
		return nil, formatError(file.Path, "", 0, adviceDamaged,
			"%d bytes are too few for a safetensors file", file.Size)
	}
	var length [safetensorsLengthBytes]byte
	if err := readFull(r, length[:], 0); err != nil {
		return nil, readFailed(file.Path, "", 0, "the length of the header", err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > safetensorsHeaderBytesMax {
		return nil, formatError(file.Path, "", 0, adviceDamaged,
			"a header of %d bytes, over the limit of %d", n, safetensorsHeaderBytesMax)
	}
	if left := uint64(file.Size - safetensorsLengthBytes); n > left {
		return nil, formatError(file.Path, "", 0, adviceDamaged,
			"a header of %d bytes, but only %d remain", n, left)
	}
	header := make([]byte, n)
	if err := readFull(r, header, safetensorsLengthBytes); err != nil {
		return nil, readFailed(file.Path, "", safetensorsLengthBytes, "the header", err)
	}
	if len(header) == 0 || header[0] != '{' {
		return nil, formatError(file.Path, "", safetensorsLengthBytes, adviceDamaged,
			"the header does not begin with '{'")
	}
	return header, nil
}

// parseSafetensorsHeader reads the tensors from the JSON. Offsets are still from the start of the
// data.
func parseSafetensorsHeader(file File, header []byte) ([]Tensor, error) {
	j, err := newJSONReader(header)
	if err != nil {
		return nil, headerError(file, "", 0, err)
	}
	var tensors []Tensor
	err = j.object(func(name string) error {
		if name == safetensorsMetadataKey {
			return j.object(func(string) error { _, err := j.str(); return err })
		}
		at := j.pos()
		if len(tensors) == tensorsMax {
			return formatError(file.Path, "", safetensorsLengthBytes+at, adviceInvalid,
				"more than %d tensors", tensorsMax)
		}
		t, err := readSafetensorsTensor(j, name)
		if err != nil {
			return headerError(file, name, at, err)
		}
		tensors = append(tensors, t)
		return nil
	})
	if err == nil {
		err = j.end()
	}
	if err != nil {
		return nil, headerError(file, "", j.pos(), err)
	}
	return tensors, nil
}

// headerError names file, tensor and offset for what is wrong in the JSON of a header, unless that
// has been done already.
func headerError(file File, tensor string, at int64, err error) error {
	var done *Error
	if errors.As(err, &done) {
		if done.File == "" {
			done.File, done.Tensor, done.Offset = file.Path, tensor, safetensorsLengthBytes+at
		}
		return done
	}
	return formatError(file.Path, tensor, safetensorsLengthBytes+at, adviceDamaged,
		"the header is not as specified: %v", err)
}

// readSafetensorsTensor reads {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}. All
// three must be there, and nothing else.
func readSafetensorsTensor(j *jsonReader, name string) (Tensor, error) {
	t := Tensor{Name: name, Shape: []int64{}}
	var dtype string
	var offsets []int64
	var hasShape bool
	err := j.object(func(key string) (err error) {
		switch key {
		case "dtype":
			dtype, err = j.str()
		case "shape":
			hasShape = true
			t.Shape, err = j.ints(shapeDimsMax)
		case "data_offsets":
			offsets, err = j.ints(2)
		default:
			err = errors.New("unknown field " + quoted(key))
		}
		return err
	})
	switch {
	case err != nil:
		return t, err
	case name == "":
		return t, errors.New("a tensor name is empty")
	case len(name) > tensorNameBytesMax:
		return t, errors.New("a tensor name is longer than " + strconv.Itoa(tensorNameBytesMax))
	case dtype == "" || !hasShape || len(offsets) != 2:
		return t, errors.New("dtype, shape and two data_offsets are wanted")
	case offsets[0] > offsets[1]:
		return t, errors.New("data_offsets end before they begin")
	}
	t.Offset, t.Size = offsets[0], offsets[1]-offsets[0]
	return t, t.setSafetensorsType(dtype)
}

// setSafetensorsType fills in the type and checks the size against dtype and shape.
func (t *Tensor) setSafetensorsType(dtype string) error {
	l, ok := safetensorsLayout(dtype)
	if !ok {
		return &Error{Kind: ErrUnsupported, Reason: "dtype " + quoted(dtype) + " is not known",
			Advice: "the file is damaged, or newer than this program"}
	}
	size, err := l.bytesOf(t.Shape, false)
	if err != nil {
		return err
	}
	if size != t.Size {
		return errors.New(dtype + " of its shape takes " + strconv.FormatInt(size, 10) +
			" bytes, but data_offsets hold " + strconv.FormatInt(t.Size, 10))
	}
	t.setLayout(l)
	return nil
}

// placeSafetensors turns offsets into offsets from the start of the file, and checks that the
// tensors fill the file without hole or overlap.
func placeSafetensors(file File, tensors []Tensor, dataStart int64) error {
	sortByOffset(tensors)
	end := int64(0)
	for i := range tensors {
		t := &tensors[i]
		if t.Offset != end {
			fault := "leaves a hole after"
			if t.Offset < end {
				fault = "overlaps"
			}
			return formatError(file.Path, t.Name, dataStart+min(t.Offset, file.Size), adviceInvalid,
				"its data %s what ends at byte %d of the data", fault, end)
		}
		end += t.Size
		if end > file.Size-dataStart {
			return formatError(file.Path, t.Name, dataStart+t.Offset, adviceDamaged,
				"%d bytes reach past the end of the file, %d bytes", t.Size, file.Size)
		}
		t.Offset += dataStart
	}
	if end != file.Size-dataStart {
		return formatError(file.Path, "", dataStart+end, adviceDamaged,
			"the tensors end here, but the file has %d bytes", file.Size)
	}
	return nil
}
