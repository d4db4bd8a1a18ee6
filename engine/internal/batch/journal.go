package batch

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/zeebo/xxh3"
)

// The journal is a file of records behind a magic line, each a length (uint32, of the payload), a
// checksum (uint64, xxh3 of offset, length and payload) and the payload, all little-endian. The
// first byte of a payload is its kind; the first record is the header. Records are appended with one
// write each, so that a killed process leaves at most the last one torn, and synced at an interval,
// so that a power failure costs at most what that interval computed.
const (
	journalMagic  = "moering batch journal 1\n"
	recordHead    = 12
	kindHeader    = 'H'
	kindResult    = 'R' // uint32 request, line of the output
	kindError     = 'E' // uint32 request, line of the error file
	kindPartial   = 'P' // uint32 request, what the engine saved of a sequence in flight
	kindComplete  = 'C' // the outputs are about to be put in place: JSON of completion
	journalBuffer = 1 << 20
	// headerBytesMax bounds magic and header, which are synced before anything follows: in a longer
	// file a header that cannot be read is damage, and not a crash.
	headerBytesMax = 16 << 10
	journalMode    = 0o644
)

// header says what a journal belongs to. Everything that could change a result is in it.
type header struct {
	Input    string `json:"input"`    // hash of the text
	Requests int    `json:"requests"` // of the input
	Model    string `json:"model"`    // what identifies the weights
	Options  string `json:"options"`  // what else decides results
	Created  int64  `json:"created"`  // the "created" of every response
}

// difference names what changed between the job that began a journal and this one; "" if nothing
// did. Created is the journal's alone.
func (h header) difference(now header) string {
	switch {
	case h.Input != now.Input || h.Requests != now.Requests:
		return fmt.Sprintf("the input changed: it had %d requests and hash %s, now %d and %s",
			h.Requests, h.Input, now.Requests, now.Input)
	case h.Model != now.Model:
		return fmt.Sprintf("the model changed: it was %s, now %s", h.Model, now.Model)
	case h.Options != now.Options:
		return fmt.Sprintf("options changed: they were %s, now %s", h.Options, now.Options)
	}
	return ""
}

// journal is an open, locked journal. Records are appended by one goroutine; syncing runs beside.
type journal struct {
	path   string
	file   *os.File
	write  func([]byte) (int, error) // of the file; tests let it fail
	end    int64                     // of the last whole record
	cut    int64                     // bytes behind it that were cut off at opening
	header header
	buf    []byte

	mu     sync.Mutex
	dirty  bool
	failed error // the first failure of syncing in the background
	stop   chan struct{}
	synced sync.WaitGroup
}

// openJournal opens the file of a journal and locks it. Nothing is read or written until start.
func openJournal(path string) (*journal, error) {
	f, err := lockedFile(path)
	if err != nil {
		return nil, err
	}
	if err := removeIfThere(path + tempSuffix); err != nil { // of a run killed while it compacted
		return nil, errors.Join(fmt.Errorf("%w: journal: %w", ErrIO, err), f.Close())
	}
	return &journal{path: path, file: f, write: f.Write, stop: make(chan struct{})}, nil
}

// start reads the journal, or begins it where there is none, and goes on syncing at an interval.
// each sees the records behind the header, in order; the payload is valid during the call. fresh
// reports that there was none.
func (j *journal) start(want header, interval time.Duration,
	each func(kind byte, offset int64, payload []byte) error) (fresh bool, err error) {
	if fresh, err = j.load(want, each); err == nil {
		j.synced.Go(func() { j.flush(interval) })
	}
	return fresh, err
}

// lockedFile opens the file that is at the path once the lock on it is held: a job that was just
// completed may have replaced it in between.
func lockedFile(path string) (*os.File, error) {
	for range lockAttempts {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, journalMode)
		if err != nil {
			return nil, fmt.Errorf("%w: journal: %w", ErrIO, err)
		}
		if err := lock(f); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: journal %s: %w", ErrLocked, path, err), f.Close())
		}
		held, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, there) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("%w: journal: %w", ErrIO, err)
		}
	}
	return nil, fmt.Errorf("%w: journal %s: it is replaced again and again", ErrLocked, path)
}

const lockAttempts = 10

// load reads what is there, or begins.
func (j *journal) load(want header, each func(byte, int64, []byte) error) (fresh bool, err error) {
	info, err := j.file.Stat()
	if err != nil {
		return false, fmt.Errorf("%w: journal: %w", ErrIO, err)
	}
	r := bufio.NewReaderSize(j.file, journalBuffer)
	magic := make([]byte, len(journalMagic))
	n, err := io.ReadFull(r, magic)
	if string(magic[:n]) != journalMagic[:n] {
		return false, fmt.Errorf("%w: %s", ErrJournal, j.path)
	}
	if err != nil { // empty, or killed while the first bytes were written
		return true, j.begin(want)
	}
	j.end = int64(len(magic))
	first := true
	for {
		payload, err := j.next(r, info.Size())
		if err != nil {
			return false, err
		}
		if payload == nil {
			break
		}
		if first {
			if err := j.compare(payload, want); err != nil {
				return false, err
			}
			first = false
		} else if err := each(payload[0], j.end-int64(len(payload)), payload); err != nil {
			return false, err
		}
	}
	if first && info.Size() > headerBytesMax {
		return false, fmt.Errorf("%w: %s has a damaged header, and %d bytes behind it; nothing was changed",
			ErrJournal, j.path, info.Size())
	}
	if first {
		return true, j.begin(want)
	}
	j.cut = info.Size() - j.end
	return false, j.truncate()
}

