package batch

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// fine accepts every request.
func fine(int, *Request) *Error { return nil }

// answer is the response that the tests give to a request.
func answer(r *Request) *Response {
	return &Response{Text: "to " + r.ID, Finish: "stop", PromptTokens: 3, NewTokens: 2}
}

func begin(t *testing.T, o Options) *Job {
	t.Helper()
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Survey(fine); err != nil {
		t.Fatal(err)
	}
	if err := j.Start(Identity{Model: "m", Engine: "e", Fingerprint: "fp"}); err != nil {
		t.Fatal(err, j.Close())
	}
	return j
}

func closeJob(t *testing.T, j *Job) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// work answers up to n requests that are not finished, the last first.
func work(t *testing.T, j *Job, n int) {
	t.Helper()
	if err := j.Refuse(fine); err != nil {
		t.Fatal(err)
	}
	for i := j.Len() - 1; i >= 0 && n > 0; i-- {
		if j.Done(i) {
			continue
		}
		r, err := j.Request(i)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Finish(i, r, answer(r)); err != nil {
			t.Fatal(err)
		}
		n--
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ids are the custom_ids of an output, in order.
func ids(t *testing.T, text string) (out []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		var l struct {
			ID *string `json:"custom_id"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l.ID == nil {
			out = append(out, "null")
			continue
		}
		out = append(out, *l.ID)
	}
	return out
}

const fiveLines = "one\n\n two \nthree\r\n\t\nfour\nfive"

// The same text is the same job, however it comes, and blank lines are none.
func TestInputsOfAllKinds(t *testing.T) {
	dir := t.TempDir()
	var zipped, zstded bytes.Buffer
	g := gzip.NewWriter(&zipped)
	z, err := zstd.NewWriter(&zstded)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{g, z} {
		if _, err := io.WriteString(w, fiveLines); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	plain := write(t, filepath.Join(dir, "in.txt"), fiveLines)
	var want string
	for i, o := range []Options{{Input: plain}, {Input: "-", Stdin: strings.NewReader(fiveLines)},
		{Input: write(t, filepath.Join(dir, "in.txt.gz"), zipped.String())},
		{Input: write(t, filepath.Join(dir, "in.txt.zst"), zstded.String())}} {
		o.Output, o.Created = filepath.Join(dir, fmt.Sprint("out", i)), 5
		j := begin(t, o)
		work(t, j, 9)
		if err := j.Assemble(); err != nil {
			t.Fatal(err)
		}
		closeJob(t, j)
		got := read(t, o.Output)
		if i == 0 {
			want = got
			if s := fmt.Sprint(ids(t, got)); s != "[line-1 line-3 line-4 line-6 line-7]" {
				t.Error(s)
			}
		}
		if got != want {
			t.Errorf("%s: another output", o.Input)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.input"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if _, err := Open(Options{Output: filepath.Join(dir, "x"),
		Input: write(t, filepath.Join(dir, "bad.gz"), zipped.String()[:20])}); !errors.Is(err, ErrIO) {
		t.Errorf("a cut archive: %v", err)
	}
}

// Compressed outputs hold what the plain one does.
func TestCompressedOutputs(t *testing.T) {
	dir := t.TempDir()
	in := write(t, filepath.Join(dir, "in.txt"), fiveLines)
	texts := map[string]string{}
	for _, name := range []string{"o.jsonl", "o.jsonl.gz", "o.jsonl.zst"} {
		j := begin(t, Options{Input: in, Output: filepath.Join(dir, name), Created: 5})
		work(t, j, 9)
		if err := j.Assemble(); err != nil {
			t.Fatal(err)
		}
		closeJob(t, j)
		raw := strings.NewReader(read(t, filepath.Join(dir, name)))
		r, err := decompress(name, raw)
		if err != nil {
			t.Fatal(err)
		}
		if r == nil {
			r = io.NopCloser(raw)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	if texts["o.jsonl"] == "" || texts["o.jsonl.gz"] != texts["o.jsonl"] ||
		texts["o.jsonl.zst"] != texts["o.jsonl"] {
		t.Errorf("%q", texts)
	}
}

const mixedLines = `{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"x"}}
not json
{"custom_id":"b","method":"POST","url":"/v1/completions","body":{"prompt":"x","wrong":1}}
{"custom_id":"c","method":"POST","url":"/v1/completions","body":{"prompt":"x"}}
{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"y"}}
`

// Wherever the end of a job is cut off, the next run puts the same files in place.
func TestEveryStepOfTheEndMayBeTheLast(t *testing.T) {
	var want [2]string
	for step := range 6 {
		dir := t.TempDir()
		o := Options{Input: write(t, filepath.Join(dir, "in"), mixedLines),
			Output: filepath.Join(dir, "out.jsonl"), Created: 5}
		j := begin(t, o)
		work(t, j, 9)
		switch step {
		case 0: // undisturbed
			if err := j.Assemble(); err != nil {
				t.Fatal(err)
			}
		case 1: // nothing was assembled, or only a part of it
			write(t, o.Output+tempSuffix, "half")
		default:
			note := &completion{Finished: 5, Failed: 3}
			var err1, err2 error
			note.Output, err1 = j.assemble(j.o.Output, false)
			note.Errors, err2 = j.assemble(j.o.Errors, true)
			text, err3 := json.Marshal(note)
			_, err4 := j.journal.append(kindComplete, text)
			if step >= 3 {
				err1 = errors.Join(err1, os.Rename(o.Output+tempSuffix, o.Output))
			}
			if step >= 4 {
				err2 = errors.Join(err2, os.Rename(j.o.Errors+tempSuffix, j.o.Errors))
			}
			if step == 5 {
				err3 = errors.Join(err3, j.journal.compact(text))
			}
			if err := errors.Join(err1, err2, err3, err4); err != nil {
				t.Fatal(err)
			}
		}
		closeJob(t, j)
		j = begin(t, o)
		if step != 1 && !j.Complete() {
			t.Errorf("step %d: the job is not complete", step)
		}
		if c := j.Counts(); c.Finished != 5 || c.Failed != 3 || c.Resumed != 5 {
			t.Errorf("step %d: %+v", step, c)
		}
		if err := j.Assemble(); err != nil {
			t.Fatal(err)
		}
		closeJob(t, j)
		got := [2]string{read(t, o.Output), read(t, filepath.Join(dir, "out.errors.jsonl"))}
		if step == 0 {
			want = got
			if fmt.Sprint(ids(t, got[0]), ids(t, got[1])) != "[a c] [null b a]" {
				t.Error(ids(t, got[0]), ids(t, got[1]))
			}
		}
		if got != want {
			t.Errorf("step %d: other outputs", step)
		}
	}
}

// After the end: removing the output runs the job again, changing it is reported, and an output
// that no journal knows is not overwritten unasked.
func TestOutputsThatAreThere(t *testing.T) {
	dir := t.TempDir()
	o := Options{Input: write(t, filepath.Join(dir, "in"), fiveLines),
		Output: filepath.Join(dir, "out.jsonl"), Created: 5}
	j := begin(t, o)
	work(t, j, 9)
	if err := j.Assemble(); err != nil {
		t.Fatal(err)
	}
	closeJob(t, j)
	want := read(t, o.Output)
	if err := os.Remove(o.Output); err != nil {
		t.Fatal(err)
	}
	j = begin(t, o)
	if c := j.Counts(); j.Complete() || c.Finished != 0 {
		t.Errorf("without output: %+v", c)
	}
	work(t, j, 9)
	if err := j.Assemble(); err != nil {
		t.Fatal(err)
	}
	closeJob(t, j)
	if read(t, o.Output) != want {
		t.Error("the second run's output differs")
	}
	write(t, o.Output, "mine")
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Start(Identity{Model: "m", Engine: "e"}); !errors.Is(err, ErrChanged) {
		t.Errorf("a changed output: %v", err)
	}
	closeJob(t, j)
	if err := os.Remove(o.Output + ".journal"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !errors.Is(err, ErrUsage) {
		t.Errorf("an output of nobody: %v", err)
	}
	if _, err := os.Stat(o.Output + ".journal"); err == nil {
		t.Error("the refused job left a journal")
	}
	if read(t, o.Output) != "mine" {
		t.Error("the output was overwritten")
	}
	o.Overwrite = true
	closeJob(t, begin(t, o))
}

// Streams give out what is finished, at once or in order, beginning with what the journal has.
func TestStreams(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		dir := t.TempDir()
		var first, second bytes.Buffer
		o := Options{Input: write(t, filepath.Join(dir, "in"), fiveLines), Output: "-",
			Journal: filepath.Join(dir, "j"), Ordered: ordered, Stdout: &first, Created: 5,
			Errors: filepath.Join(dir, "e"), Follow: filepath.Join(dir, "f")}
		j := begin(t, o)
		work(t, j, 2)
		closeJob(t, j)
		want := "[line-7 line-6]"
		if ordered {
			want = "[]"
		}
		if got := fmt.Sprint(ids(t, first.String())); got != want {
			t.Errorf("ordered %v: %s", ordered, got)
		}
		o.Stdout = &second
		j = begin(t, o)
		work(t, j, 9)
		if err := j.Assemble(); err != nil {
			t.Fatal(err)
		}
		closeJob(t, j)
		want = "[line-6 line-7 line-4 line-3 line-1]" // the journal's in the order of the input
		if ordered {
			want = "[line-1 line-3 line-4 line-6 line-7]"
		}
		if got := fmt.Sprint(ids(t, second.String())); got != want {
			t.Errorf("ordered %v: %s", ordered, got)
		}
		if read(t, o.Follow) != second.String() {
			t.Error("the file that follows has something else")
		}
	}
}

// A line that cannot be written ends the job with a clear error, and its journal keeps the answer.
func TestUnwritableOutputs(t *testing.T) {
	dir := t.TempDir()
	in := write(t, filepath.Join(dir, "in"), fiveLines)
	if _, err := os.Stat("/dev/full"); err == nil {
		o := Options{Input: in, Output: filepath.Join(dir, "o"), Follow: "/dev/full"}
		j := begin(t, o)
		r, err := j.Request(0)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Finish(0, r, answer(r)); !errors.Is(err, ErrIO) {
			t.Errorf("%v", err)
		}
		closeJob(t, j)
		o.Follow = ""
		j = begin(t, o)
		if !j.Done(0) || j.Counts().Finished != 1 {
			t.Error("the answer is lost")
		}
		closeJob(t, j)
	}
	o := Options{Input: in, Output: filepath.Join(dir, "missing", "o"), Journal: filepath.Join(dir, "j2")}
	j := begin(t, o)
	work(t, j, 9)
	if err := j.Assemble(); !errors.Is(err, ErrIO) {
		t.Errorf("%v", err)
	}
	closeJob(t, j)
	if err := os.Mkdir(filepath.Join(dir, "missing"), 0o700); err != nil {
		t.Fatal(err)
	}
	j = begin(t, o)
	if err := j.Assemble(); err != nil {
		t.Errorf("once there is a folder: %v", err)
	}
	closeJob(t, j)
}

func TestJobsThatMakeNoSense(t *testing.T) {
	dir := t.TempDir()
	in := write(t, filepath.Join(dir, "in"), "x\n")
	for name, o := range map[string]Options{
		"no output":       {Input: in},
		"no input":        {Output: filepath.Join(dir, "o1")},
		"output is input": {Input: in, Output: in},
		"format":          {Input: in, Output: filepath.Join(dir, "o2"), Format: "xml"},
		"no stdin":        {Input: "-", Output: filepath.Join(dir, "o3")},
		"no stdout":       {Input: in, Output: "-"},
		"sync":            {Input: in, Output: filepath.Join(dir, "o4"), Sync: -1},
	} {
		if _, err := Open(o); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(Options{Input: filepath.Join(dir, "none"),
		Output: filepath.Join(dir, "o")}); !errors.Is(err, ErrIO) {
		t.Errorf("no such input: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%v are left, %v", files, err)
	}
}

// What was half done is there for the next run, once, unless it was finished meanwhile.
func TestPartialStates(t *testing.T) {
	dir := t.TempDir()
	o := Options{Input: write(t, filepath.Join(dir, "in"), fiveLines),
		Output: filepath.Join(dir, "out.jsonl")}
	j := begin(t, o)
	for i, s := range []string{"zero", "one", "zero again"} {
		if err := j.SavePartial(i%2, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := j.Request(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Finish(1, r, answer(r)); err != nil {
		t.Fatal(err)
	}
	closeJob(t, j)
	j = begin(t, o)
	if s := string(j.Partial(0)); s != "zero again" {
		t.Errorf("%q", s)
	}
	if j.Partial(0) != nil || j.Partial(1) != nil {
		t.Error("a state is there twice, or of a finished request")
	}
	closeJob(t, j)
}

// No line makes the reader of requests crash, and a refusal names its code.
func FuzzRequest(f *testing.F) {
	for line := range strings.Lines(mixedLines) {
		f.Add([]byte(line))
	}
	f.Add([]byte(`{"custom_id":"c","method":"POST","url":"/v1/chat/completions","body":{"messages":` +
		`[{"role":"user","content":[{"type":"text","text":"x"}]}],"stop":["a"],"seed":-1,"top_p":0}}`))
	f.Add([]byte(`{"custom_id":"e","method":"POST","url":"/v1/embeddings","body":{"input":[[1,2],[3]]}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, bad := parseJSON(line, Defaults{MaxTokens: 1, Temperature: 1, TopP: 1})
		if (bad == nil) && (r == nil || r.ID == "" || r.Kind == Chat && len(r.Messages) == 0 ||
			r.Kind != Chat && len(r.Inputs) == 0) {
			t.Errorf("%q: %+v", line, r)
		}
		if bad != nil && (bad.Code == "" || bad.Message == "" || bad.Status < 400) {
			t.Errorf("%q: %+v", line, bad)
		}
		s := served{name: "m"}
		if bad != nil {
			text, err := s.refusal(r, bad, 1)
			if err != nil || !json.Valid(text) {
				t.Errorf("%q: %q, %v", line, text, err)
			}
		}
	})
}

