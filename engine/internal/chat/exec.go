package chat

import (
	"strings"
	"time"
)

// run is one rendering. It belongs to one goroutine.
type run struct {
	vars   map[string]any // what the caller gave
	now    func() time.Time
	limits limits
	line   int // of the construct being evaluated, for errors

	work, iterations  int
	callDepth, nested int
}

// limits are the bounds a rendering keeps; fuzzing lowers them.
type limits struct{ work, output, iterations int }

func defaultLimits() limits { return limits{workMax, outputBytesMax, iterationsMax} }

// charge counts work; see workMax.
func (r *run) charge(n int) {
	r.work += n
	if r.work > r.limits.work {
		fail(ErrLimit, "the template does more than %d units of work", r.limits.work)
	}
}

// sized checks the size of a string before it is built, and charges for it.
func (r *run) sized(n int) {
	if n > r.limits.output || n < 0 {
		fail(ErrLimit, "a string of more than %d bytes", r.limits.output)
	}
	r.charge(n)
}

// descend bounds recursion over values; call the result when leaving.
func (r *run) descend() func() {
	r.nested++
	if r.nested > valueDepthMax {
		fail(ErrLimit, "values nested deeper than %d", valueDepthMax)
	}
	return func() { r.nested-- }
}

func (r *run) enterCall() func() {
	r.callDepth++
	if r.callDepth > callDepthMax {
		fail(ErrLimit, "more than %d nested calls", callDepthMax)
	}
	return func() { r.callDepth-- }
}

// scope holds the names of one frame while it runs. Macros keep the scope they were defined in.
type scope struct {
	level  int
	parent *scope
	vars   map[string]any // nil for a name that is missing
	closed bool           // the statement that opened it is over
}

func (r *run) open(f frame, parent *scope) *scope {
	s := &scope{level: f.level, parent: parent, vars: make(map[string]any, len(f.loads))}
	r.enterFrame(f, s)
	return s
}

// enterFrame gives the names of a frame their first values, as jinja2's enter_frame does.
func (r *run) enterFrame(f frame, s *scope) {
	for _, l := range f.loads {
		switch l.kind {
		case loadResolve:
			s.vars[l.name] = r.resolve(l.name)
		case loadAlias:
			s.vars[l.name] = s.parent.at(l.from).vars[l.name]
		case loadUndefined:
			s.vars[l.name] = nil
		}
	}
}

// at returns the scope of a level, this one or one around it.
func (s *scope) at(level int) *scope {
	for s.level != level {
		s = s.parent
	}
	return s
}

// resolve looks a name up among the caller's variables and the globals; nil when it is in neither.
func (r *run) resolve(name string) any {
	if v, ok := r.vars[name]; ok {
		return v
	}
	if b := findGlobal(name); b != nil {
		return b
	}
	if name == "lipsum" {
		fail(ErrUnsupported, "the global lipsum")
	}
	return nil
}

// output collects what a template or a block prints.
type output struct {
	strings.Builder
}

func (r *run) write(w *output, s string) {
	r.charge(len(s))
	if w.Len()+len(s) > r.limits.output {
		fail(ErrLimit, "output of more than %d bytes", r.limits.output)
	}
	w.WriteString(s)
}

// flow says how a statement ended.
type flow int

const (
	flowNext flow = iota
	flowBreak
	flowContinue
)

func (r *run) stmts(body []stmt, s *scope, w *output) flow {
	for _, st := range body {
		if f := r.stmt(st, s, w); f != flowNext {
			return f
		}
	}
	return flowNext
}

