package reader

import "sync"

// Pread reads with a pool of goroutines that call pread(2), each of which holds one system thread
// while it reads. It works wherever files can be read.
type Pread struct {
	pool    *pool
	files   files
	options Options
	close   func() error
}

// OpenPread opens the files. A file system that refuses direct reads is no error: such a file is
// read through the page cache, the reason is logged once and listed by Fallbacks. Errors wrap ErrIO
// or ErrUsage.
func OpenPread(names []string, o Options) (*Pread, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	files, err := openFiles(names, o)
	if err != nil {
		return nil, err
	}
	p := &Pread{files: files, options: o}
	p.pool = newPool(newQueue(files.names(), files.align(), o), p, o.Depth)
	p.close = sync.OnceValue(func() error {
		p.pool.close()
		return p.files.close()
	})
	return p, nil
}

func (p *Pread) readAt(t *piece, buf []byte, offset int64) (int, error) {
	return p.files[t.request.File].readAt(buf, offset)
}

// Submit implements Reader.
func (p *Pread) Submit(r *Request) error { return p.pool.queue.push(r) }

// Close implements Reader.
func (p *Pread) Close() error { return p.close() }

// Stats implements Reader.
func (p *Pread) Stats() Stats { return p.files.count(p.pool.queue.snapshot()) }

// Info implements Reader.
func (p *Pread) Info() string { return p.files.info("pread pool", p.options) }

// Align implements Reader.
func (p *Pread) Align() int { return p.files.align() }

// Fallbacks lists the files that are read through the page cache, with the reasons.
func (p *Pread) Fallbacks() []Fallback { return p.files.fallbacks() }
