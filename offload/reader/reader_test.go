package reader

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hangLimit is how long a test waits for what must come: far more than anything here takes.
const hangLimit = 30 * time.Second

// aligned returns n bytes whose address is a multiple of Align.
func aligned(n int) []byte {
	b := make([]byte, n+Align)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & (Align - 1))
	return b[skip : skip+n : skip+n]
}

// noise returns n random bytes.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// corpus is files of awkward sizes: empty, under a block, whole blocks, with a tail.
var corpusSizes = []int{0, 1, 511, 4096, 4097, 3*4096 + 1234, 1 << 20, 2<<20 + 77777}

func writeCorpus(t testing.TB) (names []string, data [][]byte) {
	t.Helper()
	dir := t.TempDir()
	for i, n := range corpusSizes {
		name := filepath.Join(dir, fmt.Sprintf("file%d", i))
		b := noise(uint64(i), n)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		names, data = append(names, name), append(data, b)
	}
	return names, data
}

// kind is a reader that all tests of behaviour run against.
type kind struct {
	name string
	open func(t testing.TB, names []string, data [][]byte, o Options) Reader
}

func must[R Reader](t testing.TB, r R, err error) Reader {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// uringOrSkip skips where the system refuses io_uring and nothing else is wrong.
func uringOrSkip(t testing.TB, names []string, o Options) Reader {
	t.Helper()
	r, err := OpenUring(names, o)
	if errors.Is(err, ErrUnsupported) {
		t.Skipf("io_uring is not to be had here: %v", err)
	}
	return must(t, r, err)
}

func kinds() []kind {
	return []kind{
		{"pread", func(t testing.TB, names []string, _ [][]byte, o Options) Reader {
			r, err := OpenPread(names, o)
			return must(t, r, err)
		}},
		{"pread buffered", func(t testing.TB, names []string, _ [][]byte, o Options) Reader {
			o.Buffered = true
			r, err := OpenPread(names, o)
			return must(t, r, err)
		}},
		{"uring", func(t testing.TB, names []string, _ [][]byte, o Options) Reader {
			return uringOrSkip(t, names, o)
		}},
		{"uring buffered", func(t testing.TB, names []string, _ [][]byte, o Options) Reader {
			o.Buffered = true
			return uringOrSkip(t, names, o)
		}},
		{"sim", func(t testing.TB, _ []string, data [][]byte, o Options) Reader {
			r, err := NewSim(backing(data), SimOptions{Seed: 1, LatencyMax: 50 * time.Microsecond,
				ShortP: 0.3, InterruptP: 0.1}, o)
			return must(t, r, err)
		}},
	}
}

func backing(data [][]byte) (list []io.ReaderAt) {
	for _, b := range data {
		list = append(list, bytes.NewReader(b))
	}
	return list
}

func eachKind(t *testing.T, o Options, f func(*testing.T, Reader, []string, [][]byte)) {
	names, data := writeCorpus(t)
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			r := k.open(t, names, data, o)
			t.Log(r.Info())
			defer closeReader(t, r)
			f(t, r, names, data)
		})
	}
}

func closeReader(t testing.TB, r Reader) {
	t.Helper()
	closed := make(chan error, 1)
	go func() { closed <- r.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(hangLimit):
		t.Fatal("Close hangs")
	}
}

// outcome is what became of a request, and how often.
type outcome struct {
	Request
	calls atomic.Int32
	err   error
	group *sync.WaitGroup
}

// want makes a request for size bytes at offset of the file.
func want(group *sync.WaitGroup, file int, offset, size int64) *outcome {
	start, length, skip := Hull(offset, size, Align)
	out := &outcome{group: group}
	out.Request = Request{File: file, Offset: start, Buf: aligned(int(length)),
		Need: int(skip + size), Label: "blk.0"}
	out.Tag, out.Done = out, done
	return out
}

func done(r *Request, err error) {
	out := r.Tag.(*outcome)
	out.err = err
	if out.calls.Add(1) == 1 {
		out.group.Done()
	}
}

