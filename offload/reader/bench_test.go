package reader

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// The environment of the benchmark, as tests/fio.sh sets it.
const (
	benchFile  = "MOERING_READER_FILE"  // what is read; a file of 64 MiB without it
	benchBytes = "MOERING_READER_BYTES" // of a request and a piece; 1 MiB without it
	benchDepth = "MOERING_READER_DEPTH" // pieces in flight; DepthDefault without it
)

// number is a setting from the environment.
func number(b *testing.B, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	return n
}

// processNanos is the processor time of the process: reading and all that comes with it.
func processNanos(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkReader reads pieces at random aligned places. Besides the speed it reports the processor
// time of the whole process as a share of one core, as it was ("core-%") and at 2 GB/s.
func BenchmarkReader(b *testing.B) {
	name := os.Getenv(benchFile)
	if name == "" {
		name = filepath.Join(b.TempDir(), "big")
		if err := os.WriteFile(name, noise(1, 64<<20), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	chunk, depth := number(b, benchBytes, 1<<20), number(b, benchDepth, DepthDefault)
	for _, kind := range []string{KindUring, KindPread} {
		b.Run(kind, func(b *testing.B) {
			// A queue that is never empty, as fio's is not, and no more memory than that takes.
			arena := aligned(2 * depth * chunk)
			r, err := Open([]string{name}, Options{Kind: kind, Arena: arena, Probe: ProbeOff,
				Depth: depth, ChunkBytes: chunk, Timeout: time.Minute})
			if err != nil {
				b.Skip(err)
			}
			defer closeReader(b, r)
			if s := r.Stats(); s.DirectFiles == 0 {
				b.Skip("the file system refuses direct reads")
			}
			readAtRandom(b, r, info.Size(), arena, chunk)
		})
	}
}

func readAtRandom(b *testing.B, r Reader, size int64, arena []byte, chunk int) {
	free := make(chan *Request, len(arena)/chunk)
	for i := range cap(free) {
		free <- &Request{Buf: arena[i*chunk : (i+1)*chunk], Done: func(q *Request, err error) {
			if err != nil {
				b.Error(err)
			}
			free <- q
		}}
	}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	cpu, start := processNanos(b), time.Now()
	b.SetBytes(int64(chunk))
	for b.Loop() {
		q := <-free
		q.Offset = rng.Int64N((size-int64(chunk))/Align+1) * Align
		if err := r.Submit(q); err != nil {
			b.Fatal(err)
		}
	}
	for range cap(free) {
		<-free
	}
	used, took := float64(processNanos(b)-cpu), float64(time.Since(start))
	bytes := float64(r.Stats().Bytes)
	b.ReportMetric(bytes/took*1000, "MB/s") // to the end of the last read
	b.ReportMetric(100*used/took, "core-%")
	b.ReportMetric(100*used/bytes*2, "core-%-at-2GB/s")
}
