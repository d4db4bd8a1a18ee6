package reader

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Bounds of looking at the page cache.
const (
	cacheSamples  = 256      // pages of each file that must all be there
	cacheReadMost = 32 << 20 // bytes read for the figure
	cacheReadOnce = 1 << 20
	cacheTimeMax  = 50 * time.Millisecond
	// cacheGain is how much faster than the device the page cache must be: its reads take a core's time
	// for copying.
	cacheGain = 1.25
)

// pageCache is what was found there.
type pageCache struct {
	faster bool
	rate   float64 // bytes a second
	device float64 // the same of the devices together
}

// cached looks whether the page cache holds the files, by pages at random, and how fast it is. Devices
// that were not probed have nothing to compare with, and stay.
func cached(fs files, devices []device, o Options) (c pageCache) {
	if !o.PageCache || o.Buffered {
		return c
	}
	for i := range devices {
		if devices[i].rate <= 0 {
			return c
		}
		c.device += devices[i].rate
	}
	rng := rand.New(rand.NewPCG(uint64(o.Now().UnixNano()), uint64(len(fs))))
	for i := range fs {
		if !fs[i].inCache(rng, cacheSamples) {
			return c
		}
	}
	largest := 0
	for i := range fs {
		if fs[i].size > fs[largest].size {
			largest = i
		}
	}
	c.rate = fs[largest].cacheRate(rng, o.Now)
	c.faster = c.rate > cacheGain*c.device
	o.Logger.Info("the model is in the page cache", "bytes_per_second", int64(c.rate),
		"device_bytes_per_second", int64(c.device), "chosen", c.faster)
	return c
}

// reopen opens the files anew to be read through the page cache. The figures of the devices are then
// the cache's.
func (c pageCache) reopen(fs files, devices []device, o Options) (files, error) {
	names := fs.names()
	if err := fs.close(); err != nil {
		return nil, err
	}
	o.Buffered = true
	fs, err := openFiles(names, o)
	if err != nil {
		return nil, err
	}
	for i := range fs {
		fs[i].reason = fmt.Sprintf("it is there, and gives %.2f GB/s, the device %.2f", c.rate/1e9,
			c.device/1e9)
	}
	for i := range devices {
		devices[i].rate = c.rate / float64(len(devices))
	}
	return fs, nil
}

// cacheRate reads at random, through the page cache, and says how fast that was.
func (f *file) cacheRate(rng *rand.Rand, now func() time.Time) float64 {
	buffer := make([]byte, min(cacheReadOnce, f.size))
	start, bytes := now(), 0
	for bytes < cacheReadMost && now().Sub(start) < cacheTimeMax {
		at := rng.Int64N(f.size - int64(len(buffer)) + 1)
		n, err := f.readCached(buffer, at)
		if n <= 0 || err != nil {
			return 0
		}
		bytes += n
	}
	if took := now().Sub(start).Seconds(); took > 0 {
		return float64(bytes) / took
	}
	return 0
}

// inCache reports that the pages at so many random places of the file are all in the page cache.
func (f *file) inCache(rng *rand.Rand, samples int) bool {
	if f.size == 0 {
		return true
	}
	var page [1]byte
	for range samples {
		if n, err := f.readCached(page[:], rng.Int64N(f.size)); n != 1 || err != nil {
			return false
		}
	}
	return true
}

// errNotCached: bytes are not in the page cache, or it cannot be asked.
var errNotCached = errors.New("not in the page cache")
