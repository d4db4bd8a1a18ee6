package batch

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
)

// Options says what a job reads and writes. Paths may be "-" where it is said.
type Options struct {
	Input     string // "-": Stdin; .gz and .zst are decompressed
	Format    string
	Output    string // "-": results go to Stdout as a stream; .gz and .zst are compressed
	Errors    string // "": beside the output
	Journal   string // "": beside the output, or a temporary one where that is a stream
	Follow    string // a stream of results to a file as well, beginning with what the journal has
	Overwrite bool   // an output that is there when the job begins
	Ordered   bool   // the streams are in the order of the input rather than as finished
	Stdin     io.Reader
	Stdout    io.Writer

	Sync     time.Duration // interval of syncing the journal; 0: SyncDefault
	Created  int64         // of every response; 0: when the input was last changed
	Defaults Defaults
	Names    []string // of the model that requests may give, the first for those that give none
}

// Identity is what decides results beside the input and the options above.
type Identity struct {
	Model       string // identifies the weights
	Engine      string // how they are computed with
	Fingerprint string // of both, for responses
}

// SyncDefault is the longest that a finished request stays unsynced.
const SyncDefault = time.Second

// Job is an open batch job. Its methods are called by one goroutine at a time.
type Job struct {
	o       Options
	in      *input
	journal *journal
	served  served
	temp    string // the journal's path, if it is not to stay
	streams []*stream
	finish  *completion // what the outputs are, once the job is complete
	// compacted: an earlier run completed the job, and the journal holds no results any more.
	compacted bool

	fresh    bool
	finished int
	failed   int
	resumed  int // finished by earlier runs
	partial  map[int][]byte
}

// Open locks the journal, which is created if there is none, and indexes the input. Survey and Start
// follow.
func Open(o Options) (*Job, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	j := &Job{o: o, partial: map[int][]byte{}}
	if err := j.open(); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// Look opens a job that is only surveyed: without journal and outputs, nothing is written.
func Look(o Options) (*Job, error) {
	f, err := os.CreateTemp("", "moering-batch-*.input")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIO, err)
	}
	spool := f.Name()
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIO, err)
	}
	j := &Job{o: o}
	if j.in, err = openInput(o.Input, o.Format, spool, o.Stdin); err != nil || j.in.temp == "" {
		err = errors.Join(err, removeIfThere(spool))
	}
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// complete fills in the paths that follow from others.
func (o *Options) complete() error {
	if o.Output == "" {
		return fmt.Errorf("%w: a batch job needs an output", ErrUsage)
	}
	base := o.Output
	if base == "-" {
		if o.Stdout == nil {
			return fmt.Errorf("%w: the output is standard output, and there is none", ErrUsage)
		}
		base = "batch.jsonl" // beside which the error file is
	} else if o.Journal == "" {
		o.Journal = base + ".journal"
	}
	if o.Errors == "" {
		o.Errors = errorsBeside(base)
	}
	if o.Sync == 0 {
		o.Sync = SyncDefault
	}
	if o.Sync < 0 {
		return fmt.Errorf("%w: a negative sync interval", ErrUsage)
	}
	return o.distinct()
}

// errorsBeside is out.errors.jsonl beside out.jsonl, also where that is compressed.
func errorsBeside(output string) string {
	for _, zip := range []string{".gz", ".zst", ""} {
		if name, ok := strings.CutSuffix(output, zip); ok {
			ext := filepath.Ext(name)
			return strings.TrimSuffix(name, ext) + ".errors.jsonl" + zip
		}
	}
	return output + ".errors.jsonl"
}

// distinct refuses a job that would write over its own input.
func (o *Options) distinct() error {
	names := map[string]string{}
	for _, f := range []struct{ what, path string }{{"input", o.Input}, {"output", o.Output},
		{"errors", o.Errors}, {"journal", o.Journal}, {"follow", o.Follow}} {
		if f.path == "" || f.path == "-" {
			continue
		}
		path, err := filepath.Abs(f.path)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrUsage, f.what, err)
		}
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		if other, taken := names[path]; taken {
			return fmt.Errorf("%w: %s and %s are the same file, %s", ErrUsage, other, f.what, f.path)
		}
		names[path] = f.what
	}
	return nil
}

func (j *Job) open() error {
	o := &j.o
	if o.Journal == "" {
		f, err := os.CreateTemp("", "moering-batch-*.journal")
		if err != nil {
			return fmt.Errorf("%w: %w", ErrIO, err)
		}
		o.Journal, j.temp = f.Name(), f.Name()
		if err := f.Close(); err != nil {
			return fmt.Errorf("%w: %w", ErrIO, err)
		}
	}
	var err error
	if j.journal, err = openJournal(o.Journal); err != nil {
		return err
	}
	if err := j.mayBegin(); err != nil {
		return err
	}
	j.in, err = openInput(o.Input, o.Format, o.Journal+".input", o.Stdin)
	return err
}