// next returns the payload of the next record; nil where the whole ones end.
func (j *journal) next(r io.Reader, size int64) ([]byte, error) {
	var head [recordHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, j.readError(err)
	}
	n := int64(binary.LittleEndian.Uint32(head[:]))
	if n == 0 || n > recordBytesMax || n > size-j.end-recordHead {
		return nil, nil
	}
	j.buf = append(j.buf[:0], make([]byte, n)...)
	if _, err := io.ReadFull(r, j.buf); err != nil {
		return nil, j.readError(err)
	}
	if binary.LittleEndian.Uint64(head[4:]) != checksum(j.end, j.buf) {
		return nil, nil
	}
	j.end += recordHead + n
	return j.buf, nil
}

func (j *journal) readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("%w: journal %s at %d: %w", ErrIO, j.path, j.end, err)
}

// checksum binds a record to its place, so that stale bytes of an earlier file never pass.
func checksum(offset int64, payload []byte) uint64 {
	return xxh3.HashSeed(payload, uint64(offset)<<32^uint64(len(payload)))
}

// compare checks the header of a journal that is there.
func (j *journal) compare(payload []byte, want header) error {
	if payload[0] != kindHeader || json.Unmarshal(payload[1:], &j.header) != nil {
		return fmt.Errorf("%w: %s has no header", ErrJournal, j.path)
	}
	if d := j.header.difference(want); d != "" {
		return fmt.Errorf("%w: %s; finish it with what it was begun with, or remove %s", ErrChanged, d,
			j.path)
	}
	return nil
}

// begin writes magic and header over whatever there is.
func (j *journal) begin(want header) error {
	j.header, j.end = want, 0
	if err := j.truncate(); err != nil {
		return err
	}
	text, err := json.Marshal(want)
	if err != nil {
		return err
	}
	if len(text) > headerBytesMax-len(journalMagic)-recordHead-1 {
		return fmt.Errorf("%w: model and options take %d bytes to describe", ErrUsage, len(text))
	}
	if _, err := j.write([]byte(journalMagic)); err != nil {
		return fmt.Errorf("%w: journal: %w", ErrIO, err)
	}
	j.end = int64(len(journalMagic))
	if _, err = j.append(kindHeader, text); err != nil {
		return err
	}
	if err := j.sync(); err != nil {
		return err
	}
	return syncDir(j.path)
}

// truncate cuts off what follows the last whole record.
func (j *journal) truncate() error {
	err := j.file.Truncate(j.end)
	if err == nil {
		_, err = j.file.Seek(j.end, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("%w: journal: %w", ErrIO, err)
	}
	return nil
}

// append adds a record and returns where its payload, kind included, begins. When the disk is full
// the journal is as it was.
func (j *journal) append(kind byte, parts ...[]byte) (offset int64, err error) {
	b := append(j.buf[:0], make([]byte, recordHead)...)
	b = append(b, kind)
	for _, p := range parts {
		b = append(b, p...)
	}
	j.buf = b
	payload := b[recordHead:]
	if len(payload) > recordBytesMax {
		return 0, fmt.Errorf("%w: journal: a record of %d bytes", ErrIO, len(payload))
	}
	binary.LittleEndian.PutUint32(b, uint32(len(payload)))
	binary.LittleEndian.PutUint64(b[4:], checksum(j.end, payload))
	if err := j.failure(); err != nil {
		return 0, err
	}
	if _, err := j.write(b); err != nil {
		return 0, errors.Join(fmt.Errorf("%w: journal: %w; what was finished before is kept: run the "+
			"same command again when there is room", ErrIO, err), j.truncate())
	}
	offset = j.end + recordHead
	j.end += int64(len(b))
	j.mu.Lock()
	j.dirty = true
	j.mu.Unlock()
	return offset, nil
}

func (j *journal) failure() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// flush syncs at an interval until the journal is closed.
func (j *journal) flush(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := j.sync(); err != nil {
				return // kept, and reported by the next append
			}
		case <-j.stop:
			return
		}
	}
}

// sync makes what was appended safe from a power failure. A failure stays.
func (j *journal) sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.dirty || j.failed != nil {
		return j.failed
	}
	j.dirty = false
	if err := j.file.Sync(); err != nil {
		j.failed = fmt.Errorf("%w: journal: %w", ErrIO, err)
	}
	return j.failed
}

// read returns size bytes at offset, valid until the next call of any method.
func (j *journal) read(offset int64, size int) ([]byte, error) {
	j.buf = append(j.buf[:0], make([]byte, size)...)
	if _, err := j.file.ReadAt(j.buf, offset); err != nil {
		return nil, fmt.Errorf("%w: journal: %w", ErrIO, err)
	}
	return j.buf, nil
}

// close syncs, and gives file and lock back. A journal that was never begun leaves no file.
func (j *journal) close() error {
	close(j.stop)
	j.synced.Wait()
	err := j.sync()
	if info, e := j.file.Stat(); e == nil && info.Size() == 0 {
		err = errors.Join(err, os.Remove(j.path))
	}
	return errors.Join(err, j.file.Close())
}

// compact replaces the journal by one that only says that the job is complete. The old file, with
// its lock, is gone when this returns.
func (j *journal) compact(done []byte) error {
	temp := j.path + tempSuffix
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, journalMode)
	if err != nil {
		return fmt.Errorf("%w: journal: %w", ErrIO, err)
	}
	small := &journal{path: temp, file: f, write: f.Write, stop: make(chan struct{})}
	err = small.begin(j.header)
	if err == nil {
		_, err = small.append(kindComplete, done)
	}
	if err = errors.Join(err, small.close()); err == nil {
		err = os.Rename(temp, j.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%w: journal: %w", ErrIO, err), os.Remove(temp))
	}
	return syncDir(j.path)
}