func wait(t testing.TB, group *sync.WaitGroup) {
	t.Helper()
	over := make(chan struct{})
	go func() { group.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(hangLimit):
		buf := make([]byte, 1<<20)
		t.Fatalf("requests hang\n%s", buf[:runtime.Stack(buf, true)])
	}
}

func submit(t testing.TB, r Reader, out *outcome) {
	t.Helper()
	out.group.Add(1)
	if err := r.Submit(&out.Request); err != nil {
		t.Fatal(err)
	}
}

// check compares what arrived with the file.
func check(t testing.TB, out *outcome, data [][]byte) {
	t.Helper()
	if n := out.calls.Load(); n != 1 {
		t.Fatalf("Done called %d times", n)
	}
	if out.err != nil {
		t.Fatalf("%v", out.err)
	}
	expected := data[out.File][out.Offset : out.Offset+int64(out.Need)]
	if !bytes.Equal(out.Buf[:out.Need], expected) {
		t.Fatalf("file %d, %d bytes at %d differ", out.File, out.Need, out.Offset)
	}
}

func TestHullCoversTheBytesWithWholeBlocks(t *testing.T) {
	for _, c := range [][6]int64{ // offset, size, align, start, length, skip
		{0, 1, 4096, 0, 4096, 0}, {0, 4096, 4096, 0, 4096, 0}, {4095, 2, 4096, 0, 8192, 4095},
		{4096, 4097, 4096, 4096, 8192, 0}, {1000, 24, 512, 512, 512, 488}, {5, 0, 4096, 0, 4096, 5},
	} {
		start, length, skip := Hull(c[0], c[1], c[2])
		if start != c[3] || length != c[4] || skip != c[5] {
			t.Errorf("Hull(%d, %d, %d) = %d, %d, %d", c[0], c[1], c[2], start, length, skip)
		}
	}
}

func TestEveryReaderGivesTheBytesOfTheFile(t *testing.T) {
	eachKind(t, Options{Depth: 8, ChunkBytes: 64 << 10, QueueRequests: 16},
		func(t *testing.T, r Reader, names []string, data [][]byte) {
			rng := rand.New(rand.NewPCG(7, 7))
			var group sync.WaitGroup
			var all []*outcome
			for range 300 {
				file := 1 + rng.IntN(len(data)-1)
				size := 1 + rng.Int64N(int64(len(data[file])))
				offset := rng.Int64N(int64(len(data[file])) - size + 1)
				if rng.IntN(3) == 0 {
					offset = int64(len(data[file])) - size // up to the end
				}
				out := want(&group, file, offset, size)
				all = append(all, out)
				submit(t, r, out)
			}
			wait(t, &group)
			var total int64
			for _, out := range all {
				check(t, out, data)
				total += int64(out.Need)
			}
			s := r.Stats()
			if s.Requests != 300 || s.Failed != 0 || s.Bytes != total || s.InFlight != 0 ||
				s.Queued != 0 || s.InFlightPeak > 8 || s.InFlightPeak < 1 || s.BusyNanos <= 0 {
				t.Errorf("read %d bytes: %+v", total, s)
			}
		})
}

// TestRequestsMayBeUsedAgain drives several goroutines, each with one request in a loop.
func TestRequestsMayBeUsedAgain(t *testing.T) {
	eachKind(t, Options{Depth: 3, ChunkBytes: 16 << 10, QueueRequests: 3},
		func(t *testing.T, r Reader, _ []string, data [][]byte) {
			var workers sync.WaitGroup
			for worker := range 6 {
				workers.Go(func() {
					file := 3 + worker%5
					over := make(chan error, 1)
					q := Request{File: file, Buf: aligned(roundUp(len(data[file]), Align)),
						Need: len(data[file]), Done: func(_ *Request, err error) { over <- err }}
					for range 20 {
						clear(q.Buf)
						if err := r.Submit(&q); err != nil {
							t.Error(err)
							return
						}
						select {
						case err := <-over:
							if err != nil || !bytes.Equal(q.Buf[:q.Need], data[file]) {
								t.Errorf("file %d: wrong bytes or %v", file, err)
							}
						case <-time.After(hangLimit):
							t.Error("hangs")
							return
						}
					}
				})
			}
			workers.Wait()
		})
}

