package reader

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// measured gives every cell a speed in bytes per second.
func measured(rate func(c cell) float64) []cell {
	list := cells()
	for i := range list {
		list[i].bytes = int64(rate(list[i]))
		list[i].time = time.Second
	}
	return list
}

func TestTheProbeLeavesTheDefaultOnlyForWhatIsFaster(t *testing.T) {
	for name, c := range map[string]struct {
		rate         func(c cell) float64
		chunk, depth int
	}{
		"all alike": {func(cell) float64 { return 1e9 }, ChunkBytesDefault, DepthDefault},
		"deep":      {func(c cell) float64 { return float64(c.depth) * 1e8 }, ChunkBytesDefault, 8},
		"large":     {func(c cell) float64 { return float64(c.chunk) }, 2 << 20, DepthDefault},
		"large enough": {func(c cell) float64 { return 1e9 - 2e14/float64(c.chunk) },
			ChunkBytesDefault, DepthDefault},
		"small and shallow": {func(c cell) float64 {
			return 1e9 / float64(c.chunk) / float64(c.depth)
		}, 256 << 10, 2},
		"not too small": {func(c cell) float64 {
			if c.chunk > 512<<10 {
				return 1e9
			}
			return 2e9 + float64(c.chunk)
		}, 256 << 10, DepthDefault},
		"bytes in flight": {func(c cell) float64 {
			return min(8e9, float64(c.chunk*c.depth)*1e3)
		}, 2 << 20, 8},
		"one lucky cell": {func(c cell) float64 {
			if c.chunk == 512<<10 && c.depth == 2 {
				return 3e9
			}
			return 1e9
		}, ChunkBytesDefault, DepthDefault},
		"too slow to measure all": {func(c cell) float64 {
			if c.chunk == 2<<20 {
				return 0
			}
			return 1e9 + float64(c.depth)
		}, ChunkBytesDefault, DepthDefault},
	} {
		if got := choose(measured(c.rate)); got.chunk != c.chunk || got.depth != c.depth {
			t.Errorf("%s: chunk %d, depth %d", name, got.chunk, got.depth)
		}
	}
}