// Start reads the journal, or begins it, and finds out what is finished. The answers of a job do not
// depend on when it is called, so that what Survey finds may decide how the model is opened.
func (j *Job) Start(id Identity) error {
	o := &j.o
	want := header{Input: j.in.hash, Requests: len(j.in.lines), Model: id.Model,
		Options: o.options(id.Engine, j.in.format), Created: o.Created}
	if want.Created == 0 {
		want.Created = j.in.modified
	}
	if want.Created == 0 {
		want.Created = time.Now().Unix()
	}
	var err error
	if j.fresh, err = j.journal.start(want, o.Sync, j.replay); err != nil {
		return err
	}
	j.resumed = j.finished
	j.served = served{created: j.journal.header.Created, fingerprint: id.Fingerprint}
	if len(o.Names) > 0 {
		j.served.name = o.Names[0]
	}
	if err := j.redo(); err != nil {
		return err
	}
	return j.openStreams()
}

// mayBegin refuses to begin a job whose output is there already.
func (j *Job) mayBegin() error {
	info, err := j.journal.file.Stat()
	if err != nil {
		return fmt.Errorf("%w: journal: %w", ErrIO, err)
	}
	if info.Size() > 0 || j.o.Output == "-" || j.o.Overwrite {
		return nil
	}
	if _, err := os.Stat(j.o.Output); err == nil {
		return fmt.Errorf("%w: %s is there already, and no journal of a job that writes it; move it away "+
			"or ask to overwrite it", ErrUsage, j.o.Output)
	}
	return nil
}

// options is what decides results beside input and model.
func (o *Options) options(engine, format string) string {
	d := o.Defaults
	return fmt.Sprintf("%s, format %s, names %v, max tokens %d, temperature %v, top-p %v, seed %d, "+
		"chat %v, created %d", engine, format, o.Names, d.MaxTokens, d.Temperature, d.TopP, d.Seed,
		d.ChatText, o.Created)
}

// replay takes one record of the journal.
func (j *Job) replay(kind byte, offset int64, payload []byte) error {
	if kind == kindComplete {
		j.finish = &completion{}
		if err := json.Unmarshal(payload[1:], j.finish); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrJournal, j.journal.path, err)
		}
		return nil
	}
	if len(payload) < resultHead {
		return fmt.Errorf("%w: %s: a short record", ErrJournal, j.journal.path)
	}
	i := int(binary.LittleEndian.Uint32(payload[1:]))
	if i >= len(j.in.lines) {
		return fmt.Errorf("%w: %s: request %d of %d", ErrJournal, j.journal.path, i, len(j.in.lines))
	}
	switch kind {
	case kindResult, kindError:
		j.mark(i, kind == kindError, offset, len(payload))
	case kindPartial:
		j.partial[i] = slices.Clone(payload[resultHead:])
	default:
		return fmt.Errorf("%w: %s: a record of kind %q", ErrJournal, j.journal.path, kind)
	}
	return nil
}

const resultHead = 5 // kind and request

// mark notes where a result is.
func (j *Job) mark(i int, failed bool, offset int64, size int) {
	l := &j.in.lines[i]
	if l.at == 0 {
		j.finished++
		if failed {
			j.failed++
		}
	}
	l.at, l.size, l.failed = offset, int32(size), failed
	delete(j.partial, i)
}

// Survey reads every request, in order, and asks measure what is wrong with it. Nothing is recorded
// yet: Refuse does that, after Start.
func (j *Job) Survey(measure func(i int, r *Request) *Error) error {
	seen := make(map[xxh3.Uint128]struct{}, len(j.in.lines))
	for i := range j.in.lines {
		l := &j.in.lines[i]
		r, bad, err := j.in.parse(l, j.o.Defaults)
		if err != nil {
			return err
		}
		if r != nil {
			h := xxh3.HashString128(r.ID)
			_, l.twice = seen[h]
			seen[h] = struct{}{}
		}
		l.bad = j.judge(i, r, bad, measure) != nil
	}
	return nil
}

// judge finds the reason to refuse a request, if there is one.
func (j *Job) judge(i int, r *Request, bad *Error, measure func(int, *Request) *Error) *Error {
	switch {
	case r != nil && j.in.lines[i].twice:
		return Refuse(CodeDuplicateID, "custom_id", "custom_id %s was used before", quote(r.ID))
	case bad != nil:
		return bad
	case !j.serves(r.Model):
		return Refuse(CodeModel, "model", "model %s is not served; it is %s, or leave it out",
			quote(r.Model), quote(j.o.Names[0]))
	}
	return measure(i, r)
}

