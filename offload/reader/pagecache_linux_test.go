package reader

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The page cache is chosen where it holds everything and is faster than the device, and only where it
// was asked for.
func TestPageCacheIsChosenWhereItIsFaster(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, noise(7, 3<<20+123), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{PageCache: true, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	fs, err := openFiles([]string{name}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { fs.close() }()
	if !fs[0].inCache(rand.New(rand.NewPCG(1, 1)), 8) {
		t.Skip("the file system does not tell what is in the page cache")
	}
	slow, fast := []device{{rate: 1}}, []device{{rate: 1e15}}
	asked := o
	for what, c := range map[string]struct {
		devices []device
		o       Options
		faster  bool
	}{
		"a slow device":  {slow, o, true},
		"a fast device":  {fast, o, false},
		"not probed":     {[]device{{}}, o, false},
		"not asked for":  {slow, Options{Now: o.Now, Logger: o.Logger}, false},
		"buffered asked": {slow, Options{Now: o.Now, Logger: o.Logger, PageCache: true, Buffered: true}, false},
	} {
		if got := cached(fs, c.devices, c.o); got.faster != c.faster {
			t.Errorf("%s: %+v", what, got)
		}
	}
	c := cached(fs, slow, asked)
	if fs, err = c.reopen(fs, slow, asked); err != nil {
		t.Fatal(err)
	}
	if fs[0].direct || slow[0].rate != c.rate || !strings.Contains(fs[0].reason, "GB/s") {
		t.Errorf("%+v, %+v", fs[0], slow[0])
	}
	got := make([]byte, 1000)
	if n, err := fs[0].readAt(got, 5000); n != 1000 || err != nil ||
		!bytes.Equal(got, noise(7, 3<<20+123)[5000:6000]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &stat); err != nil || stat.Type == unix.TMPFS_MAGIC {
		t.Skipf("a file system in memory: %v", err)
	}
	if c := cached(fs, slow, o); c.faster {
		t.Errorf("nothing is in the page cache, and it is chosen: %+v", c)
	}
}

// Descriptors of the choice do not outlive it.
func TestPageCacheLeavesNoDescriptors(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, noise(8, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for range 3 {
		r, err := OpenPread([]string{name}, Options{PageCache: true, Probe: ProbeOff})
		if err != nil {
			t.Fatal(err)
		}
		if n := descriptors(t); n > before+1 {
			t.Errorf("%d descriptors, %d before", n, before)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(list)
}
