package tokenizer

import (
	"errors"
	"fmt"
)

var (
	// ErrFormat: the description of the tokenizer contradicts itself or cannot be read.
	ErrFormat = errors.New("malformed tokenizer")
	// ErrUnsupported: a component or an option of the tokenizer that this package does not have.
	ErrUnsupported = errors.New("unsupported tokenizer")
	// ErrPattern: a split pattern took too long, or too much memory, on a text.
	ErrPattern = errors.New("split pattern failed")
)

func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}