func TestAFileThatEndsEarlyIsAnErrorThatSaysWhere(t *testing.T) {
	o := Options{ChunkBytes: 8192}
	eachKind(t, o, func(t *testing.T, r Reader, _ []string, data [][]byte) {
		var group sync.WaitGroup
		beyond := want(&group, 4, 4096, 2)     // one byte is there
		after := want(&group, 3, 8192, 4096)   // none is
		long := want(&group, 5, 0, 64*Align+5) // most pieces fail
		good := want(&group, 6, 0, 1<<20)
		for _, out := range []*outcome{beyond, after, long, good} {
			submit(t, r, out)
		}
		wait(t, &group)
		check(t, good, data)
		for i, out := range []*outcome{beyond, after, long} {
			var e *Error
			if !errors.Is(out.err, ErrIO) || !errors.Is(out.err, io.ErrUnexpectedEOF) ||
				!errors.As(out.err, &e) || e.Label != "blk.0" || e.Offset < int64(len(data[out.File])) ||
				(i < 2 && e.Offset > out.Offset+1) || e.File == "" {
				t.Errorf("request %d: %v", i, out.err)
			}
		}
		if !strings.Contains(beyond.err.Error(), `read of 1 bytes for "blk.0" at byte 4097`) {
			t.Errorf("%v", beyond.err)
		}
		if s := r.Stats(); s.Requests != 4 || s.Failed != 3 || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestNonsenseIsRefusedAndNotRead(t *testing.T) {
	eachKind(t, Options{}, func(t *testing.T, r Reader, _ []string, _ [][]byte) {
		never := func(*Request, error) { t.Error("Done is called for a refused request") }
		good := func() *Request { return &Request{File: 6, Buf: aligned(8192), Done: never} }
		for name, damage := range map[string]func(*Request){
			"no done":         func(q *Request) { q.Done = nil },
			"file":            func(q *Request) { q.File = len(corpusSizes) },
			"negative file":   func(q *Request) { q.File = -1 },
			"offset":          func(q *Request) { q.Offset = 100 },
			"negative offset": func(q *Request) { q.Offset = -4096 },
			"overflow":        func(q *Request) { q.Offset = 1<<63 - 4096 },
			"no memory":       func(q *Request) { q.Buf = nil },
			"length":          func(q *Request) { q.Buf = q.Buf[:5000] },
			"memory":          func(q *Request) { q.Buf = aligned(8192)[8 : 4096+8] },
			"need":            func(q *Request) { q.Need = 8193 },
			"negative need":   func(q *Request) { q.Need = -1 },
			"class":           func(q *Request) { q.Class = ClassCount },
		} {
			q := good()
			damage(q)
			if err := r.Submit(q); !errors.Is(err, ErrUsage) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := r.Submit(nil); !errors.Is(err, ErrUsage) {
			t.Errorf("nil: %v", err)
		}
	})
}

func TestCloseCompletesOrFailsWhatIsOutstanding(t *testing.T) {
	names, data := writeCorpus(t)
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			for round := range 20 {
				r := k.open(t, names, data, Options{Depth: 2, ChunkBytes: 32 << 10, QueueRequests: 200})
				var group sync.WaitGroup
				var all []*outcome
				for range 10 * round {
					out := want(&group, 7, 0, 200000)
					all = append(all, out)
					submit(t, r, out)
				}
				closeReader(t, r)
				for _, out := range all { // no waiting: Close has done that
					if out.calls.Load() != 1 {
						t.Fatalf("round %d: Done called %d times", round, out.calls.Load())
					}
					if !errors.Is(out.err, ErrClosed) {
						check(t, out, data)
					}
				}
				if err := r.Submit(&want(&group, 7, 0, 1).Request); !errors.Is(err, ErrClosed) {
					t.Fatalf("a closed reader takes requests: %v", err)
				}
				closeReader(t, r)
			}
		})
	}
}

// TestCloseRacesSubmit: a Submit that waits for room while the reader closes is refused, or its
// request ends once.
func TestCloseRacesSubmit(t *testing.T) {
	names, data := writeCorpus(t)
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			for range 20 {
				r := k.open(t, names, data, Options{Depth: 1, ChunkBytes: 4096, QueueRequests: 1})
				var group, workers sync.WaitGroup
				for range 4 {
					workers.Go(func() {
						for {
							out := want(&group, 6, 0, 64<<10)
							group.Add(1)
							if err := r.Submit(&out.Request); err != nil {
								group.Done()
								if !errors.Is(err, ErrClosed) {
									t.Error(err)
								}
								return
							}
						}
					})
				}
				time.Sleep(time.Millisecond)
				closeReader(t, r)
				workers.Wait()
				wait(t, &group)
			}
		})
	}
}

