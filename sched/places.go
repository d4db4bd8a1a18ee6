package sched

// places is the ring of offload/ring as the simulator sees it, rule for rule: sections gone round by
// a hand that gives second chances, of which up to a number are moored for the groups that the policy
// ranks highest.
type places struct {
	policy    Policy
	sections  []place
	at        []int32 // group → section, or absent
	hand      int
	moored    int
	mooredMax int
	// unheld: a group is moored as soon as it is claimed, and neither leases nor reads under way keep a
	// section from being taken. Belady's optimum is a bound from above, and is not held by them.
	unheld bool
}

type place struct {
	group                int32
	leases               int32
	filling, moored, hot bool
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

// find returns the section that holds or will hold the group, or absent.
func (c *places) find(group int) int { return int(c.at[group]) }

// lease keeps a section as it is until release.
func (c *places) lease(i int) {
	c.sections[i].leases++
	c.sections[i].hot = true
}

func (c *places) release(i int) { c.sections[i].leases-- }

// claim takes a section for a group that is to be read: the hand's, or where the hand finds nothing
// that of the lowest ranked; absent if everything is held.
func (c *places) claim(group int) int {
	i := c.sweep()
	if i == absent {
		i = c.worst()
	}
	return c.take(i, group)
}

// claimSpare is claim for a group that is read ahead: it takes no moored section.
func (c *places) claimSpare(group int) int { return c.take(c.sweep(), group) }

func (c *places) take(i, group int) int {
	if i == absent {
		return absent
	}
	c.empty(i)
	c.sections[i] = place{group: int32(group), filling: true}
	c.at[group] = int32(i)
	if c.unheld {
		c.moor(i)
	}
	return i
}

// empty forgets what a section holds.
func (c *places) empty(i int) {
	s := &c.sections[i]
	if s.group != absent {
		c.at[s.group] = absent
	}
	if s.moored {
		c.moored--
	}
	*s = place{group: absent}
}

func (c *places) sweep() int {
	for range 2 * len(c.sections) {
		i := c.hand
		c.hand = (c.hand + 1) % len(c.sections)
		s := &c.sections[i]
		switch {
		case s.group == absent:
			return i
		case s.moored || (s.leases > 0 || s.filling) && !c.unheld:
		case s.hot:
			s.hot = false
		default:
			return i
		}
	}
	return absent
}

// worst returns the moored section that ranks lowest of those that are not leased, or absent.
func (c *places) worst() int {
	w := absent
	for i := range c.sections {
		s := &c.sections[i]
		if s.moored && (s.leases == 0 || c.unheld) &&
			(w == absent || c.policy.Better(int(c.sections[w].group), int(s.group))) {
			w = i
		}
	}
	return w
}

// ready ends the reading of a section's group.
func (c *places) ready(i int) {
	c.sections[i].filling = false
	if !c.sections[i].moored {
		c.moor(i)
	}
}

// moor keeps a section out of the hand's way if there is a place, or its group ranks above another,
// which is cast off and stays until the hand comes by.
func (c *places) moor(i int) {
	if c.moored >= c.mooredMax {
		w := c.worst()
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
