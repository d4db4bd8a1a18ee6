// Package batch is the paperwork of an offline job: it reads requests in OpenAI's batch format or as
// one prompt a line, keeps a journal from which a killed job goes on, and writes the results in
// OpenAI's form. It knows nothing of models: whoever computes asks a Job for requests and hands
// back responses.
//
// A job's memory is an index of a few dozen bytes a request and whatever requests are in flight;
// lines stay in the input file, results in the journal.
package batch

import "errors"

// The ways a job as a whole fails; a request that is refused is an *Error instead, and the job goes
// on.
var (
	// ErrUsage: options that make no sense.
	ErrUsage = errors.New("wrong use")
	// ErrIO: a file of the job cannot be read or written. The journal is intact.
	ErrIO = errors.New("I/O failed")
	// ErrChanged: the journal belongs to another input, model or options.
	ErrChanged = errors.New("the journal was begun with something else")
	// ErrLocked: another process works on the job.
	ErrLocked = errors.New("the job is running already")
	// ErrJournal: the file is no journal, or damaged where no crash can have damaged it.
	ErrJournal = errors.New("not a journal of this program")
)

// Bounds on an input. Beyond the line's, the request is refused; beyond the others, the job.
const (
	lineBytesMax    = 8 << 20
	requestsMax     = 1 << 24
	customIDMax     = 512 // bytes
	messagesMax     = 4096
	inputsMax       = 2048 // of one embeddings request
	stopsMax        = 16
	stopBytesMax    = 256
	topLogProbsMax  = 20
	tokensMax       = 1 << 24 // that a request may ask for
	temperatureMax  = 2
	recordBytesMax  = 256 << 20 // of the journal
	errorQuoteBytes = 64        // of outside text that a message repeats
)
