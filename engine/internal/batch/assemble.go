package batch

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"
)

// A job ends in steps, each of which may be the last that a killed process made: output and error
// file are assembled in the order of the input under temporary names and synced; the journal notes
// their hashes; they are renamed; the journal is replaced by the note alone. An earlier step is
// repeated by the next run, a later one found done.

// completion is the note: what the outputs of a complete job are.
type completion struct {
	Finished int      `json:"finished"`
	Failed   int      `json:"failed"`
	Output   assembly `json:"output"`
	Errors   assembly `json:"errors"`
}

// assembly is one assembled file; the zero value is none.
type assembly struct {
	Bytes int64  `json:"bytes"`
	Hash  uint64 `json:"hash"` // xxh3 of the file as it is
	There bool   `json:"there"`
}

const tempSuffix = ".tmp"

// Assemble writes the output and, where a request was refused, the error file, in the order of the
// input, and puts them in place at once. Every request must be finished. Without refusals an error
// file of an earlier job is removed.
func (j *Job) Assemble() error {
	if j.finish != nil {
		return nil
	}
	if j.finished != len(j.in.lines) {
		return fmt.Errorf("%w: %d of %d requests are finished", ErrUsage, j.finished, len(j.in.lines))
	}
	for _, s := range j.streams {
		if err := s.flush(); err != nil {
			return err
		}
	}
	done := &completion{Finished: j.finished, Failed: j.failed}
	var err error
	if j.o.Output != "-" {
		if done.Output, err = j.assemble(j.o.Output, false); err != nil {
			return err
		}
	}
	if j.failed > 0 {
		if done.Errors, err = j.assemble(j.o.Errors, true); err != nil {
			return err
		}
	}
	text, err := json.Marshal(done)
	if err != nil {
		return err
	}
	if _, err := j.journal.append(kindComplete, text); err != nil {
		return err
	}
	if err := j.journal.sync(); err != nil {
		return err
	}
	j.finish = done
	return j.place(text)
}

// place renames the assembled files and shrinks the journal.
func (j *Job) place(note []byte) error {
	for _, f := range []struct {
		path string
		a    assembly
	}{{j.o.Output, j.finish.Output}, {j.o.Errors, j.finish.Errors}} {
		err := error(nil)
		switch {
		case f.a.There:
			if err = os.Rename(f.path+tempSuffix, f.path); err == nil {
				err = syncDir(f.path)
			}
		case f.path == j.o.Errors:
			if err = os.Remove(f.path); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrIO, err)
		}
	}
	if j.o.Output == "-" {
		return nil // the results are in the journal alone
	}
	return j.journal.compact(note)
}

// redo deals with a journal that says its job is complete: outputs that a killed run left under
// their temporary names are put in place; if they are there and unchanged nothing is to be done; if
// the output was removed, the job begins anew.
func (j *Job) redo() error {
	if j.finish == nil {
		return nil
	}
	for _, f := range []struct {
		path string
		a    assembly
	}{{j.o.Output, j.finish.Output}, {j.o.Errors, j.finish.Errors}} {
		if !f.a.There {
			continue
		}
		if now, err := hashFile(f.path); err == nil && now == f.a {
			continue
		}
		if now, err := hashFile(f.path + tempSuffix); err == nil && now == f.a {
			continue // assembled, and not put in place
		}
		if _, err := os.Stat(f.path); err == nil && j.finished == 0 {
			return fmt.Errorf("%w: %s is not what the job wrote when it was completed; move it away, or "+
				"remove %s, to run the job again", ErrChanged, f.path, j.o.Journal)
		}
		return j.anew()
	}
	return j.resume()
}

// anew forgets that the job was complete. Results that the journal still has are kept.
func (j *Job) anew() error {
	j.finish = nil
	if j.finished > 0 {
		return nil
	}
	j.fresh = true
	return j.journal.begin(j.journal.header)
}

// resume puts in place what an earlier run assembled.
func (j *Job) resume() error {
	for _, f := range []struct {
		path string
		a    *assembly
	}{{j.o.Output, &j.finish.Output}, {j.o.Errors, &j.finish.Errors}} {
		if now, err := hashFile(f.path + tempSuffix); f.a.There && err == nil && now == *f.a {
			if err := os.Rename(f.path+tempSuffix, f.path); err != nil {
				return fmt.Errorf("%w: %w", ErrIO, err)
			}
		}
	}
	j.compacted = j.finished == 0
	j.finished, j.failed = j.finish.Finished, j.finish.Failed
	j.resumed = j.finished
	return nil
}

func hashFile(path string) (assembly, error) {
	f, err := os.Open(path)
	if err != nil {
		return assembly{}, err
	}
	defer f.Close()
	h := xxh3.New()
	n, err := io.Copy(h, f)
	return assembly{n, h.Sum64(), true}, err
}

// assemble writes the results, or the refusals, under the temporary name of a file.
func (j *Job) assemble(path string, failed bool) (a assembly, err error) {
	f, err := os.OpenFile(path+tempSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrIO, err)
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = fmt.Errorf("%w: %w", ErrIO, e)
		}
	}()
	h := xxh3.New()
	count := &counter{w: io.MultiWriter(f, h)}
	w, err := compressTo(path, count)
	if err != nil {
		return a, err
	}
	for i := range j.in.lines {
		if j.in.lines[i].failed != failed {
			continue
		}
		text, err := j.line(i)
		if err != nil {
			return a, err
		}
		if err := writeLine(w, text); err != nil {
			return a, fmt.Errorf("%w: %s: %w; the journal is intact", ErrIO, path, err)
		}
	}
	if err = errors.Join(w.Close(), f.Sync()); err != nil {
		return a, fmt.Errorf("%w: %s: %w; the journal is intact", ErrIO, path, err)
	}
	return assembly{count.n, h.Sum64(), true}, nil
}

func writeLine(w io.Writer, text []byte) error {
	_, err := w.Write(text)
	if err == nil {
		_, err = w.Write([]byte{'\n'})
	}
	return err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// outputBuffer gathers small lines.
const outputBuffer = 256 << 10

// compressTo buffers, and compresses by extension. The same lines give the same bytes.
func compressTo(path string, w io.Writer) (io.WriteCloser, error) {
	var to io.WriteCloser = nopCloser{w}
	switch {
	case strings.HasSuffix(path, ".gz"):
		to = gzip.NewWriter(w)
	case strings.HasSuffix(path, ".zst"):
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrIO, err)
		}
		to = z
	}
	return buffered{bufio.NewWriterSize(to, outputBuffer), to}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// buffered is a buffer before something that is closed after it.
type buffered struct {
	*bufio.Writer
	to io.WriteCloser
}

func (b buffered) Close() error { return errors.Join(b.Flush(), b.to.Close()) }