// Whatever a file holds, plain or compressed, its lines are found, or it is said that it cannot be
// read; never another number of lines than the text has.
func FuzzInput(f *testing.F) {
	f.Add([]byte(fiveLines), byte(0))
	f.Add([]byte(mixedLines), byte(0))
	f.Add([]byte(byteOrderMark+"{}\n\n \r\n{"), byte(0))
	var zipped, zstded bytes.Buffer
	g := gzip.NewWriter(&zipped)
	z, err := zstd.NewWriter(&zstded)
	if err != nil {
		f.Fatal(err)
	}
	for _, w := range []io.WriteCloser{g, z} {
		if _, err := io.WriteString(w, fiveLines); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(zipped.Bytes(), byte(1))
	f.Add(zstded.Bytes(), byte(2))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte, kind byte) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid())+[]string{"", ".gz", ".zst"}[kind%3])
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := openInput(path, FormatAuto, path+".spool", nil)
		if err != nil {
			if kind%3 == 0 || !errors.Is(err, ErrIO) {
				t.Fatal(err)
			}
			return
		}
		defer in.close()
		plain := text
		if in.temp != "" {
			if plain, err = os.ReadFile(in.temp); err != nil {
				t.Fatal(err)
			}
		}
		plain = bytes.TrimPrefix(plain, []byte(byteOrderMark))
		var want [][]byte
		for _, l := range bytes.Split(plain, []byte{'\n'}) {
			if len(bytes.Trim(l, " \t\r")) > 0 {
				want = append(want, bytes.TrimSuffix(l, []byte{'\r'}))
			}
		}
		if len(in.lines) != len(want) {
			t.Fatalf("%d lines, want %d", len(in.lines), len(want))
		}
		for i := range want {
			if got, err := in.read(&in.lines[i]); err != nil || !bytes.Equal(got, want[i]) {
				t.Fatalf("line %d is %q, want %q; %v", i, got, want[i], err)
			}
			if r, bad, err := in.parse(&in.lines[i], Defaults{}); err != nil || (r == nil) && bad == nil {
				t.Fatalf("%q: %v, %v", want[i], bad, err)
			}
		}
	})
}
