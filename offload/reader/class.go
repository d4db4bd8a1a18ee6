package reader

import (
	"fmt"
	"sync"
)

// Class says how sure it is that a request is wanted, and with it who is read first: all pieces
// that wait in a class go before those of the next, whatever came first; inside a class requests
// are read in the order in which they entered it.
type Class uint8

const (
	Demand    Class = iota // something waits for it now; the zero value
	Certain                // it will be wanted
	Predicted              // it may be wanted
	// ClassCount is the number of classes.
	ClassCount = iota
)

// String names the class.
func (c Class) String() string {
	if c >= ClassCount {
		return fmt.Sprintf("class %d", uint8(c))
	}
	return [ClassCount]string{"demand", "certain", "predicted"}[c]
}

// line is the requests of one class that wait for one device, linked through their states: a
// request is taken out of the middle as easily as off the head, and nothing is allocated. The
// queue's mutex guards it.
type line struct {
	first, last *Request
	n           int
	room        sync.Cond // a place is free, or the reader takes no more
}

// push appends a request that is in no line.
func (l *line) push(r *Request) {
	r.state.waiting = true
	r.state.before = l.last
	if l.last == nil {
		l.first = r
	} else {
		l.last.state.after = r
	}
	l.last = r
	l.n++
}

// remove takes a request out, and lets one Submit in that waits for its place.
func (l *line) remove(r *Request) {
	s := &r.state
	if s.before == nil {
		l.first = s.after
	} else {
		s.before.state.after = s.after
	}
	if s.after == nil {
		l.last = s.before
	} else {
		s.after.state.before = s.before
	}
	s.before, s.after, s.waiting = nil, nil, false
	l.n--
	l.room.Signal()
}
