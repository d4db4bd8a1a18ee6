package batch

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// stream gives results out while the job runs: as they finish, or in the order of the input. It
// begins with what the journal has, so that what one run writes is whole.
type stream struct {
	path    string
	ordered bool
	w       io.Writer
	file    *os.File // to close; nil for standard output
	next    int      // of an ordered stream: the first request that was not given out
}

func (j *Job) openStreams() error {
	if j.o.Output == "-" {
		j.streams = append(j.streams, &stream{path: "standard output", ordered: j.o.Ordered,
			w: j.o.Stdout})
	}
	if j.o.Follow != "" && !j.compacted {
		f, err := os.OpenFile(j.o.Follow, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrIO, err)
		}
		j.streams = append(j.streams, &stream{path: j.o.Follow, ordered: j.o.Ordered, w: f, file: f})
	}
	for _, s := range j.streams {
		for i := range j.in.lines {
			if err := s.finished(j, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// finished is called when request i is.
func (s *stream) finished(j *Job, i int) error {
	if !s.ordered {
		return s.give(j, i)
	}
	for s.next < len(j.in.lines) && j.in.lines[s.next].at != 0 {
		if err := s.give(j, s.next); err != nil {
			return err
		}
		s.next++
	}
	return nil
}

// give writes an answer; refusals go to the error file alone.
func (s *stream) give(j *Job, i int) error {
	if j.in.lines[i].at == 0 || j.in.lines[i].failed {
		return nil
	}
	text, err := j.line(i)
	if err != nil {
		return err
	}
	if _, err := s.w.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("%w: %s: %w; the journal is intact", ErrIO, s.path, err)
	}
	return nil
}

// flush makes what a file got safe.
func (s *stream) flush() error {
	if s.file == nil {
		return nil
	}
	if err := s.file.Sync(); err != nil && !errors.Is(err, os.ErrInvalid) {
		return fmt.Errorf("%w: %s: %w", ErrIO, s.path, err)
	}
	return nil
}

func (s *stream) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
