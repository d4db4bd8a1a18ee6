// Package ring is the ring of memory sections through which groups of weights pass. A section holds
// one group at a time and goes free → filling → ready → free; while it is leased nothing moves it.
// A hand goes round and refills what is neither leased nor moored, giving a section that was used
// again a second chance: with no reuse this is the round-robin ring of SE-MoE (arXiv 2205.10034,
// section 3.3.2), with reuse a CLOCK cache.
//
// Up to a number of sections may be moored: kept out of the hand's way for groups that the policy
// ranks highest. They are the expert cache. Mooring moves no bytes: a group stays where it landed.
package ring

// Policy ranks groups; see sched.Policy.
type Policy interface {
	Use(group int)
	Better(a, b int) bool
}

// None is the absence of a section or group.
const None = -1

type state uint8

const (
	free state = iota
	filling
	ready
	abandoned
)

type section struct {
	group  int
	leases int
	state  state
	moored bool
	hot    bool // used again since the hand last came by
}

// Ring keeps the states. It holds no memory and is not safe for concurrent use: the caller owns the
// memory of section i, and the lock.
type Ring struct {
	sections  []section
	at        []int // group → section, or None
	hand      int
	moored    int
	mooredMax int
	policy    Policy
}

// New returns a ring of so many sections, of which at most mooredMax are moored, for groups 0 to
// groups-1.
func New(sections, mooredMax, groups int, p Policy) *Ring {
	r := &Ring{sections: make([]section, sections), at: make([]int, groups), mooredMax: mooredMax,
		policy: p}
	for i := range r.sections {
		r.sections[i].group = None
	}
	for g := range r.at {
		r.at[g] = None
	}
	return r
}

// Find returns the section that holds or will hold the group, or None; ready tells which.
func (r *Ring) Find(group int) (index int, isReady bool) {
	i := r.at[group]
	return i, i != None && r.sections[i].state == ready
}

// Use tells the policy that the group was wanted.
func (r *Ring) Use(group int) { r.policy.Use(group) }

// Lease keeps the section as it is until Release.
func (r *Ring) Lease(i int) {
	r.sections[i].leases++
	r.sections[i].hot = true
}

// Release takes one lease back, and returns how many are left.
func (r *Ring) Release(i int) (left int) {
	s := &r.sections[i]
	if s.leases == 0 {
		panic("ring: release of a section that is not leased")
	}
	s.leases--
	return s.leases
}

// Claim takes a section for filling with the group, evicting what the hand finds. It returns None
// when every section is leased or filling.
func (r *Ring) Claim(group int) int {
	i := r.sweep()
	if i == None {
		i = r.worst()
	}
	return r.take(i, group)
}

// ClaimSpare is Claim for a group that is only likely to be wanted: it never evicts a moored one.
func (r *Ring) ClaimSpare(group int) int { return r.take(r.sweep(), group) }

func (r *Ring) take(i, group int) int {
	if i == None {
		return None
	}
	r.empty(i)
	r.sections[i] = section{group: group, state: filling}
	r.at[group] = i
	return i
}

// sweep moves the hand to a section that can be refilled: twice round, since the first turn may
// only take second chances away.
func (r *Ring) sweep() int {
	for range 2 * len(r.sections) {
		i := r.hand
		r.hand = (r.hand + 1) % len(r.sections)
		s := &r.sections[i]
		switch {
		case s.state == free:
			return i
		case s.leases > 0 || s.state == filling || s.state == abandoned || s.moored:
		case s.hot:
			s.hot = false
		default:
			return i
		}
	}
	return None
}

// worst returns the moored section that is not leased and ranks lowest, or None.
func (r *Ring) worst() int {
	w := None
	for i := range r.sections {
		s := &r.sections[i]
		if s.moored && s.leases == 0 && (w == None || r.policy.Better(r.sections[w].group, s.group)) {
			w = i
		}
	}
	return w
}

func (r *Ring) empty(i int) {
	s := &r.sections[i]
	if s.group != None {
		r.at[s.group] = None
	}
	if s.moored {
		r.moored--
	}
	*s = section{group: None}
}

// Ready ends the filling of a section, and moors it if there is a place, or if the group ranks above
// a moored one, which is cast off and stays until the hand comes by.
func (r *Ring) Ready(i int) {
	s := &r.sections[i]
	s.state = ready
	if r.moored >= r.mooredMax {
		w := r.worst()
		if w == None || !r.policy.Better(s.group, r.sections[w].group) {
			return
		}
		r.sections[w].moored = false
		r.moored--
	}
	s.moored = true
	r.moored++
}

// Fail ends the filling of a section without a group. Its leases are gone.
func (r *Ring) Fail(i int) { r.empty(i) }

// Abandon ends the filling of a section whose memory may still be written to: it holds nothing and is
// not refilled until Fail. Its leases are gone.
func (r *Ring) Abandon(i int) {
	r.empty(i)
	r.sections[i].state = abandoned
}

// Abandoned reports whether the section was abandoned and not failed since.
func (r *Ring) Abandoned(i int) bool { return r.sections[i].state == abandoned }

// Leases returns how many leases a section has.
func (r *Ring) Leases(i int) int { return r.sections[i].leases }

// Leased counts leases, for the check that nothing leaks.
func (r *Ring) Leased() (n int) {
	for i := range r.sections {
		n += r.sections[i].leases
	}
	return n
}
