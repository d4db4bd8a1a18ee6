package reader

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// contractSeeds is how many random lives of a reader the contract test goes through by default;
// MOERING_READER_SEEDS sets another number.
const contractSeeds = 2500

// TestTheContractHoldsOverManySeeds lets a simulated store with random faults live through random
// submits, cancels, promotions and passing time, in one goroutine, so that a seed repeats exactly.
func TestTheContractHoldsOverManySeeds(t *testing.T) {
	seeds := contractSeeds
	if s := os.Getenv("MOERING_READER_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	var sum tally
	for seed := range uint64(seeds) {
		l := newLife(t, seed)
		l.live()
		sum.add(l)
		if t.Failed() {
			t.Fatalf("seed %d: %v\n%s", seed, l.sim.sim, strings.Join(l.trace, "\n"))
		}
	}
	t.Logf("%+v", sum)
	if sum.right == 0 || sum.failed == 0 || sum.closed == 0 || sum.canceled == 0 ||
		sum.promoted == 0 || sum.timeouts == 0 || sum.stranded == 0 || sum.released == 0 ||
		sum.refused == 0 || sum.flipped == 0 {
		t.Error("something never came to pass")
	}
}

func TestALifeRepeatsFromItsSeed(t *testing.T) {
	for seed := range uint64(50) {
		a, b := newLife(t, seed), newLife(t, seed)
		a.live()
		b.live()
		if x, y := strings.Join(a.trace, "\n"), strings.Join(b.trace, "\n"); x != y {
			t.Fatalf("seed %d:\n%s\n\nand\n%s", seed, x, y)
		}
	}
}

// tally is what came to pass.
type tally struct {
	right, failed, closed, canceled, promoted, timeouts, stranded, released, refused, flipped int
}

func (s *tally) add(l *life) {
	s.right += l.right
	s.failed += l.failed
	s.closed += l.closed
	s.canceled += l.canceled
	s.promoted += l.promoted
	s.timeouts += l.timeouts
	s.stranded += l.stranded
	s.released += l.released
	s.refused += l.refused
	s.flipped += l.flipped
}

// life is one store and its requests.
type life struct {
	tally
	t     *testing.T
	rng   *rand.Rand
	data  [][]byte
	sim   *Sim
	all   []*member
	trace []string
}

// member is one request and what its owner knows of it.
type member struct {
	Request
	life     *life
	id       int
	out      bool // submitted and not ended
	stranded bool
	seen     byte // what Buf is filled with while it is the owner's
}

var lifeData = [][]byte{noise(1, 60000), noise(2, 4096), noise(3, 20001)}

func newLife(t *testing.T, seed uint64) *life {
	l := &life{t: t, rng: rand.New(rand.NewPCG(seed, 11)), data: lifeData}
	rng := l.rng
	sim := SimOptions{Seed: seed, ShortP: rng.Float64() * 0.4, InterruptP: rng.Float64() * 0.2,
		ErrorP: rng.Float64() * 0.02, TruncateP: rng.Float64() * 0.01, LatencyMin: time.Millisecond,
		LatencyMax: time.Duration(1+rng.IntN(50)) * time.Millisecond}
	o := Options{Depth: 1 + rng.IntN(6), ChunkBytes: 4096 << rng.IntN(5)}
	if rng.IntN(2) == 0 {
		sim.SlowP, sim.Slow = rng.Float64()*0.1, time.Duration(1+rng.IntN(20))*time.Second
	}
	if rng.IntN(2) == 0 {
		sim.BytesPerSecond = 1e6
	}
	if rng.IntN(4) > 0 {
		o.Timeout = time.Second
		sim.HangP = rng.Float64() * 0.1
		sim.HangFor = time.Duration(rng.IntN(3)) * 10 * time.Second
	}
	if rng.IntN(2) == 0 {
		sim.Devices = []uint64{1, 2, 1}
	}
	flip := rng.Int64N(60000)
	sim.Faults = []SimFault{{Offset: flip, Kind: SimFlip, Bit: uint8(rng.IntN(8))}}
	for kind := range SimHang {
		if rng.IntN(4) == 0 {
			sim.Faults = append(sim.Faults, SimFault{File: 2, Offset: rng.Int64N(20001), Bit: 7,
				Length: rng.Int64N(5000), Kind: kind + 1, Delay: 2 * time.Second,
				Times: rng.IntN(3)})
		}
	}
	s, err := newSim(backing(l.data), numbered("simulated", 3), sim, o)
	if err != nil {
		t.Fatal(err)
	}
	l.sim = s
	for i := range 12 {
		l.all = append(l.all, &member{life: l, id: i, seen: byte(i)})
	}
	return l
}

func (l *life) log(format string, args ...any) {
	l.trace = append(l.trace, fmt.Sprint(l.sim.now().UnixNano(), " ", fmt.Sprintf(format, args...)))
}

// live goes through the life and checks what must hold at its end.
func (l *life) live() {
	for range 120 {
		m := l.all[l.rng.IntN(len(l.all))]
		switch l.rng.IntN(8) {
		case 0, 1, 2:
			l.submit(m)
		case 3:
			l.cancel(m)
		case 4:
			if m.out && l.sim.Promote(&m.Request, Class(l.rng.IntN(3))) {
				l.promoted++
				l.log("promote %d", m.id)
			}
		default:
			l.sim.step()
		}
	}
	if l.rng.IntN(3) > 0 {
		l.settle()
	}
	l.sim.queue.shut() // Close, step by step
	for over := false; !over; {
		_, over = l.sim.step()
	}
	go l.sim.run() // has nothing to do but to end
	closeReader(l.t, l.sim)
	for _, m := range l.all {
		if m.out || m.stranded || m.state.active {
			l.t.Errorf("request %d has not ended: %+v", m.id, m.state)
		}
		m.untouched()
	}
	s := l.sim.Stats()
	if ended := l.right + l.failed + l.closed; int(s.Requests) != ended || s.InFlight != 0 ||
		s.Stranded != 0 || s.Queued != 0 || int(s.Failed) != ended-l.right ||
		int(s.Canceled) != l.canceled || s.InFlightPeak > l.sim.options.Depth*len(s.Devices) {
		l.t.Errorf("%+v\n%+v", l.tally, s)
	}
	l.timeouts += int(s.Timeouts)
}

// settle lets time pass until nothing happens any more: then only what hangs for ever may be out.
func (l *life) settle() {
	for i := 0; ; i++ {
		wait, over := l.sim.step()
		if wait < 0 || over {
			break
		}
		if i > 100000 {
			l.t.Fatal("time passes and nothing ends")
		}
	}
	for _, m := range l.all {
		if m.out && (l.sim.options.Timeout > 0 || l.sim.Faults().Hung == 0) {
			l.t.Errorf("request %d hangs", m.id)
		}
	}
}

func (l *life) submit(m *member) {
	if m.out {
		return
	}
	if m.stranded {
		err := l.sim.Submit(&m.Request)
		if !errors.Is(err, ErrUsage) && !errors.Is(err, ErrTimeout) {
			l.t.Errorf("stranded memory is taken: %v", err)
		}
		return
	}
	m.untouched()
	file := l.rng.IntN(len(l.data))
	size := 1 + l.rng.Int64N(int64(len(l.data[file])))
	start, length, skip := Hull(l.rng.Int64N(int64(len(l.data[file]))-size+1), size, Align)
	m.Request = Request{File: file, Offset: start, Need: int(skip + size), Buf: m.Buf, Tag: m,
		Class: Class(l.rng.IntN(3)), Label: "blk.0", Done: memberDone, Released: memberReleased}
	if cap(m.Buf) < int(length) {
		m.Buf = aligned(int(length))
	}
	m.Buf = m.Buf[:length]
	m.out = true // Done may come at once
	err := l.sim.Submit(&m.Request)
	l.log("submit %d, %v, %d bytes: %v", m.id, m.Class, size, err)
	if err != nil {
		m.out = false
		l.refused++
		if !errors.Is(err, ErrTimeout) {
			l.t.Error(err)
		}
		m.fill()
	}
}

func (l *life) cancel(m *member) {
	if !m.out || !l.sim.Cancel(&m.Request) {
		return
	}
	l.log("cancel %d", m.id)
	l.canceled++
	m.out = false
	m.fill()
}

// fill marks Buf as the owner's.
func (m *member) fill() {
	m.seen += 16
	if len(m.Buf) > 0 {
		m.Buf[0] = m.seen
	}
	for n := 1; n < len(m.Buf); n *= 2 {
		copy(m.Buf[n:], m.Buf[:n])
	}
}

// untouched checks that nobody wrote to Buf since fill.
func (m *member) untouched() {
	if bytes.Count(m.Buf, []byte{m.seen}) != len(m.Buf) {
		m.life.t.Errorf("the memory of request %d was written to after its end", m.id)
	}
}

func memberDone(r *Request, err error) {
	m := r.Tag.(*member)
	l := m.life
	l.log("done %d: %v", m.id, err)
	if !m.out || m.stranded {
		l.t.Errorf("Done of request %d, which is not out", m.id)
	}
	m.out = false
	switch {
	case err == nil:
		l.right++
		m.compare()
	case errors.Is(err, ErrIO):
		l.failed++
	case errors.Is(err, ErrClosed):
		l.closed++
	default:
		l.t.Error(err)
	}
	if m.stranded = errors.Is(err, ErrStranded); m.stranded {
		l.stranded++
		return
	}
	m.fill()
}

// compare wants the file's bytes, with the chosen bit of file 0 flipped and, where the second kind
// of flip was chosen for file 2, at most that.
func (m *member) compare() {
	l := m.life
	expected := l.data[m.File][m.Offset : m.Offset+int64(m.Need)]
	for _, f := range l.sim.sim.Faults {
		if i := f.Offset - m.Offset; f.Kind == SimFlip && f.File == m.File && i >= 0 &&
			i < int64(m.Need) {
			l.flipped++
			if got := m.Buf[i] ^ expected[i]; got != 1<<f.Bit && (f.File == 0 || got != 0) {
				l.t.Errorf("byte %d: bits %#x differ", f.Offset, got)
			}
			m.Buf[i] = expected[i]
		}
	}
	if !bytes.Equal(m.Buf[:m.Need], expected) {
		l.t.Errorf("request %d: wrong bytes", m.id)
	}
}

func memberReleased(r *Request) {
	m := r.Tag.(*member)
	m.life.log("released %d", m.id)
	if !m.stranded || m.out {
		m.life.t.Errorf("request %d is released and was not stranded", m.id)
	}
	m.stranded = false
	m.life.released++
	m.fill()
}

// TestHammer drives every reader from several goroutines that submit, promote, cancel and wait,
// until it is closed under them.
func TestHammer(t *testing.T) {
	names, data := writeCorpus(t)
	list := append(kinds(), kind{"sim with hangs", func(t testing.TB, _ []string, data [][]byte,
		o Options) Reader {
		o.Timeout = time.Second
		r, err := NewSim(backing(data), SimOptions{Seed: 5, LatencyMax: time.Second, SlowP: 0.01,
			Slow: 10 * time.Second, HangP: 0.001, HangFor: time.Minute}, o)
		return must(t, r, err)
	}})
	for _, k := range list {
		t.Run(k.name, func(t *testing.T) {
			r := k.open(t, names, data, Options{Depth: 3, ChunkBytes: 16 << 10, QueueRequests: 4})
			var workers sync.WaitGroup
			for i := range 4 {
				workers.Go(func() { hammer(t, r, data, uint64(i)) })
			}
			time.Sleep(60 * time.Millisecond)
			closeReader(t, r)
			workers.Wait()
			s := r.Stats()
			if s.InFlight != 0 || s.Queued != 0 || s.Stranded != 0 || s.Requests == 0 {
				t.Errorf("%+v", s)
			}
			t.Logf("%d requests, %d failed, %d canceled, %d promoted, %d timeouts", s.Requests,
				s.Failed, s.Canceled, s.Promoted, s.Timeouts)
		})
	}
}

func hammer(t *testing.T, r Reader, data [][]byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	released := make(chan struct{}, 1)
	for {
		var group sync.WaitGroup
		out := want(&group, 5, 0, int64(1+rng.IntN(len(data[5]))))
		out.Class = Class(rng.IntN(3))
		out.Released = func(*Request) { released <- struct{}{} }
		group.Add(1)
		if err := r.Submit(&out.Request); err != nil {
			if errors.Is(err, ErrTimeout) {
				continue
			}
			if !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			return
		}
		if rng.IntN(2) == 0 {
			r.Promote(&out.Request, Demand)
		}
		if rng.IntN(3) == 0 && r.Cancel(&out.Request) {
			if out.calls.Load() != 0 {
				t.Error("Done of a request that was taken back")
			}
			continue
		}
		group.Wait()
		switch {
		case out.err == nil:
			check(t, out, data)
		case errors.Is(out.err, ErrStranded):
			<-released
		case !errors.Is(out.err, ErrClosed) && !errors.Is(out.err, ErrTimeout):
			t.Error(out.err)
		}
	}
}
