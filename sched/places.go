package sched

// places is the ring of offload/ring as the simulator sees it: sections gone round by a hand that
// gives second chances, of which up to a number are moored for the groups that the policy ranks
// highest. The difference: a group is there as soon as it is claimed, and one that is pinned stays.
type places struct {
	policy    Policy
	sections  []place
	at        []int32 // group → section, or absent
	hand      int
	moored    int
	mooredMax int
}

type place struct {
	group               int32
	moored, hot, pinned bool
}

func newPlaces(sections, mooredMax, groups int, p Policy) *places {
	c := &places{policy: p, sections: make([]place, sections), at: make([]int32, groups),
		mooredMax: mooredMax}
	for i := range c.sections {
		c.sections[i].group = absent
	}
	for g := range c.at {
		c.at[g] = absent
	}
	return c
}

// find returns the group's section, or absent.
func (c *places) find(group int) int { return int(c.at[group]) }

// load brings a group in, and returns its section: the hand's, or where the hand finds nothing the
// lowest ranked; absent if everything is pinned.
func (c *places) load(group int) int {
	i := c.sweep()
	if i == absent {
		i = c.worst(false)
	}
	return c.take(i, group)
}

// loadSpare is load for a guess: it takes no moored section.
func (c *places) loadSpare(group int) int { return c.take(c.sweep(), group) }

func (c *places) take(i, group int) int {
	if i == absent {
		return absent
	}
	s := &c.sections[i]
	if s.group != absent {
		c.at[s.group] = absent
	}
	if s.moored {
		c.moored--
	}
	*s = place{group: int32(group), hot: true}
	c.at[group] = int32(i)
	c.moor(i)
	return i
}

func (c *places) sweep() int {
	for range 2 * len(c.sections) {
		i := c.hand
		c.hand = (c.hand + 1) % len(c.sections)
		s := &c.sections[i]
		switch {
		case s.group == absent:
			return i
		case s.pinned || s.moored:
		case s.hot:
			s.hot = false
		default:
			return i
		}
	}
	return absent
}

// worst returns the moored section that ranks lowest, pinned ones only if they may be, or absent.
func (c *places) worst(pinned bool) int {
	w := absent
	for i := range c.sections {
		s := &c.sections[i]
		if s.moored && (pinned || !s.pinned) &&
			(w == absent || c.policy.Better(int(c.sections[w].group), int(s.group))) {
			w = i
		}
	}
	return w
}

// moor keeps a section out of the hand's way if there is a place, or its group ranks above another.
func (c *places) moor(i int) {
	if c.moored >= c.mooredMax {
		w := c.worst(true) // casting off moves nothing: what is pinned stays until it is let go
		if w == absent || !c.policy.Better(int(c.sections[i].group), int(c.sections[w].group)) {
			return
		}
		c.sections[w].moored = false
		c.moored--
	}
	c.sections[i].moored = true
	c.moored++
}

// optimum is Belady's: it knows every use to come, and ranks by the next one. It exists in the
// simulator alone.
type optimum struct {
	next []int32 // for each use, the use after it of the same group
	of   []int32 // group → its next use
	now  int
}

func newOptimum(uses []int32, groups int) *optimum {
	p := &optimum{next: make([]int32, len(uses)), of: make([]int32, groups)}
	for g := range p.of {
		p.of[g] = int32(len(uses))
	}
	for i := len(uses) - 1; i >= 0; i-- {
		p.next[i] = p.of[uses[i]]
		p.of[uses[i]] = int32(i)
	}
	return p
}

func (p *optimum) Use(group int) {
	p.of[group] = p.next[p.now]
	p.now++
}

func (p *optimum) Better(a, b int) bool { return p.of[a] < p.of[b] }
