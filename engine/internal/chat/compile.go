package chat

// compiler gives every name its scope and makes the checks the reference makes when it compiles: of
// filters and tests that do not exist, of break and continue outside a loop, of loop as a target.
type compiler struct{}

// scopeInfo describes where the compiler is.
type scopeInfo struct {
	syms *symbols
	// soft: directly in an if or a conditional, where an unknown filter is an error only when used.
	soft bool
	// inLoop: a break here has a loop to leave, in the same macro.
	inLoop bool
}

func (s scopeInfo) inner() scopeInfo {
	return scopeInfo{syms: newSymbols(s.syms), inLoop: s.inLoop}
}

// compileTemplate resolves a whole template and returns its outermost frame.
func compileTemplate(body []stmt) frame {
	in := scopeInfo{syms: newSymbols(nil)}
	visitAll(in.syms, body)
	var c compiler
	c.stmts(body, in)
	return in.syms.frame()
}

func (c compiler) stmts(body []stmt, in scopeInfo) {
	for _, s := range body {
		c.stmt(s, in)
	}
}

func (c compiler) stmt(s stmt, in scopeInfo) {
	switch s := s.(type) {
	case *outputStmt:
		c.exprs(s.items, in)
	case *ifStmt:
		in.soft = true
		c.expr(s.test, in)
		c.stmts(s.body, in)
		c.stmts(s.elifs, in)
		c.stmts(s.other, in)
	case *forStmt:
		c.forStmt(s, in)
	case *setStmt:
		c.expr(s.target, in)
		c.expr(s.val, in)
	case *setBlockStmt:
		inner := in.inner()
		visitAll(inner.syms, s.body)
		c.stmts(s.body, inner)
		c.expr(s.target, in)
		if s.filter != nil {
			c.expr(s.filter, inner)
		}
		s.frame = inner.syms.frame()
	case *withStmt:
		inner := in.inner()
		visitAll(inner.syms, s.targets)
		visitAll(inner.syms, s.body)
		c.exprs(s.targets, inner)
		c.exprs(s.vals, in)
		c.stmts(s.body, inner)
		s.frame = inner.syms.frame()
	case *filterBlockStmt:
		inner := in.inner()
		visitAll(inner.syms, s.body)
		inner.syms.visit(s.filter)
		c.stmts(s.body, inner)
		c.expr(s.filter, inner)
		s.frame = inner.syms.frame()
	case *macroStmt:
		c.macroDef(&s.def, in)
		s.level = c.ref(s.name, s.line, in)
	case *callBlockStmt:
		c.macroDef(&s.def, in)
		if s.call != nil {
			c.expr(s.call, in)
		}
	case *loopControlStmt:
		if !in.inLoop {
			failAt(ErrTemplate, s.line, "break or continue outside a loop")
		}
	}
}

func (c compiler) forStmt(s *forStmt, in scopeInfo) {
	body, test, other := in.inner(), in.inner(), in.inner()
	body.inLoop = true
	if s.recursive || undeclared(s.body, "loop")["loop"] {
		body.syms.param("loop")
	}
	body.syms.visitTarget(s.target)
	visitAll(body.syms, s.body)
	visitAll(other.syms, s.other)
	rejectLoopTarget(s)
	if s.test != nil {
		test.syms.visitTarget(s.target)
		test.syms.visit(s.test)
		c.expr(s.test, test)
	}
	if s.recursive {
		// The body is a function of its own there; a break in the else has no loop to leave.
		other.inLoop = false
	}
	c.expr(s.target, body)
	c.expr(s.iter, in)
	c.stmts(s.body, body)
	c.stmts(s.other, other)
	s.bodyFrame = body.syms.frame()
	s.testFrame = test.syms.frame()
	s.otherFrame = other.syms.frame()
}

// rejectLoopTarget fails where anything in a loop assigns to "loop".
func rejectLoopTarget(n any) {
	if name, ok := n.(*nameExpr); ok && name.store && !name.param && name.name == "loop" {
		failAt(ErrTemplate, name.line, "can't assign to the special loop variable")
	}
	for _, child := range children(n) {
		rejectLoopTarget(child)
	}
}

func (c compiler) macroDef(d *macroDef, in scopeInfo) {
	inner := in.inner()
	inner.inLoop = false
	take := func() {
		visitAll(inner.syms, d.params)
		visitAll(inner.syms, d.defaults)
		visitAll(inner.syms, d.body)
	}
	take()
	declared := map[string]bool{}
	for i, p := range d.params {
		name := p.(*nameExpr).name
		declared[name] = true
		if name == "caller" {
			d.explicitCaller = true
			hasDefault := i >= len(d.params)-len(d.defaults)
			if !hasDefault && undeclared(d.body, "caller", "kwargs", "varargs")["caller"] {
				failAt(ErrTemplate, d.line, "a parameter called caller needs a default")
			}
		}
	}
	special := undeclared(d.body, "caller", "kwargs", "varargs")
	if special["caller"] && !d.explicitCaller {
		inner.syms.param("caller")
	}
	d.usesCaller = special["caller"]
	d.usesKwargs = special["kwargs"] && !declared["kwargs"]
	d.usesVarargs = special["varargs"] && !declared["varargs"]
	if d.usesKwargs {
		inner.syms.param("kwargs")
	}
	if d.usesVarargs {
		inner.syms.param("varargs")
	}
	take()
	c.exprs(d.params, inner)
	c.exprs(d.defaults, inner)
	c.stmts(d.body, inner)
	d.frame = inner.syms.frame()
}

// ref returns the level of the scope that holds a name.
func (c compiler) ref(name string, line int, in scopeInfo) int {
	level, ok := in.syms.find(name)
	if !ok {
		failAt(ErrTemplate, line, "name %q cannot be resolved here", name)
	}
	return level
}

func (c compiler) exprs(es []expr, in scopeInfo) {
	for _, e := range es {
		c.expr(e, in)
	}
}

func (c compiler) expr(e expr, in scopeInfo) {
	switch e := e.(type) {
	case *nameExpr:
		e.level = c.ref(e.name, e.line, in)
		return
	case *nsRefExpr:
		e.level = c.ref(e.name, e.line, in)
		return
	case *condExpr:
		in.soft = true
	case *filterExpr:
		if !in.soft {
			checkFilter(e.name, e.line)
		}
	case *testExpr:
		if !in.soft {
			checkTest(e.name, e.line)
		}
	}
	c.exprs(children(e), in)
}

// checkFilter fails for a filter that this package does not have.
func checkFilter(name string, line int) {
	if findFilter(name) != nil {
		return
	}
	if indexOf(filtersMissing(), name) >= 0 {
		failAt(ErrUnsupported, line, "the filter %q", name)
	}
	failAt(ErrTemplate, line, "no filter named %q", name)
}

// checkTest fails for a test that this package does not have.
func checkTest(name string, line int) {
	if findTest(name) == nil {
		failAt(ErrTemplate, line, "no test named %q", name)
	}
}
