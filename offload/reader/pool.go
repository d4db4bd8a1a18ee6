package reader

import "sync"

// source reads at one offset, as pread does: fewer bytes than asked for are no error, 0 bytes are
// the end of the file. The piece is what the read is a part of.
type source interface {
	readAt(p *piece, buf []byte, offset int64) (int, error)
}

// pool reads the pieces of a queue from a source, one piece per goroutine at a time.
type pool struct {
	queue   *queue
	source  source
	workers sync.WaitGroup
}

func newPool(q *queue, s source, depth int) *pool {
	p := &pool{queue: q, source: s}
	for range depth {
		p.workers.Go(p.work)
	}
	return p
}

// work reads pieces until the queue is closed.
func (w *pool) work() {
	var p piece // one for all reads: a piece in an interface call would be allocated
	for {
		if got, _ := w.queue.next(&p, true); !got {
			return
		}
		w.queue.finish(&p, w.read(&p))
	}
}

// read reads one piece to its end.
func (w *pool) read(p *piece) error {
	for {
		buf, offset := p.target()
		again, cause := p.advance(w.source.readAt(p, buf, offset))
		if !again {
			return cause
		}
	}
}

// close waits for the workers. It may be called again.
func (w *pool) close() {
	w.queue.close()
	w.workers.Wait()
}
