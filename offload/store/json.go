package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"unicode/utf8"
)

// jsonReader walks JSON token by token, and is stricter than encoding/json by itself: text that is
// not UTF-8, a key that is there twice, numbers that are not plain integers and trailing text are
// errors. Nesting is bounded, since only the nesting that is asked for is accepted.
type jsonReader struct {
	d *json.Decoder
}

// newJSONReader checks the syntax of all of text, which it keeps.
func newJSONReader(text []byte) (*jsonReader, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("the text is not UTF-8")
	}
	if !json.Valid(text) {
		return nil, errors.New("the text is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return &jsonReader{d: d}, nil
}

// pos is the offset in the text that has been read to.
func (j *jsonReader) pos() int64 { return j.d.InputOffset() }

// object reads an object, and calls value for each key to read its value.
func (j *jsonReader) object(value func(key string) error) error {
	if err := j.delim('{', "an object"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for j.d.More() {
		key, err := j.str()
		if err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("%s is there twice", quoted(key))
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
	return j.delim('}', "the end of an object")
}

// delim reads one of { } [ ].
func (j *jsonReader) delim(want json.Delim, what string) error {
	token, err := j.d.Token()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("%v stands where %s is wanted", describeToken(token), what)
	}
	return nil
}

// str reads a string.
func (j *jsonReader) str() (string, error) {
	token, err := j.d.Token()
	if err != nil {
		return "", err
	}
	s, ok := token.(string)
	if !ok {
		return "", fmt.Errorf("%v stands where a string is wanted", describeToken(token))
	}
	return s, nil
}

// ints reads an array of at most countMax integers from 0 to 2^63-1.
func (j *jsonReader) ints(countMax int) ([]int64, error) {
	if err := j.delim('[', "an array"); err != nil {
		return nil, err
	}
	list := []int64{}
	for j.d.More() {
		if len(list) == countMax {
			return nil, fmt.Errorf("an array of more than %d numbers", countMax)
		}
		token, err := j.d.Token()
		if err != nil {
			return nil, err
		}
		number, ok := token.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%v stands where a number is wanted", describeToken(token))
		}
		n, err := strconv.ParseUint(number.String(), 10, 64)
		if err != nil || n > math.MaxInt64 {
			return nil, fmt.Errorf("%s is not an integer from 0 to 2^63-1", quoted(number.String()))
		}
		list = append(list, int64(n))
	}
	return list, j.delim(']', "the end of an array")
}

// skip reads one value of any kind and forgets it.
func (j *jsonReader) skip() error {
	var raw json.RawMessage
	return j.d.Decode(&raw)
}

// end checks that nothing but white space follows.
func (j *jsonReader) end() error {
	if _, err := j.d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the end of the object")
	}
	return nil
}

// describeToken renders a token for a message, short.
func describeToken(token json.Token) string {
	switch t := token.(type) {
	case string:
		return "string " + quoted(t)
	case json.Number:
		return "number " + quoted(t.String())
	case nil:
		return "null"
	}
	return fmt.Sprint(token)
}