// bigFile is large enough to be probed; its blocks have a place on disk, as far as the file system
// can give them one without writing.
func bigFile(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "big")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if allocate(f, probeFileMin+12345) == nil {
		return name
	}
	for n := 0; n <= probeFileMin; n += 1 << 20 {
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// probed opens the file and returns the device's figures and the log.
func probed(t *testing.T, name string, o Options) (DeviceStats, string, string) {
	t.Helper()
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r, err := Open([]string{name}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, r)
	if s := r.Stats(); s.DirectFiles != 1 {
		t.Skip("the file system of the test's folder refuses direct reads")
	}
	return r.Stats().Devices[0], r.Info(), log.String()
}

func TestADeviceIsProbedOnceAndRemembered(t *testing.T) {
	name, keep := bigFile(t), filepath.Join(t.TempDir(), "folder", "probe.json")
	var now atomic.Int64 // every look at the clock takes a moment
	now.Store(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	o := Options{Kind: KindPread, ProbeFile: keep,
		Now: func() time.Time { return time.Unix(0, now.Add(1000)) }}
	first, info, log := probed(t, name, o)
	if first.ProbeBytesPerSecond <= 0 || !strings.Contains(log, "measured now") ||
		!strings.Contains(info, "GB/s by the probe") {
		t.Fatalf("%+v\n%s\n%s", first, info, log)
	}
	kept, err := os.ReadFile(keep)
	if err != nil {
		t.Fatal(err)
	}
	second, _, log := probed(t, name, o)
	if second != first || !strings.Contains(log, "measured 2026-05-01 12:00:") {
		t.Errorf("%+v, then %+v\n%s", first, second, log)
	}
	fixed := o
	fixed.Depth, fixed.ChunkBytes = 3, 128<<10
	if d, _, _ := probed(t, name, fixed); d.Depth != 3 || d.ChunkBytes != 128<<10 ||
		d.ProbeBytesPerSecond != first.ProbeBytesPerSecond {
		t.Errorf("the user's settings are not kept: %+v", d)
	}
	off := o
	off.Probe = ProbeOff
	if d, _, log := probed(t, name, off); d.ProbeBytesPerSecond != 0 || d.Depth != DepthDefault ||
		d.ChunkBytes != ChunkBytesDefault || strings.Contains(log, "probe") {
		t.Errorf("probed though it is off: %+v\n%s", d, log)
	}
	if again, err := os.ReadFile(keep); err != nil || !bytes.Equal(again, kept) {
		t.Errorf("what is kept changed: %v\n%s", err, again)
	}
	force := o
	force.Probe = ProbeForce
	if _, _, log := probed(t, name, force); !strings.Contains(log, "measured now") {
		t.Error(log)
	}
	now.Add(int64(probeAgeMax))
	if _, _, log := probed(t, name, o); !strings.Contains(log, "measured now") {
		t.Errorf("figures of a month ago are used: %s", log)
	}
	if list, err := os.ReadDir(filepath.Dir(keep)); err != nil || len(list) != 1 {
		t.Errorf("%v, %v: something is left", list, err)
	}
}

func TestADamagedFileOfProbesIsIgnored(t *testing.T) {
	name := bigFile(t)
	for _, text := range []string{"", "{", `{"version": 2}`, "null",
		strings.Repeat(" ", probeBytesMax+1)} {
		keep := filepath.Join(t.TempDir(), "probe.json")
		if err := os.WriteFile(keep, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o := Options{Kind: KindPread, ProbeFile: keep}
		if d, _, log := probed(t, name, o); d.ProbeBytesPerSecond <= 0 ||
			!strings.Contains(log, "kept probes are ignored") {
			t.Errorf("%.20q: %+v\n%s", text, d, log)
		}
		if _, _, log := probed(t, name, o); !strings.Contains(log, "measured 2") {
			t.Errorf("%.20q is not replaced:\n%s", text, log)
		}
	}
	// A folder in which nothing can be kept.
	o := Options{Kind: KindPread, ProbeFile: filepath.Join(name, "probe.json")}
	if d, _, log := probed(t, name, o); d.ProbeBytesPerSecond <= 0 ||
		!strings.Contains(log, "is not kept") {
		t.Errorf("%+v\n%s", d, log)
	}
}

func TestEveryKindIsProbed(t *testing.T) {
	name, keep := bigFile(t), filepath.Join(t.TempDir(), "probe.json")
	for _, kind := range []string{KindUring, KindPread} {
		o := Options{Kind: kind, ProbeFile: keep, Arena: aligned(20 << 20)}
		if kind == KindUring {
			closeReader(t, uringOrSkip(t, []string{name}, Options{Probe: ProbeOff}))
		}
		if d, info, _ := probed(t, name, o); d.ProbeBytesPerSecond <= 0 {
			t.Errorf("%s: %+v", kind, d)
		} else {
			t.Log(info)
		}
	}
	data, err := os.ReadFile(keep)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := parseProbes(data); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestSmallAndSparseFilesAndSmallArenasAreNotProbed(t *testing.T) {
	names, _ := writeCorpus(t)
	keep := filepath.Join(t.TempDir(), "probe.json")
	o := Options{Kind: KindPread, ProbeFile: keep, Probe: ProbeForce}
	if d, _, _ := probed(t, names[7], o); d.ProbeBytesPerSecond != 0 {
		t.Errorf("%+v", d)
	}
	if err := os.Truncate(names[7], 2*probeFileMin); err != nil {
		t.Fatal(err)
	}
	if d, _, _ := probed(t, names[7], o); d.ProbeBytesPerSecond != 0 {
		t.Errorf("holes in a file are faster than any disk: %+v", d)
	}
	o.Arena = aligned(1 << 20)
	if d, _, log := probed(t, bigFile(t), o); d.ProbeBytesPerSecond != 0 ||
		!strings.Contains(log, "the arena is smaller") {
		t.Errorf("%+v\n%s", d, log)
	}
	if _, err := os.Stat(keep); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// probeOver probes a file by a reader of the test's making.
func probeOver(t *testing.T, o Options, open opener) (device, error) {
	t.Helper()
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	_, devices, err := group([]uint64{0}, o)
	if err != nil {
		t.Fatal(err)
	}
	f := &file{name: "simulated", size: 1 << 20 * 256}
	err = devices[0].measure(f, probeTimeMax, o, open)
	return devices[0], err
}

// zeros is a file without end.
type zeros struct{}

func (zeros) ReadAt(b []byte, _ int64) (int, error) { return len(b), nil }

// TestTheProbeFindsWhatASimulatedDiskLikes: by its own clock, a disk that moves 1 GB/s and answers
// nothing sooner than after a millisecond is fast once a megabyte is in flight.
func TestTheProbeFindsWhatASimulatedDiskLikes(t *testing.T) {
	var sim *Sim
	open := func(names []string, o Options) (r Reader, err error) {
		sim, err = NewSim([]io.ReaderAt{zeros{}}, SimOptions{LatencyMin: time.Millisecond,
			LatencyMax: time.Millisecond, BytesPerSecond: 1e9}, o)
		return sim, err
	}
	now := func() time.Time {
		if sim == nil {
			return time.Unix(0, 0)
		}
		return sim.now()
	}
	d, err := probeOver(t, Options{Now: now}, open)
	if err != nil {
		t.Fatal(err)
	}
	if d.rate < 0.8e9 || d.rate > 1e9 || d.depth*d.chunk < 1<<20 {
		t.Errorf("%+v", d)
	}
}

func TestADeviceThatHangsDuringTheProbeIsAnError(t *testing.T) {
	open := func(names []string, o Options) (Reader, error) {
		return NewSim([]io.ReaderAt{zeros{}}, SimOptions{HangP: 0.2, HangFor: time.Hour}, o)
	}
	if _, err := probeOver(t, Options{Timeout: time.Second}, open); !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
	broken := func(names []string, o Options) (Reader, error) {
		return NewSim([]io.ReaderAt{zeros{}}, SimOptions{ErrorP: 0.2}, o)
	}
	if d, err := probeOver(t, Options{}, broken); err != nil || d.rate != 0 ||
		d.depth != DepthDefault {
		t.Errorf("%+v, %v", d, err)
	}
}

// keeps is a store that says at the end that the system holds memory.
type keeps struct{ *Sim }

func (k keeps) Close() error { return errors.Join(ErrStranded, k.Sim.Close()) }

func TestMemoryThatTheProbeLosesIsAnError(t *testing.T) {
	open := func(names []string, o Options) (Reader, error) {
		s, err := NewSim([]io.ReaderAt{zeros{}}, SimOptions{ErrorP: 1}, o)
		return keeps{s}, err
	}
	arena := aligned(32 << 20)
	if _, err := probeOver(t, Options{Arena: arena}, open); !errors.Is(err, ErrStranded) {
		t.Error(err)
	}
}

func TestKeptProbesAreBoundedAndTheOldestGo(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "probe.json")
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	o, err := Options{ProbeFile: keep}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for i := range probeEntriesMax + 10 {
		s := newProbeStore(o)
		d := device{name: fmt.Sprint(i), depth: 4, chunk: 1 << 20, rate: 1e9,
			when: start.Add(time.Duration(i) * time.Second)}
		s.keep(&d, KindPread)
		s.save()
	}
	s := newProbeStore(o)
	s.now = start.Add(time.Hour)
	for i, want := range map[int]bool{0: false, 9: false, 10: true, probeEntriesMax + 9: true} {
		d := device{name: fmt.Sprint(i)}
		if got := s.find(&d, KindPread); got != want {
			t.Errorf("probe %d is there: %v", i, got)
		}
		if s.find(&d, KindUring) || s.find(&device{name: d.name, system: "other"}, KindPread) {
			t.Error("another reader's or file system's figures are used")
		}
	}
	s.now = start
	if s.find(&device{name: "20"}, KindPread) {
		t.Error("figures from the future are used")
	}
}

// FuzzParseProbes: whatever the file holds, only settings that the probe itself could have found
// come out, and they survive being written.
func FuzzParseProbes(f *testing.F) {
	good := `{"version":1,"probes":[{"device":"8:0","file_system":"ef53-1-2","reader":"uring",` +
		`"depth":4,"chunk_bytes":1048576,"bytes_per_second":1.5e9,"measured":"2026-05-01T12:00:00Z"}]}`
	for _, s := range []string{"", "{}", good, good + "x", strings.Replace(good, "4", "5", 1),
		strings.Replace(good, "1.5e9", "-1", 1), strings.Replace(good, "1.5e9", "1e300", 1),
		strings.Replace(good, "2026", "20266", 1)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseProbes(data)
		if err != nil {
			return
		}
		for _, e := range list {
			if e.Depth < 1 || e.Depth > DepthMax || e.ChunkBytes < Align || e.ChunkBytes%Align != 0 ||
				!(e.BytesPerSecond > 0) {
				t.Fatalf("%+v", e)
			}
		}
		keep := filepath.Join(t.TempDir(), "probe.json")
		o, err := Options{ProbeFile: keep}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		s := newProbeStore(o)
		s.entries, s.changed = list, true
		s.save()
		again := newProbeStore(o).entries
		if len(list) > 0 && !reflect.DeepEqual(norm(again), norm(list)) {
			t.Fatalf("%+v, written and read: %+v", list, again)
		}
	})
}

// norm makes times comparable: what they mean, not how they were written.
func norm(list []probeEntry) []string {
	var out []string
	for _, e := range list {
		at := e.Measured.UnixNano()
		e.Measured = time.Time{}
		out = append(out, fmt.Sprintf("%+v %d", e, at))
	}
	return out
}

// TestFilesOnTwoDevicesHaveTwoQueues gives two folders two device numbers.
func TestFilesOnTwoDevicesHaveTwoQueues(t *testing.T) {
	names, data := writeCorpus(t)
	more, _ := writeCorpus(t)
	other := filepath.Dir(more[0])
	names, data = append(names, more...), append(data, data...)
	for _, k := range []string{KindUring, KindPread, KindSim} {
		t.Run(k, func(t *testing.T) {
			o := Options{Kind: k, Depth: 2, ChunkBytes: 64 << 10,
				deviceOf: func(name string, device uint64) uint64 {
					if filepath.Dir(name) == other {
						return device + 1<<32
					}
					return device
				}}
			if k == KindUring {
				closeReader(t, uringOrSkip(t, names, o))
			}
			r, err := Open(names, o)
			if err != nil {
				t.Fatal(err)
			}
			defer closeReader(t, r)
			var group sync.WaitGroup
			var all []*outcome
			for i := range 20 {
				out := want(&group, 6+8*(i%4/3), 0, 1<<20) // every fourth from the other
				all = append(all, out)
				submit(t, r, out)
			}
			wait(t, &group)
			for _, out := range all {
				check(t, out, data)
			}
			s := r.Stats()
			if len(s.Devices) != 2 || s.Devices[0].Bytes != 15<<20 || s.Devices[1].Bytes != 5<<20 ||
				s.Devices[0].Files != 8 || s.Devices[1].Files != 8 || s.Devices[0].Depth != 2 ||
				s.Devices[1].Pieces != 5*16 || s.Devices[0].Name == s.Devices[1].Name ||
				s.Bytes != 20<<20 || s.InFlightPeak > 4 ||
				s.BusyNanos > s.Devices[0].BusyNanos+s.Devices[1].BusyNanos ||
				s.BusyNanos < max(s.Devices[0].BusyNanos, s.Devices[1].BusyNanos) {
				t.Errorf("%+v", s)
			}
			if k != KindSim && strings.Count(r.Info(), "depth 2") != 2 {
				t.Error(r.Info())
			}
		})
	}
}

// TestADeviceThatHangsStopsNoOther: the second of two simulated disks goes on.
func TestADeviceThatHangsStopsNoOther(t *testing.T) {
	data := [][]byte{noise(1, 1<<16), noise(2, 1<<16)}
	s, err := NewSim(backing(data), SimOptions{Devices: []uint64{1, 2},
		Faults: []SimFault{{File: 0, Length: 1 << 16, Kind: SimHang}}},
		Options{Depth: 2, ChunkBytes: Align, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, s)
	var group sync.WaitGroup
	bad := want(&group, 0, 0, 1<<16)
	submit(t, s, bad)
	for range 10 {
		var group sync.WaitGroup
		good := want(&group, 1, 0, 1<<16)
		submit(t, s, good)
		wait(t, &group)
		check(t, good, data)
	}
	wait(t, &group)
	if !errors.Is(bad.err, ErrStranded) {
		t.Error(bad.err)
	}
	if err := s.Submit(&want(&group, 0, 0, 10).Request); !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
}
