package chat

// loopContext is the loop variable. It reads ahead only when asked for last, nextitem or length, as
// the reference does, because a filter in the loop may depend on what the body changed.
type loopContext struct {
	r        *run
	src      any // what is iterated, for its length
	next     func() (any, bool)
	total    int // -1 until known
	index0   int
	after    any // item read ahead, nil if none
	current  any
	before   any
	lastSeen any // arguments of the last changed()
	depth0   int
	recurse  func(iter any, depth int) any // nil unless the loop is recursive
}

// advance moves to the next item.
func (l *loopContext) advance() bool {
	item, ok := l.peek()
	if !ok {
		return false
	}
	l.after = nil
	l.index0++
	l.before, l.current = l.current, item
	return true
}

func (l *loopContext) peek() (any, bool) {
	if l.after == nil {
		item, ok := l.next()
		if !ok {
			return nil, false
		}
		l.after = item
	}
	return l.after, true
}

func (l *loopContext) length() int {
	if l.total >= 0 {
		return l.total
	}
	if n, ok := length(l.src); ok {
		l.total = n
		return n
	}
	rest := l.r.collect(&iterator{l.next})
	l.next = counted(len(rest), func(i int) any { return rest[i] })
	l.total = len(rest) + l.index0 + 1
	if l.after != nil {
		l.total++
	}
	return l.total
}

// attribute returns loop.name; ok is false for a name it does not have.
func (l *loopContext) attribute(name string) (any, bool) {
	switch name {
	case "index":
		return int64(l.index0 + 1), true
	case "index0":
		return int64(l.index0), true
	case "first":
		return l.index0 == 0, true
	case "last":
		_, more := l.peek()
		return !more, true
	case "length":
		return int64(l.length()), true
	case "revindex":
		return int64(l.length() - l.index0), true
	case "revindex0":
		return int64(l.length() - l.index0 - 1), true
	case "depth":
		return int64(l.depth0 + 1), true
	case "depth0":
		return int64(l.depth0), true
	case "previtem":
		if l.index0 == 0 {
			return &undefined{"there is no previous item"}, true
		}
		return l.before, true
	case "nextitem":
		if item, ok := l.peek(); ok {
			return item, true
		}
		return &undefined{"there is no next item"}, true
	case "cycle":
		return &builtin{"loop.cycle", l.cycle}, true
	case "changed":
		return &builtin{"loop.changed", l.changed}, true
	}
	return nil, false
}

func (l *loopContext) cycle(_ *run, a callArgs) any {
	if len(a.kw) > 0 || len(a.pos) == 0 {
		fail(ErrTemplate, "loop.cycle needs items to cycle through")
	}
	return a.pos[l.index0%len(a.pos)]
}

func (l *loopContext) changed(r *run, a callArgs) any {
	if len(a.kw) > 0 {
		fail(ErrTemplate, "loop.changed takes no keyword arguments")
	}
	now := &tuple{a.pos}
	if l.lastSeen != nil && r.equal(l.lastSeen, now) {
		return false
	}
	l.lastSeen = now
	return true
}

func (l *loopContext) call(_ *run, a callArgs) any {
	args := bind("loop()", a, 1, "iterable")
	if l.recurse == nil {
		fail(ErrTemplate, "the loop must have the recursive marker to be called")
	}
	return l.recurse(args[0], l.depth0+1)
}

func (r *run) forStmt(st *forStmt, s *scope, w *output) flow {
	iter := r.eval(st.iter, s)
	r.line = st.line
	if !st.recursive {
		return r.loop(st, iter, 0, s, w)
	}
	var recurse func(any, int) any
	recurse = func(iter any, depth int) any {
		defer r.enterCall()()
		if s.closed {
			fail(ErrUnsupported, "a recursive loop called after its scope ended")
		}
		var buf output
		r.loopWith(st, iter, depth, s, &buf, recurse)
		return buf.String()
	}
	r.write(w, recurse(iter, 0).(string))
	return flowNext
}

func (r *run) loop(st *forStmt, iter any, depth int, s *scope, w *output) flow {
	return r.loopWith(st, iter, depth, s, w, nil)
}

// loopWith runs a loop. Its else part runs if no pass reached the end of the body: as in the
// reference, a pass that ends in continue or break does not count.
func (r *run) loopWith(st *forStmt, iter any, depth int, s *scope, w *output,
	recurse func(any, int) any) flow {
	src := iter
	if st.test != nil {
		src = r.filterLoop(st, iter, s)
	}
	l := &loopContext{r: r, src: src, next: r.iterate(src), total: -1, index0: -1,
		depth0: depth, recurse: recurse}
	completed := false
	for l.advance() {
		if r.iterations++; r.iterations > r.limits.iterations {
			fail(ErrLimit, "more than %d loop passes", r.limits.iterations)
		}
		body := &scope{level: st.bodyFrame.level, parent: s, vars: map[string]any{}}
		body.vars["loop"] = l
		r.assign(st.target, l.current, body)
		r.enterFrame(st.bodyFrame, body)
		f := r.stmts(st.body, body, w)
		body.close()
		if f == flowBreak {
			break
		}
		completed = completed || f == flowNext
	}
	if completed || st.other == nil {
		return flowNext
	}
	other := r.open(st.otherFrame, s)
	defer other.close()
	return r.stmts(st.other, other, w)
}

// filterLoop is the "if" of a for: items are tested one at a time, as the loop asks for them.
func (r *run) filterLoop(st *forStmt, iter any, s *scope) any {
	test := r.open(st.testFrame, s)
	next := r.iterate(iter)
	return &iterator{func() (any, bool) {
		for item, ok := next(); ok; item, ok = next() {
			r.charge(stepCost)
			r.assign(st.target, item, test)
			if r.truth(r.eval(st.test, test)) {
				return r.rebuild(st.target, test), true
			}
		}
		return nil, false
	}}
}

// rebuild makes an item from the names it was unpacked to.
func (r *run) rebuild(target expr, s *scope) any {
	t, ok := target.(*tupleExpr)
	if !ok {
		name := target.(*nameExpr)
		return s.vars[name.name]
	}
	items := make([]any, len(t.items))
	for i, item := range t.items {
		items[i] = r.rebuild(item, s)
	}
	return &tuple{items}
}