func TestOpenLeavesNoDescriptorBehind(t *testing.T) {
	names, data := writeCorpus(t)
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skipf("descriptors cannot be counted here: %v", err)
		}
		return len(list)
	}
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			closeReader(t, k.open(t, names, data, Options{})) // what the runtime opens for itself
			before := count()
			for range 10 {
				closeReader(t, k.open(t, names, data, Options{}))
			}
			for _, kind := range []string{KindUring, KindPread, KindAuto} {
				missing := append(append([]string{}, names...), names[0]+".not-there")
				if _, err := Open(missing, Options{Kind: kind}); !errors.Is(err, ErrIO) ||
					!errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "not-there") {
					t.Errorf("a missing file: %v", err)
				}
				if _, err := Open([]string{t.TempDir()}, Options{Kind: kind}); !errors.Is(err, ErrIO) {
					t.Errorf("a directory: %v", err)
				}
			}
			if after := count(); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	names, _ := writeCorpus(t)
	for _, o := range []Options{{Depth: -1}, {Depth: DepthMax + 1}, {ChunkBytes: 100},
		{ChunkBytes: 4097}, {ChunkBytes: 2 * ChunkBytesMax}, {Depth: 4, QueueRequests: 3},
		{QueueRequests: QueueRequestsMax + 1}, {Kind: "tape"}, {Timeout: -1}, {CloseWait: -1},
		{Probe: ProbeForce + 1}, {Depth: 1, QueueRequests: -1}} {
		if _, err := Open(names, o); !errors.Is(err, ErrUsage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := Open(nil, Options{}); !errors.Is(err, ErrUsage) {
		t.Errorf("no files: %v", err)
	}
}

// TestFallbackIsLoggedOncePerFile mixes a file of the process file system, which refuses O_DIRECT,
// with ordinary ones.
func TestFallbackIsLoggedOncePerFile(t *testing.T) {
	const refusing = "/proc/version"
	start, err := os.ReadFile(refusing)
	if err != nil || len(start) < 16 {
		t.Skipf("no process file system: %v", err)
	}
	names, _ := writeCorpus(t)
	names[2] = refusing
	var log bytes.Buffer
	o := Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Kind: KindPread}
	r, err := OpenPread(names, o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, r)
	t.Log(r.Info())
	s, found := r.Stats(), false
	for _, f := range r.Fallbacks() {
		found = found || f.File == refusing && strings.Contains(f.Reason, "refuses O_DIRECT")
	}
	if s.DirectFiles+s.BufferedFiles != len(names) || len(r.Fallbacks()) != s.BufferedFiles ||
		strings.Count(log.String(), "page cache") != s.BufferedFiles || !found ||
		!strings.Contains(r.Info(), "through the page cache") {
		t.Errorf("%+v, fallbacks %v, log:\n%s", s, r.Fallbacks(), log.String())
	}
	var group sync.WaitGroup
	out := want(&group, 2, 0, 16)
	submit(t, r, out)
	wait(t, &group)
	check(t, out, [][]byte{nil, nil, start})
}

