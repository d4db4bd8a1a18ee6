package reader

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Bounds of the file of kept figures.
const (
	probeVersion    = 1
	probeAgeMax     = 30 * 24 * time.Hour
	probeBytesMax   = 1 << 20
	probeEntriesMax = 256 // the oldest go first
	probeRateMax    = 1e13
)

// probeFile is what is kept on disk.
type probeFile struct {
	Version int          `json:"version"`
	Probes  []probeEntry `json:"probes"`
}

// probeEntry is the figures of one device, read in one way.
type probeEntry struct {
	Device         string    `json:"device"`
	System         string    `json:"file_system"`
	Reader         string    `json:"reader"`
	Depth          int       `json:"depth"`
	ChunkBytes     int       `json:"chunk_bytes"`
	BytesPerSecond float64   `json:"bytes_per_second"`
	Measured       time.Time `json:"measured"`
}

// probeStore is the file in memory. What is wrong with it is logged, and it is then empty.
type probeStore struct {
	path    string // empty: nothing is kept
	entries []probeEntry
	now     time.Time
	logger  *slog.Logger
	changed bool
}

// newProbeStore reads what is kept.
func newProbeStore(o Options) *probeStore {
	s := &probeStore{path: o.ProbeFile, now: o.Now(), logger: o.Logger}
	if s.path == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			s.logger.Info("probes are not kept", "reason", err)
			return s
		}
		s.path = filepath.Join(dir, "moering", "probe.json")
	}
	f, err := os.Open(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return s
	}
	if err == nil {
		defer f.Close()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, probeBytesMax+1)); err == nil {
			s.entries, err = parseProbes(data)
		}
	}
	if err != nil {
		s.logger.Warn("kept probes are ignored", "file", s.path, "reason", err)
	}
	return s
}

// parseProbes reads the file, of which not a byte is trusted.
func parseProbes(data []byte) ([]probeEntry, error) {
	if len(data) > probeBytesMax {
		return nil, fmt.Errorf("more than %d bytes", probeBytesMax)
	}
	var f probeFile
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&f); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("bytes behind the end")
	}
	if f.Version != probeVersion {
		return nil, fmt.Errorf("version %d, not %d", f.Version, probeVersion)
	}
	if len(f.Probes) > probeEntriesMax {
		return nil, fmt.Errorf("%d probes, at most %d", len(f.Probes), probeEntriesMax)
	}
	for i := range f.Probes {
		e := &f.Probes[i]
		listed := slices.ContainsFunc(cells(), func(c cell) bool {
			return c.chunk == e.ChunkBytes && c.depth == e.Depth
		})
		if !listed || !(e.BytesPerSecond > 0 && e.BytesPerSecond < probeRateMax) {
			return nil, fmt.Errorf("probe %d: depth %d, pieces of %d bytes, %g bytes/s", i, e.Depth,
				e.ChunkBytes, e.BytesPerSecond)
		}
	}
	return f.Probes, nil
}

// is says whether the entry is about the device, read in this way.
func (e *probeEntry) is(d *device, kind string) bool {
	return e.Device == d.name && e.System == d.system && e.Reader == kind
}

// find takes over the kept figures of the device, if there are any of the last days.
func (s *probeStore) find(d *device, kind string) bool {
	for i := range s.entries {
		e := &s.entries[i]
		age := s.now.Sub(e.Measured)
		if e.is(d, kind) && age >= 0 && age < probeAgeMax {
			d.depth, d.chunk, d.rate, d.when = e.Depth, e.ChunkBytes, e.BytesPerSecond, e.Measured
			return true
		}
	}
	return false
}

// keep replaces the figures of the device.
func (s *probeStore) keep(d *device, kind string) {
	if d.rate == 0 {
		return
	}
	s.entries = slices.DeleteFunc(s.entries, func(e probeEntry) bool { return e.is(d, kind) })
	s.entries = append(s.entries, probeEntry{Device: d.name, System: d.system, Reader: kind,
		Depth: d.depth, ChunkBytes: d.chunk, BytesPerSecond: d.rate, Measured: d.when.UTC()})
	if extra := len(s.entries) - probeEntriesMax; extra > 0 {
		slices.SortStableFunc(s.entries, func(a, b probeEntry) int {
			return a.Measured.Compare(b.Measured)
		})
		s.entries = s.entries[extra:]
	}
	s.changed = true
}

// save writes the file as a whole or not at all, if something is new. A failure is logged: the next
// open measures again.
func (s *probeStore) save() {
	if !s.changed || s.path == "" {
		return
	}
	if err := s.write(); err != nil {
		s.logger.Info("the probe is not kept", "file", s.path, "reason", err)
	}
}

func (s *probeStore) write() error {
	data, err := json.MarshalIndent(probeFile{Version: probeVersion, Probes: s.entries}, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "probe-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
