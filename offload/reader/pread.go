package reader

// Pread reads with a pool of goroutines that call pread(2), each of which holds one system thread
// while it reads. It works wherever files can be read.
type Pread struct {
	pool  *pool
	files files
	info  string
}

// OpenPread opens the files. A file system that refuses direct reads is no error: such a file is
// read through the page cache, the reason is logged once and listed by Fallbacks. Errors wrap ErrIO
// or ErrUsage.
func OpenPread(names []string, o Options) (*Pread, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	open := func(names []string, o Options) (Reader, error) { return OpenPread(names, o) }
	files, q, err := prepare(names, KindPread, o, open)
	if err != nil {
		return nil, err
	}
	p := &Pread{files: files, info: files.info("pread pool", q)}
	p.pool = newPool(q, p, o.CloseWait, files.close)
	return p, nil
}

func (p *Pread) readAt(t *piece, buf []byte, offset int64) (int, error) {
	return p.files[t.request.File].readAt(buf, offset)
}

// Submit implements Reader.
func (p *Pread) Submit(r *Request) error { return p.pool.queue.push(r) }

// Cancel implements Reader.
func (p *Pread) Cancel(r *Request) bool { return p.pool.queue.cancel(r) }

// Promote implements Reader.
func (p *Pread) Promote(r *Request, c Class) bool { return p.pool.queue.promote(r, c) }

// Close implements Reader.
func (p *Pread) Close() error { return p.pool.close() }

// Stats implements Reader.
func (p *Pread) Stats() Stats { return p.files.count(p.pool.queue.snapshot()) }

// Info implements Reader.
func (p *Pread) Info() string { return p.info }

// Align implements Reader.
func (p *Pread) Align() int { return p.files.align() }

// Fallbacks lists the files that are read through the page cache, with the reasons.
func (p *Pread) Fallbacks() []Fallback { return p.files.fallbacks() }