func TestRefusedUringFallsBackAndSaysWhy(t *testing.T) {
	names, _ := writeCorpus(t)
	p, err := OpenPread(names, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fallen{Pread: p, reason: errors.New("seccomp says no")}
	defer closeReader(t, f)
	if !strings.Contains(f.Info(), "seccomp says no") || !strings.Contains(f.Info(), "pread") {
		t.Error(f.Info())
	}
	r, err := Open(names, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r.Info())
	closeReader(t, r)
}

// TestRegisteredMemoryIsReadAlike reads into the arena, across its end and outside it.
func TestRegisteredMemoryIsReadAlike(t *testing.T) {
	names, data := writeCorpus(t)
	arena := aligned(4 << 20)
	r := uringOrSkip(t, names, Options{Arena: arena[:2<<20], ChunkBytes: 256 << 10})
	t.Log(r.Info())
	if !strings.Contains(r.Info(), " registered buffers") { // or says why there are none
		t.Error("nothing is said of registered buffers")
	}
	defer closeReader(t, r)
	for _, offset := range []int{0, 1 << 20, 2<<20 - 12<<10, 2 << 20, 3 << 20} {
		var group sync.WaitGroup
		out := want(&group, 6, 0, 1<<20)
		out.Buf = arena[offset : offset+1<<20]
		submit(t, r, out)
		wait(t, &group)
		check(t, out, data)
	}
	runtime.KeepAlive(arena)
}

// TestSteadyReadsAllocateNothing goes through all that a decode step asks of a reader.
func TestSteadyReadsAllocateNothing(t *testing.T) {
	names, data := writeCorpus(t)
	list := append(kinds(), kind{"null", func(t testing.TB, _ []string, _ [][]byte, o Options) Reader {
		n, err := NewNull([]int64{0, 1, 511, 4096, 4097, 20000, 1 << 20, 3 << 20}, o)
		return must(t, n, err)
	}})
	for _, k := range list {
		t.Run(k.name, func(t *testing.T) {
			r := k.open(t, names, data, Options{ChunkBytes: 64 << 10, Timeout: time.Minute})
			defer closeReader(t, r)
			over := make(chan error, 2)
			report := func(_ *Request, err error) { over <- err }
			demand := Request{File: 6, Buf: aligned(1 << 20), Label: "x", Done: report}
			maybe := Request{File: 6, Buf: aligned(1 << 20), Class: Predicted, Done: report}
			if n := testing.AllocsPerRun(50, func() {
				for _, q := range [...]*Request{&maybe, &demand} {
					if err := r.Submit(q); err != nil {
						t.Fatal(err)
					}
				}
				r.Promote(&maybe, Certain)
				if r.Cancel(&maybe) {
					over <- nil
				}
				for range 2 {
					if err := <-over; err != nil {
						t.Fatal(err)
					}
				}
			}); n != 0 {
				t.Errorf("%v allocations per step", n)
			}
		})
	}
}

func TestNullLeavesBytesAlone(t *testing.T) {
	n, err := NewNull([]int64{10000}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, n)
	var group sync.WaitGroup
	good, bad := want(&group, 0, 5000, 5000), want(&group, 0, 5000, 5001)
	for i := range good.Buf {
		good.Buf[i] = 42
	}
	submit(t, n, good)
	submit(t, n, bad)
	wait(t, &group)
	if good.err != nil || !errors.Is(bad.err, io.ErrUnexpectedEOF) {
		t.Errorf("%v, %v", good.err, bad.err)
	}
	if bytes.Count(good.Buf, []byte{42}) != len(good.Buf) {
		t.Error("bytes were touched")
	}
}
