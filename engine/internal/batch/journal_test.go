package batch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var someHeader = header{Input: "i", Requests: 9, Model: "m", Options: "o", Created: 7}

// reopen reads a journal and returns its records.
func reopen(t *testing.T, path string) (j *journal, records []string, fresh bool) {
	t.Helper()
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err = j.start(someHeader, time.Hour, func(kind byte, offset int64, payload []byte) error {
		records = append(records, string(payload))
		return nil
	})
	if err != nil {
		t.Fatal(err, j.close())
	}
	return j, records, fresh
}

func appendTo(t *testing.T, j *journal, text string) {
	t.Helper()
	if _, err := j.append(kindResult, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func closeJournal(t *testing.T, j *journal) {
	t.Helper()
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}

// threeRecords writes a journal and returns its bytes, and the length after each record.
func threeRecords(t *testing.T, path string) (text []byte, ends []int64) {
	t.Helper()
	j, _, fresh := reopen(t, path)
	if !fresh {
		t.Fatal("the journal was there")
	}
	ends = append(ends, j.end)
	for i := range 3 {
		appendTo(t, j, fmt.Sprintf("%d%s", i, strings.Repeat("x", i*7)))
		ends = append(ends, j.end)
	}
	closeJournal(t, j)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text, ends
}

// Cut anywhere, the journal has the records that are whole, and takes more.
func TestTornJournalKeepsWhatIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	text, ends := threeRecords(t, path)
	for n := range len(text) + 1 {
		if err := os.WriteFile(path, text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		whole := 0
		for _, e := range ends[1:] {
			if int64(n) >= e {
				whole++
			}
		}
		j, records, _ := reopen(t, path)
		if len(records) != whole {
			t.Fatalf("%d of %d bytes: %d records, want %d", n, len(text), len(records), whole)
		}
		appendTo(t, j, "more")
		closeJournal(t, j)
		j, records, fresh := reopen(t, path)
		if fresh || len(records) != whole+1 || records[whole] != "Rmore" {
			t.Fatalf("%d bytes, and a record: %q", n, records)
		}
		closeJournal(t, j)
	}
}

// A changed byte is never read as a record.
func TestJournalWithAWrongByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	text, ends := threeRecords(t, path)
	_, want, _ := func() (*journal, []string, bool) {
		j, r, f := reopen(t, path)
		closeJournal(t, j)
		return j, r, f
	}()
	for at := ends[0]; at < int64(len(text)); at++ {
		bad := bytes.Clone(text)
		bad[at] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		j, records, _ := reopen(t, path)
		for i, r := range records {
			if r != want[i] || ends[i+1] > at {
				t.Fatalf("byte %d: record %d is %q", at, i, r)
			}
		}
		closeJournal(t, j)
	}
	// Damage of the header, with more behind it than a crash can leave, loses nothing.
	long := append(bytes.Clone(text), make([]byte, headerBytesMax)...)
	long[len(journalMagic)+20] ^= 1
	if err := os.WriteFile(path, long, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.start(someHeader, time.Hour, nil); !errors.Is(err, ErrJournal) {
		t.Errorf("%v, want ErrJournal", err)
	}
	closeJournal(t, j)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, long) {
		t.Error("the damaged journal was changed")
	}
}

// A journal of something else is refused and stays as it is.
func TestJournalOfSomethingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	text, _ := threeRecords(t, path)
	for _, change := range []func(*header){
		func(h *header) { h.Input = "other" }, func(h *header) { h.Model = "other" },
		func(h *header) { h.Options = "other" }, func(h *header) { h.Requests++ },
	} {
		h := someHeader
		change(&h)
		j, err := openJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.start(h, time.Hour, nil); !errors.Is(err, ErrChanged) {
			t.Errorf("%+v: %v", h, err)
		}
		closeJournal(t, j)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, text) {
		t.Error("the journal was changed")
	}
	if err := os.WriteFile(path, []byte("a file of the user's"), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.start(someHeader, time.Hour, nil); !errors.Is(err, ErrJournal) {
		t.Errorf("%v, want ErrJournal", err)
	}
	closeJournal(t, j)
}

func TestTwoJobsOnOneJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _, _ := reopen(t, path)
	if _, err := openJournal(path); !errors.Is(err, ErrLocked) {
		t.Errorf("%v, want ErrLocked", err)
	}
	closeJournal(t, j)
	j, _, _ = reopen(t, path)
	closeJournal(t, j)
}

// When the disk is full the journal ends where it did, and goes on when there is room.
func TestFullDiskLeavesTheJournalWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _, _ := reopen(t, path)
	appendTo(t, j, "before")
	write := j.write
	j.write = func(b []byte) (int, error) {
		n, err := write(b[:len(b)/2])
		return n, errors.Join(err, unix.ENOSPC)
	}
	_, err := j.append(kindResult, []byte("too much"))
	if !errors.Is(err, ErrIO) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	j.write = write
	appendTo(t, j, "after")
	closeJournal(t, j)
	j, records, _ := reopen(t, path)
	if !slices.Equal(records, []string{"Rbefore", "Rafter"}) {
		t.Errorf("%q", records)
	}
	closeJournal(t, j)
}

// No bytes make the journal's reader crash, and what it accepts it can read back.
func FuzzJournal(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	j, err := openJournal(path)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := j.start(someHeader, time.Hour, nil); err != nil {
		f.Fatal(err)
	}
	if _, err := j.append(kindResult, []byte("abc")); err != nil {
		f.Fatal(err)
	}
	if err := j.close(); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-1])
	f.Add([]byte(journalMagic))
	dir := f.TempDir()
	if shared, err := os.MkdirTemp("/dev/shm", "journal"); err == nil { // where syncing costs nothing
		f.Cleanup(func() { os.RemoveAll(shared) })
		dir = shared
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		defer j.close()
		_, err = j.start(someHeader, time.Hour, func(_ byte, offset int64, payload []byte) error {
			want := bytes.Clone(payload)
			got := make([]byte, len(want))
			if _, err := j.file.ReadAt(got, offset); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%q at %d is %q, %v", want, offset, got, err)
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrJournal) && !errors.Is(err, ErrChanged) {
			t.Error(err)
		}
	})
}
