package batch

import (
	"bufio"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"
)

// Formats of an input.
const (
	FormatAuto  = ""      // JSONL if the first line that is not blank begins with a brace
	FormatJSONL = "jsonl" // OpenAI's batch file
	FormatText  = "text"  // one prompt a line
)

// line is where a request is in the input, and what is known of it. There is one for each line
// that is not blank: this index is what a job costs in memory.
type line struct {
	offset int64 // in the input, decompressed
	at     int64 // of its result in the journal; 0: none yet
	bytes  int32 // of the line; beyond lineBytesMax it is not read
	number int32 // of the line, from 1
	size   int32 // of the result
	failed bool  // the result is an error
	bad    bool  // Survey refused it
	twice  bool  // its custom_id was used before
}

// input is the requests' text, indexed by line.
type input struct {
	file     *os.File
	temp     string // to be removed at close: what came compressed or by standard input
	format   string
	hash     string // of the text
	modified int64  // seconds since 1970; 0 for standard input
	lines    []line
	path     string
	blank    int
	buf      []byte
}

// openInput opens a file, or standard input for "-", and indexes its lines. What is compressed (by
// extension) or comes by standard input is written to spool, since it is read more than once.
func openInput(path, format, spool string, stdin io.Reader) (*input, error) {
	switch format {
	case FormatAuto, FormatJSONL, FormatText:
	default:
		return nil, fmt.Errorf("%w: unknown input format %q; use %s or %s", ErrUsage, format, FormatJSONL,
			FormatText)
	}
	if path == "" {
		return nil, fmt.Errorf("%w: a batch job needs an input", ErrUsage)
	}
	in := &input{path: path, format: format}
	err := in.open(path, spool, stdin)
	if err == nil {
		err = in.index()
	}
	if err != nil {
		return nil, errors.Join(&PlaceError{path, 0, err}, in.close())
	}
	return in, nil
}

func (in *input) open(path, spool string, stdin io.Reader) (err error) {
	raw := stdin
	if path != "-" {
		if in.file, err = os.Open(path); err != nil {
			return fmt.Errorf("%w: input: %w", ErrIO, err)
		}
		info, err := in.file.Stat()
		if err != nil {
			return fmt.Errorf("%w: input: %w", ErrIO, err)
		}
		in.modified, raw = info.ModTime().Unix(), in.file
	}
	if raw == nil {
		return fmt.Errorf("%w: the input is standard input, and there is none", ErrUsage)
	}
	plain, err := decompress(path, raw)
	if err != nil {
		return fmt.Errorf("%w: input %s: %w", ErrIO, path, err)
	}
	if plain == nil {
		return nil
	}
	defer plain.Close()
	return in.spool(plain, spool)
}

// decompress returns what makes plain text of a compressed file or of standard input; nil for a
// plain file, which is used as it is.
func decompress(path string, r io.Reader) (io.ReadCloser, error) {
	switch {
	case path == "-":
		return io.NopCloser(r), nil
	case strings.HasSuffix(path, ".gz"):
		return gzip.NewReader(r)
	case strings.HasSuffix(path, ".zst"):
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, nil
}

// spool copies the text to a file beside the journal.
func (in *input) spool(r io.Reader, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	source := in.file
	in.file, in.temp = f, path
	if source != nil {
		defer source.Close()
	}
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("%w: input, copied to %s: %w", ErrIO, filepath.Base(path), err)
	}
	return nil
}

func (in *input) close() error {
	var err error
	if in.file != nil {
		err = in.file.Close()
	}
	if in.temp != "" {
		err = errors.Join(err, os.Remove(in.temp))
	}
	in.file, in.temp = nil, ""
	return err
}

// indexBuffer is read at once while lines are counted.
const indexBuffer = 1 << 20

// scanner finds lines without holding them.
type scanner struct {
	in      *input
	start   int64 // of the line
	bytes   int64 // of the line so far, without its end
	number  int32
	blank   bool
	opening byte // the first character of the line that is not blank
}

// index finds the lines and hashes the text.
func (in *input) index() error {
	if _, err := in.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("%w: input: %w", ErrIO, err)
	}
	hash := xxh3.New()
	r := bufio.NewReaderSize(io.TeeReader(in.file, hash), indexBuffer)
	s := scanner{in: in, number: 1, blank: true}
	if mark, err := r.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
		s.start = int64(len(mark))
		if _, err := r.Discard(len(mark)); err != nil {
			return fmt.Errorf("%w: input: %w", ErrIO, err)
		}
	}
	for {
		part, err := r.ReadSlice('\n')
		s.add(part)
		switch {
		case err == nil:
			if err := s.end(1); err != nil {
				return err
			}
		case errors.Is(err, io.EOF):
			in.hash = hex.EncodeToString(hash.Sum(nil))
			return s.end(0)
		case !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("%w: input: %w", ErrIO, err)
		}
	}
}

const byteOrderMark = "\xef\xbb\xbf"

func (s *scanner) add(part []byte) {
	s.bytes += int64(len(part))
	for _, c := range part {
		if !s.blank {
			break
		}
		if s.blank = c == ' ' || c == '\t' || c == '\r' || c == '\n'; !s.blank {
			s.opening = c
		}
	}
}

// end closes a line; terminator is the length of the line's end.
func (s *scanner) end(terminator int64) error {
	in := s.in
	if !s.blank {
		if len(in.lines) == 0 && in.format == FormatAuto {
			in.format = FormatText
			if s.opening == '{' {
				in.format = FormatJSONL
			}
		}
		if len(in.lines) == requestsMax {
			return fmt.Errorf("%w: the input has more than %d requests", ErrUsage, requestsMax)
		}
		in.lines = append(in.lines, line{offset: s.start, number: s.number,
			bytes: int32(min(s.bytes-terminator, lineBytesMax+1))})
	} else if s.bytes > 0 {
		in.blank++
	}
	s.start += s.bytes
	s.bytes, s.blank = 0, true
	s.number++
	return nil
}

// at says which line a failure is of.
func (in *input) at(l *line, err error) error { return &PlaceError{in.path, int(l.number), err} }

// read returns a line's text, valid until the next call.
func (in *input) read(l *line) ([]byte, error) {
	in.buf = append(in.buf[:0], make([]byte, int(l.bytes))...)
	if _, err := in.file.ReadAt(in.buf, l.offset); err != nil {
		return nil, in.at(l, fmt.Errorf("%w: input: line %d: %w", ErrIO, l.number, err))
	}
	text := in.buf
	if n := len(text); n > 0 && text[n-1] == '\r' {
		text = text[:n-1]
	}
	return text, nil
}

// parse reads a line as a request. A request that is refused may be there beside its error.
func (in *input) parse(l *line, d Defaults) (*Request, *Error, error) {
	if l.bytes > lineBytesMax {
		return nil, Refuse(CodeLineTooLong, "", "the line has more than %d bytes", lineBytesMax), nil
	}
	text, err := in.read(l)
	if err != nil {
		return nil, nil, err
	}
	var r *Request
	var bad *Error
	if in.format == FormatText {
		r, bad = parseText(text, int(l.number), d)
	} else {
		r, bad = parseJSON(text, d)
	}
	return r, bad, nil
}
