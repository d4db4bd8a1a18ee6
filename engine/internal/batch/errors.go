package batch

import (
	"encoding/json"
	"fmt"
)

// Error is why one request was refused. Codes and their meaning are listed in docs/batch.md.
type Error struct {
	Status  int    // as HTTP has it
	Code    string // one of the Code constants
	Param   string // the field at fault, such as "messages[1].content"; "" if none
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// The codes of refused requests.
const (
	CodeInvalidJSON     = "invalid_json"
	CodeInvalidUTF8     = "invalid_utf8"
	CodeLineTooLong     = "line_too_long"
	CodeCustomID        = "invalid_custom_id"
	CodeDuplicateID     = "duplicate_custom_id"
	CodeMethod          = "unsupported_method"
	CodeURL             = "unsupported_url"
	CodeMissing         = "missing_required_parameter"
	CodeUnknown         = "unknown_parameter"
	CodeUnsupported     = "unsupported_parameter"
	CodeType            = "invalid_type"
	CodeValue           = "invalid_value"
	CodeModel           = "model_not_found"
	CodeContext         = "context_length_exceeded"
	CodeModelCannot     = "unsupported_by_model"
	CodeServer          = "server_error"
	statusBadRequest    = 400
	statusNotFound      = 404
	statusServerFailure = 500
)

// Refuse makes the error of a request that asks for something wrong.
func Refuse(code, param, format string, args ...any) *Error {
	status := statusBadRequest
	switch code {
	case CodeModel:
		status = statusNotFound
	case CodeServer:
		status = statusServerFailure
	}
	return &Error{Status: status, Code: code, Param: param, Message: fmt.Sprintf(format, args...)}
}

// kind is OpenAI's "type" of an error.
func (e *Error) kind() string {
	if e.Status >= statusServerFailure {
		return "server_error"
	}
	return "invalid_request_error"
}

// PlaceError is a failure of a job's file, and where in it.
type PlaceError struct {
	File string
	Line int // counted from 1; 0: no one line
	Err  error
}

func (e *PlaceError) Error() string { return e.Err.Error() }

func (e *PlaceError) Unwrap() error { return e.Err }

// ofLine reports an error that leaves no request to answer.
func (e *Error) ofLine() bool {
	switch e.Code {
	case CodeInvalidJSON, CodeInvalidUTF8, CodeLineTooLong, CodeCustomID:
		return true
	}
	return false
}

// quote repeats outside text in a message, shortened, on one line.
func quote(s string) string {
	if len(s) > errorQuoteBytes {
		s = s[:errorQuoteBytes] + "…"
	}
	text, err := json.Marshal(s)
	if err != nil {
		return "?"
	}
	return string(text)
}
