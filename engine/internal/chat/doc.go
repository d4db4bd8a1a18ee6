// Package chat renders the chat templates that models ship: the Jinja text in
// tokenizer_config.json, chat_template.jinja or the GGUF key tokenizer.chat_template.
//
// The reference is Python's jinja2 3.1 as Hugging Face transformers sets it up: the immutable
// sandbox, trim_blocks and lstrip_blocks on, the loopcontrols extension, the generation tag, and
// the globals and filters raise_exception, strftime_now and tojson. What the reference renders,
// this package renders byte for byte; where the reference raises, it returns an error. What it does
// not implement is an error that names the construct and its line, never a prompt that differs.
//
// The pipeline is a lexer (lexer.go), a parser (parser.go), a pass that resolves names to scopes as
// the reference compiles them (scopes.go, compile.go), and a tree walk (exec.go, eval.go) over
// Python's values (value.go) with Python's string forms (format.go, json.go).
//
// Errors inside the package travel as panics of *Error and are turned back into errors by Parse and
// Render; no panic leaves an exported function.
package chat

import (
	"errors"
	"fmt"
)

// The three ways a template fails. Every error of this package is an *Error that wraps one of them.
var (
	// ErrTemplate: the reference raises here too. The template is malformed, it called
	// raise_exception, or the conversation does not fit it.
	ErrTemplate = errors.New("template error")
	// ErrUnsupported: the reference accepts this, or may, and the package does not implement it.
	ErrUnsupported = errors.New("not implemented")
	// ErrLimit: a bound of this package was reached.
	ErrLimit = errors.New("limit reached")

	errInternal = errors.New("internal error")
)

// Bounds. All are far above what published templates and long conversations need.
const (
	// sourceBytesMax bounds the template text. The longest published ones are under 32 KiB.
	sourceBytesMax = 256 << 10
	// nestingMax bounds nested brackets, tags and unary operators in the source.
	nestingMax = 200
	// chainMax bounds operators of one precedence and suffixes in a row, as in a+b+c or a.b.c.
	chainMax = 500
	// outputBytesMax bounds the prompt, and any one string the template builds.
	outputBytesMax = 64 << 20
	// workMax bounds the work of one rendering: a byte of a string built costs 1, an expression
	// evaluated or an item of a list built costs stepCost. It holds a rendering under about 1 GiB
	// of memory and 10 s, where published templates need a few milliseconds.
	workMax  = 1 << 30
	stepCost = 16
	// iterationsMax bounds loop passes in one rendering, inner loops counted.
	iterationsMax = 10_000_000
	// namesMax bounds the names of one scope, which every if in it is compared with.
	namesMax = 500
	// callDepthMax bounds nested macro calls and recursive loops. Python stops near 150.
	callDepthMax = 100
	// valueDepthMax bounds how deep lists and mappings nest where they are read or walked.
	valueDepthMax = 200
	// rangeMax is the sandbox's own bound on range().
	rangeMax = 100_000
	// intBitsMax bounds integers. Python's are unbounded, but it prints at most 4300 digits.
	intBitsMax = 8192
)

// Error says where and why a template failed.
type Error struct {
	Template string // the name given to Parse
	Line     int    // line in the template, from 1; 0 where there is none
	Kind     error  // ErrTemplate, ErrUnsupported or ErrLimit
	Message  string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("chat template %s: %v: %s", e.Template, e.Kind, e.Message)
	}
	return fmt.Sprintf("chat template %s: line %d: %v: %s", e.Template, e.Line, e.Kind, e.Message)
}

func (e *Error) Unwrap() error { return e.Kind }

// fail leaves the current evaluation; rescue adds name and line.
func fail(kind error, format string, args ...any) {
	panic(&Error{Kind: kind, Message: fmt.Sprintf(format, args...)})
}

// failAt is fail with a line that is already known.
func failAt(kind error, line int, format string, args ...any) {
	panic(&Error{Kind: kind, Line: line, Message: fmt.Sprintf(format, args...)})
}

// rescue turns a panic into an error. A run-time error of Go is a defect of this package; it is
// reported as one and not allowed to end the process that serves other requests.
func rescue(recovered any, name string, line int) error {
	e, ok := recovered.(*Error)
	if !ok {
		e = &Error{Kind: errInternal, Message: fmt.Sprint(recovered)}
	}
	e.Template = name
	if e.Line == 0 {
		e.Line = line
	}
	return e
}
