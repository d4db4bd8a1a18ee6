package reader

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// testQueue is a queue of one device without a reader; its pieces are of one block.
func testQueue(t *testing.T, depth int, o Options) *queue {
	t.Helper()
	o.Depth, o.ChunkBytes = depth, Align
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	laneOf, devices, err := group([]uint64{0}, o)
	if err != nil {
		t.Fatal(err)
	}
	q := newQueue([]string{"file"}, laneOf, devices, Align, o)
	q.wake = func() {}
	return q
}

// blocks is a request for n blocks that appends its name and error to a list.
func blocks(list *[]string, name string, class Class, n int) *Request {
	return &Request{Label: name, Class: class, Buf: aligned(n * Align),
		Done: func(r *Request, err error) { *list = append(*list, fmt.Sprint(r.Label, " ", err)) }}
}

func mustPush(t *testing.T, q *queue, list ...*Request) {
	t.Helper()
	for _, r := range list {
		if err := q.push(r); err != nil {
			t.Fatal(err)
		}
	}
}

// drainOrder takes and finishes pieces one by one, and lists the labels.
func drainOrder(q *queue) string {
	var order []string
	for {
		p, _ := q.take()
		if p == nil {
			return strings.Join(order, " ")
		}
		order = append(order, p.request.Label)
		p.got = p.need
		q.finish(p, nil)
	}
}

func TestDemandOvertakesEvenWhatIsPartlyRead(t *testing.T) {
	q := testQueue(t, 1, Options{})
	var ended []string
	mustPush(t, q, blocks(&ended, "p1", Predicted, 3), blocks(&ended, "p2", Predicted, 1),
		blocks(&ended, "c1", Certain, 2))
	first, _ := q.take()
	if first.request.Label != "c1" {
		t.Fatalf("%s goes first", first.request.Label)
	}
	mustPush(t, q, blocks(&ended, "d1", Demand, 2), blocks(&ended, "c2", Certain, 1),
		blocks(&ended, "d2", Demand, 1))
	q.finish(first, nil)
	if order := drainOrder(q); order != "d1 d1 d2 c1 c2 p1 p1 p1 p2" {
		t.Error(order)
	}
	if s := strings.Join(ended, ","); s != "d1 <nil>,d2 <nil>,c1 <nil>,c2 <nil>,p1 <nil>,p2 <nil>" {
		t.Error(s)
	}
	s := q.snapshot()
	if s.Waits[Demand].Requests != 2 || s.Waits[Certain].Requests != 2 ||
		s.Waits[Predicted].Requests != 2 || s.Queued != 0 || s.Devices[0].Pieces != 10 {
		t.Errorf("%+v", s)
	}
}

func TestPromotionGoesToTheEndOfTheBetterClassAndNeverDown(t *testing.T) {
	q := testQueue(t, 1, Options{QueueRequests: 2})
	var ended []string
	d, c := blocks(&ended, "d", Demand, 1), blocks(&ended, "c", Certain, 1)
	p1, p2 := blocks(&ended, "p1", Predicted, 1), blocks(&ended, "p2", Predicted, 2)
	mustPush(t, q, p1, p2, d, blocks(&ended, "d'", Demand, 1), c)
	if !q.promote(p2, Demand) || !q.promote(p1, Certain) || !q.promote(d, Predicted) {
		t.Error("a request that waits is not promoted")
	}
	if q.promote(p1, ClassCount) || q.promote(nil, Demand) || q.promote(&Request{}, Demand) {
		t.Error("nonsense is promoted")
	}
	mustPush(t, q, blocks(&ended, "p3", Predicted, 1)) // its class has room again
	if order := drainOrder(q); order != "d d' p2 p2 c p1 p3" {
		t.Error(order)
	}
	if q.promote(p2, Demand) || q.snapshot().Promoted != 2 {
		t.Errorf("%+v", q.snapshot())
	}
}

func TestCancelTakesBackOnlyWhatHasNotStarted(t *testing.T) {
	q := testQueue(t, 1, Options{})
	var ended []string
	a, b, c := blocks(&ended, "a", Demand, 2), blocks(&ended, "b", Demand, 1),
		blocks(&ended, "c", Demand, 1)
	mustPush(t, q, a, b, c)
	p, _ := q.take()
	if q.cancel(a) || !q.cancel(b) || q.cancel(b) || q.cancel(nil) || q.cancel(&Request{}) {
		t.Error("the wrong requests are taken back")
	}
	mustPush(t, q, b) // the caller's again
	q.finish(p, nil)
	if order := drainOrder(q); order != "a c b" || q.cancel(a) {
		t.Error(order)
	}
	if s := q.snapshot(); len(ended) != 3 || s.Canceled != 1 || s.CanceledBytes != Align {
		t.Errorf("%v, %+v", ended, s)
	}
}

