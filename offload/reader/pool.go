package reader

import (
	"sync"
	"time"
)

// source reads at one offset, as pread does: fewer bytes than asked for are no error, 0 bytes are
// the end of the file. The piece is what the read is a part of.
type source interface {
	readAt(p *piece, buf []byte, offset int64) (int, error)
}

// pool reads the pieces of a queue from a source: for every device as many goroutines as its depth,
// each of which reads one piece at a time. A system call cannot be taken back: a goroutine whose
// read is stranded is left behind until the call returns, and holds a place of the device.
type pool struct {
	queue     *queue
	source    source
	after     func() error // once all goroutines have ended, to close the files
	closeWait time.Duration
	workers   sync.WaitGroup
	drained   chan struct{} // closed when nothing is in flight any more
	ended     chan struct{} // closed after after
	err       error         // of after
	end       func()
}

func newPool(q *queue, s source, closeWait time.Duration, after func() error) *pool {
	w := &pool{queue: q, source: s, after: after, closeWait: closeWait,
		drained: make(chan struct{}), ended: make(chan struct{})}
	w.end = sync.OnceFunc(func() {
		close(w.drained)
		go func() {
			w.workers.Wait()
			w.err = w.after()
			close(w.ended)
		}()
	})
	for i := range q.pieces {
		w.workers.Go(func() { w.work(int(q.pieces[i].lane)) })
	}
	if q.timeout > 0 {
		w.workers.Go(w.watch)
	}
	return w
}

// work reads pieces of one device until the queue is closed.
func (w *pool) work(lane int) {
	for {
		p := w.queue.wait(lane)
		if p == nil {
			return
		}
		w.queue.finish(p, w.read(p))
	}
}

// read reads one piece to its end, or until nobody wants it any more.
func (w *pool) read(p *piece) error {
	for {
		buf, offset := p.target()
		again, cause := p.advance(w.source.readAt(p, buf, offset))
		if !again || p.expired.Load() {
			return cause
		}
	}
}

// watch strands what is out of time. It never sleeps longer than the timeout, so that it need not
// be woken for a read that begins meanwhile.
func (w *pool) watch() {
	timer := time.NewTimer(w.queue.timeout)
	defer timer.Stop()
	for {
		select {
		case <-w.drained:
			return
		case <-timer.C:
			timer.Reset(w.queue.overdue())
		}
	}
}

// close implements Reader.Close.
func (w *pool) close() error {
	w.queue.shut()
	w.queue.drain()
	w.end()
	if err := w.queue.reclaim(w.closeWait); err != nil {
		return err
	}
	<-w.ended
	return w.err
}