// Refuse finishes the requests that Survey found to be wrong.
func (j *Job) Refuse(measure func(i int, r *Request) *Error) error {
	for i := range j.in.lines {
		l := &j.in.lines[i]
		if !l.bad || l.at != 0 {
			continue
		}
		r, bad, err := j.in.parse(l, j.o.Defaults)
		if err != nil {
			return err
		}
		if bad = j.judge(i, r, bad, measure); bad == nil {
			return j.in.at(l, fmt.Errorf("%w: input: line %d changed while the job ran", ErrIO, l.number))
		}
		if err := j.refuse(i, r, bad); err != nil {
			return err
		}
	}
	return nil
}

// Len is the number of requests.
func (j *Job) Len() int { return len(j.in.lines) }

// Refused reports that Survey found something wrong with request i.
func (j *Job) Refused(i int) bool { return j.in.lines[i].bad }

// AnyName among the names of the model lets requests name what they like.
const AnyName = "*"

func (j *Job) serves(name string) bool {
	return name == "" || len(j.o.Names) == 0 || slices.Contains(j.o.Names, name) || slices.Contains(j.o.Names, AnyName)
}

// Request reads request i again.
func (j *Job) Request(i int) (*Request, error) {
	l := &j.in.lines[i]
	r, bad, err := j.in.parse(l, j.o.Defaults)
	if err == nil && bad != nil {
		err = j.in.at(l, fmt.Errorf("%w: input: line %d changed while the job ran: %w", ErrIO, l.number, bad))
	}
	return r, err
}

// Finish keeps the answer to request i.
func (j *Job) Finish(i int, r *Request, a *Response) error {
	text, err := j.served.result(r, a)
	if err != nil { // a number that JSON does not have
		return j.refuse(i, r, Refuse(CodeServer, "", "the answer cannot be written: %v", err))
	}
	return j.record(i, kindResult, text)
}

// Fail keeps the refusal of request i.
func (j *Job) Fail(i int, r *Request, e *Error) error { return j.refuse(i, r, e) }

func (j *Job) refuse(i int, r *Request, e *Error) error {
	text, err := j.served.refusal(r, e, j.in.lines[i].number)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return j.record(i, kindError, text)
}

func (j *Job) record(i int, kind byte, text []byte) error {
	offset, err := j.journal.append(kind, binary.LittleEndian.AppendUint32(nil, uint32(i)), text)
	if err != nil {
		return err
	}
	j.mark(i, kind == kindError, offset, resultHead+len(text))
	for _, s := range j.streams {
		if err := s.finished(j, i); err != nil {
			return err
		}
	}
	return nil
}

// SavePartial keeps what the engine has of a request that is not finished, so that a later run need
// not compute it again.
func (j *Job) SavePartial(i int, state []byte) error {
	_, err := j.journal.append(kindPartial, binary.LittleEndian.AppendUint32(nil, uint32(i)), state)
	return err
}

// Partial returns what SavePartial kept of request i, once; nil if nothing.
func (j *Job) Partial(i int) []byte {
	p := j.partial[i]
	delete(j.partial, i)
	return p
}

// line returns the rendered result of request i, valid until the next call.
func (j *Job) line(i int) ([]byte, error) {
	l := &j.in.lines[i]
	b, err := j.journal.read(l.at, int(l.size))
	if err != nil {
		return nil, err
	}
	return b[resultHead:], nil
}

// Done reports whether request i is finished, by an answer or a refusal.
func (j *Job) Done(i int) bool { return j.in.lines[i].at != 0 }

// Counts are a job's requests.
type Counts struct {
	Requests int // in the input
	Finished int // answered or refused
	Failed   int // of these, refused
	Resumed  int // of the finished, those that earlier runs finished
}

// Counts returns how far the job is.
func (j *Job) Counts() Counts {
	return Counts{len(j.in.lines), j.finished, j.failed, j.resumed}
}

// Complete reports that an earlier run finished the job, outputs and all.
func (j *Job) Complete() bool { return j.finish != nil }

// Cut is how many bytes of a torn record were cut off the journal's end.
func (j *Job) Cut() int64 { return j.journal.cut }

// Resumed reports that the journal was there before.
func (j *Job) Resumed() bool { return !j.fresh }

// Paths returns where output, errors and journal are.
func (j *Job) Paths() (output, errors, journal string) {
	return j.o.Output, j.o.Errors, j.o.Journal
}

// Sync makes what is finished safe from a power failure.
func (j *Job) Sync() error { return j.journal.sync() }

// Close gives files and lock back; the journal stays, unless it was a temporary one. It may be
// called twice.
func (j *Job) Close() error {
	var errs []error
	for _, s := range j.streams {
		errs = append(errs, s.close())
	}
	if j.in != nil {
		errs = append(errs, j.in.close())
	}
	if j.journal != nil {
		errs = append(errs, j.journal.close())
	}
	if j.temp != "" {
		errs = append(errs, removeIfThere(j.temp))
	}
	j.streams, j.in, j.journal, j.temp = nil, nil, nil, ""
	return errors.Join(errs...)
}