// TestAFullClassHoldsUpNoOther: a demand must not wait for room behind predictions.
func TestAFullClassHoldsUpNoOther(t *testing.T) {
	q := testQueue(t, 1, Options{QueueRequests: 1})
	var ended []string
	p := blocks(&ended, "p", Predicted, 1)
	mustPush(t, q, p, blocks(&ended, "c", Certain, 1), blocks(&ended, "d", Demand, 1))
	pushed := make(chan error)
	go func() { pushed <- q.push(blocks(&ended, "p'", Predicted, 1)) }()
	select {
	case err := <-pushed:
		t.Fatalf("a full class takes a request: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if !q.cancel(p) { // makes room
		t.Fatal("cancel failed")
	}
	select {
	case err := <-pushed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(hangLimit):
		t.Fatal("Submit hangs though there is room")
	}
	if order := drainOrder(q); order != "d c p'" {
		t.Error(order)
	}
}

func TestEveryDeviceHasItsOwnDepth(t *testing.T) {
	o, err := Options{Depth: 2, ChunkBytes: Align}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	laneOf, devices, err := group([]uint64{7<<32 | 1, 7<<32 | 2, 7<<32 | 1}, o)
	if err != nil || len(devices) != 2 || devices[0].files != 2 || devices[1].name != "7:2" {
		t.Fatalf("%+v, %v", devices, err)
	}
	q := newQueue([]string{"a", "b", "c"}, laneOf, devices, Align, o)
	q.wake = func() {}
	var ended []string
	for file := range 3 {
		r := blocks(&ended, fmt.Sprint(file), Demand, 3)
		r.File = file
		mustPush(t, q, r)
	}
	var started []string
	for p, _ := q.take(); p != nil; p, _ = q.take() {
		started = append(started, p.request.Label)
	}
	if s := strings.Join(started, " "); s != "0 0 1 1" {
		t.Errorf("started: %s", s)
	}
	s := q.snapshot()
	if s.Devices[0].InFlight != 2 || s.Devices[1].InFlight != 2 || s.Devices[0].Queued != 2 ||
		s.Devices[1].Queued != 1 || s.InFlight != 4 {
		t.Errorf("%+v", s)
	}
}

func TestTooManyDevicesAreRefused(t *testing.T) {
	ids := make([]uint64, DevicesMax+1)
	for i := range ids {
		ids[i] = uint64(i)
	}
	if _, _, err := group(ids, Options{}); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
}

// TestBusyTimeCountsOverlapOnce uses a clock that the test sets.
func TestBusyTimeCountsOverlapOnce(t *testing.T) {
	var now time.Time
	q := testQueue(t, 2, Options{Now: func() time.Time { return now }})
	var ended []string
	mustPush(t, q, blocks(&ended, "a", Demand, 3))
	now = now.Add(time.Second) // in the queue, nothing in flight
	first, _ := q.take()
	now = now.Add(time.Second)
	second, _ := q.take()
	now = now.Add(time.Second)
	q.finish(first, nil)
	now = now.Add(time.Second)
	if s := q.snapshot(); s.BusyNanos != 3e9 || s.Devices[0].BusyNanos != 3e9 {
		t.Errorf("while reading: %+v", s)
	}
	q.finish(second, nil)
	now = now.Add(time.Hour)
	drainOrder(q)
	s := q.snapshot()
	if s.BusyNanos != 3e9 || s.Devices[0].BusyNanos != 3e9 ||
		s.Waits[Demand] != (WaitStats{Requests: 1, Nanos: 1e9, NanosMax: 1e9}) {
		t.Errorf("%+v", s)
	}
}

// cancelRace lets Cancel race the start of a request on a real reader.
func cancelRace(t *testing.T, r Reader, data [][]byte) (taken, read int) {
	var group sync.WaitGroup
	for i := range 400 {
		out := want(&group, 3, 0, 4096)
		out.Class = Predicted
		submit(t, r, out)
		for range i { // from at once to a while
			runtime.Gosched()
		}
		if r.Cancel(&out.Request) {
			taken++
			group.Done()
			if out.calls.Load() != 0 {
				t.Fatal("a request that was taken back has ended")
			}
			continue
		}
		wait(t, &group)
		check(t, out, data)
		read++
	}
	return taken, read
}

func TestCancelRacesTheReader(t *testing.T) {
	eachKind(t, Options{Depth: 2}, func(t *testing.T, r Reader, _ []string, data [][]byte) {
		taken, read := cancelRace(t, r, data)
		t.Logf("%d taken back, %d read", taken, read)
		if s := r.Stats(); int(s.Canceled) != taken || int(s.Requests) != read ||
			s.CanceledBytes != int64(taken)*4096 {
			t.Errorf("%+v", s)
		}
	})
}