func (r *run) stmt(st stmt, s *scope, w *output) flow {
	r.charge(stepCost)
	switch st := st.(type) {
	case *outputStmt:
		for _, e := range st.items {
			if text, ok := e.(*textExpr); ok {
				r.write(w, text.text)
				continue
			}
			r.write(w, r.str(r.eval(e, s)))
		}
	case *ifStmt:
		return r.ifStmt(st, s, w)
	case *forStmt:
		return r.forStmt(st, s, w)
	case *setStmt:
		r.line = st.line
		r.checkNamespaces(st.target, s)
		r.assign(st.target, r.eval(st.val, s), s)
	case *setBlockStmt:
		return r.setBlock(st, s)
	case *withStmt:
		inner := r.open(st.frame, s)
		defer inner.close()
		for i, target := range st.targets {
			r.assign(target, r.eval(st.vals[i], s), inner)
		}
		return r.stmts(st.body, inner, w)
	case *filterBlockStmt:
		inner := r.open(st.frame, s)
		defer inner.close()
		var buf output
		if f := r.stmts(st.body, inner, &buf); f != flowNext {
			return f
		}
		r.write(w, r.text(r.filtered(st.filter, buf.String(), inner)))
	case *macroStmt:
		s.at(st.level).vars[st.name] = &macro{def: &st.def, scope: s}
	case *callBlockStmt:
		r.callBlock(st, s, w)
	case *loopControlStmt:
		if st.isBreak {
			return flowBreak
		}
		return flowContinue
	}
	return flowNext
}

func (s *scope) close() { s.closed = true }

// text is for what a call block or filter block puts out: the reference joins it unconverted, so it
// must be a string.
func (r *run) text(v any) string {
	s, ok := asString(v)
	if !ok {
		fail(ErrTemplate, "expected a string, got %s", typeName(v))
	}
	return s
}

func (r *run) ifStmt(st *ifStmt, s *scope, w *output) flow {
	if r.truth(r.eval(st.test, s)) {
		return r.stmts(st.body, s, w)
	}
	for _, e := range st.elifs {
		elif := e.(*ifStmt)
		if r.truth(r.eval(elif.test, s)) {
			return r.stmts(elif.body, s, w)
		}
	}
	return r.stmts(st.other, s, w)
}

func (r *run) setBlock(st *setBlockStmt, s *scope) flow {
	inner := r.open(st.frame, s)
	defer inner.close()
	var buf output
	if f := r.stmts(st.body, inner, &buf); f != flowNext {
		return f
	}
	r.line = st.line
	var v any = buf.String()
	if st.filter != nil {
		v = r.filtered(st.filter, v, inner)
	}
	r.checkNamespaces(st.target, s)
	r.assign(st.target, v, s)
	return flowNext
}

// filtered applies the filter chain of a block to its text: the innermost filter has no operand.
func (r *run) filtered(e expr, v any, s *scope) any {
	f, ok := e.(*filterExpr)
	if !ok {
		return v
	}
	return r.applyFilter(f, r.filtered(f.x, v, s), s)
}

// checkNamespaces fails if a target like ns.attr is not of a namespace.
func (r *run) checkNamespaces(target expr, s *scope) {
	switch t := target.(type) {
	case *tupleExpr:
		for _, item := range t.items {
			r.checkNamespaces(item, s)
		}
	case *nsRefExpr:
		if _, ok := s.at(t.level).vars[t.name].(*namespace); !ok {
			failAt(ErrTemplate, t.line, "cannot assign attribute %q on %q: not a namespace",
				t.attr, t.name)
		}
	}
}

func (r *run) assign(target expr, v any, s *scope) {
	switch t := target.(type) {
	case *nameExpr:
		s.at(t.level).vars[t.name] = v
	case *nsRefExpr:
		r.line = t.line
		ns := s.at(t.level).vars[t.name].(*namespace)
		checkAttrName(t.attr)
		ns.attrs.setString(t.attr, v)
	case *tupleExpr:
		items := r.unpack(v, len(t.items))
		for i, item := range t.items {
			r.assign(item, items[i], s)
		}
	}
}

func (r *run) unpack(v any, n int) []any {
	next := r.iterate(v)
	items := make([]any, 0, n)
	for item, ok := next(); ok; item, ok = next() {
		if items = append(items, item); len(items) > n {
			fail(ErrTemplate, "too many values to unpack, expected %d", n)
		}
	}
	if len(items) < n {
		fail(ErrTemplate, "not enough values to unpack, expected %d, got %d", n, len(items))
	}
	return items
}

// checkAttrName refuses what chat templates may not store on a namespace.
func checkAttrName(name string) {
	if strings.HasPrefix(name, "_") {
		fail(ErrTemplate, "namespace attribute %q starts with an underscore", name)
	}
}
