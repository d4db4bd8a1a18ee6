package chat

import "slices"

// Expressions, from the loosest binding to the tightest; each method reads one level.

func (p *parser) expression() expr { return p.condExpression(true) }

// condExpression reads a if b else c, or without conditionals one "or".
func (p *parser) condExpression(conditionals bool) expr {
	defer p.enter()()
	e := p.or()
	for n := 0; conditionals && p.atName("if"); p.chain(&n) {
		line := p.next().line
		c := &condExpr{test: p.or(), yes: e, line: line}
		if p.skipName("else") {
			c.no = p.condExpression(true)
		}
		e = c
	}
	return e
}

func (p *parser) or() expr {
	e := p.and()
	for n := 0; p.skipName("or"); p.chain(&n) {
		e = &logicExpr{true, e, p.and()}
	}
	return e
}

func (p *parser) and() expr {
	e := p.not()
	for n := 0; p.skipName("and"); p.chain(&n) {
		e = &logicExpr{false, e, p.not()}
	}
	return e
}

func (p *parser) not() expr {
	if p.skipName("not") {
		defer p.enter()()
		return &notExpr{p.not()}
	}
	return p.compare()
}

func (p *parser) compare() expr {
	c := &compareExpr{first: p.math1(), line: p.cur().line}
	for n := 0; ; p.chain(&n) {
		t := p.cur()
		op := t.kind
		switch {
		case slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.kind):
			p.next()
		case p.skipName("in"):
			op = "in"
		case p.atName("not") && p.look().kind == tokName && p.look().text == "in":
			p.next()
			p.next()
			op = "notin"
		default:
			if len(c.ops) == 0 {
				return c.first
			}
			return c
		}
		c.ops = append(c.ops, op)
		c.rest = append(c.rest, p.math1())
	}
}

// binary reads operators of one level that group to the left.
func (p *parser) binary(operand func() expr, ops ...string) expr {
	e := operand()
	for n := 0; slices.Contains(ops, p.cur().kind); p.chain(&n) {
		t := p.next()
		e = &binExpr{t.kind, e, operand(), t.line}
	}
	return e
}

func (p *parser) math1() expr { return p.binary(p.concat, "+", "-") }

func (p *parser) concat() expr {
	e := p.math2()
	if !p.at("~") {
		return e
	}
	c := &concatExpr{[]expr{e}}
	for n := 0; p.skip("~"); p.chain(&n) {
		c.items = append(c.items, p.math2())
	}
	return c
}

func (p *parser) math2() expr { return p.binary(p.pow, "*", "/", "//", "%") }

func (p *parser) pow() expr {
	return p.binary(func() expr { return p.unary(true) }, "**")
}

func (p *parser) unary(filters bool) expr {
	var e expr
	if t := p.cur(); t.kind == "-" || t.kind == "+" {
		defer p.enter()()
		p.next()
		e = &unaryExpr{t.kind, p.unary(false), t.line}
	} else {
		e = p.primary(false)
	}
	e = p.postfix(e)
	if filters {
		e = p.filtersAndTests(e)
	}
	return e
}

func (p *parser) primary(namespaceRef bool) expr {
	t := p.next()
	switch t.kind {
	case tokName:
		return p.name(t, namespaceRef)
	case tokString:
		s := t.text
		for p.at(tokString) {
			s += p.next().text
		}
		return &constExpr{s}
	case tokInteger, tokFloat:
		return &constExpr{t.num}
	case "(":
		defer p.enter()()
		e := p.tuple(tupleRules{condExpr: true, parens: true})
		p.expect(")")
		return e
	case "[":
		return p.list()
	case "{":
		return p.dict()
	}
	failAt(ErrTemplate, t.line, "unexpected %s", t.describe())
	return nil
}

func (p *parser) name(t token, namespaceRef bool) expr {
	switch t.text {
	case "true", "True":
		return &constExpr{true}
	case "false", "False":
		return &constExpr{false}
	case "none", "None":
		return &constExpr{none{}}
	}
	if namespaceRef && p.skip(".") {
		return &nsRefExpr{name: t.text, attr: p.expect(tokName).text, line: t.line}
	}
	return &nameExpr{name: t.text, line: t.line}
}

func (p *parser) list() expr {
	defer p.enter()()
	l := &listExpr{}
	for !p.at("]") {
		if len(l.items) > 0 {
			p.expect(",")
		}
		if p.at("]") {
			break
		}
		l.items = append(l.items, p.expression())
	}
	p.expect("]")
	return l
}

func (p *parser) dict() expr {
	defer p.enter()()
	d := &dictExpr{}
	for !p.at("}") {
		if len(d.keys) > 0 {
			p.expect(",")
		}
		if p.at("}") {
			break
		}
		d.keys = append(d.keys, p.expression())
		p.expect(":")
		d.vals = append(d.vals, p.expression())
	}
	p.expect("}")
	return d
}

// tupleRules vary how a tuple without brackets is read.
type tupleRules struct {
	simple    bool   // only names and literals
	namespace bool   // ns.attr is a target
	condExpr  bool   // a if b else c is allowed
	parens    bool   // inside parentheses, where () is a tuple
	end       string // a name that ends the tuple
}

// tuple reads one expression, or several with commas as a tuple.
func (p *parser) tuple(rules tupleRules) expr {
	var items []expr
	isTuple := false
	for {
		if len(items) > 0 {
			p.expect(",")
		}
		if p.at(tokVarEnd) || p.at(tokBlockEnd) || p.at(")") ||
			rules.end != "" && p.atName(rules.end) {
			break
		}
		if rules.simple {
			items = append(items, p.primary(rules.namespace))
		} else {
			items = append(items, p.condExpression(rules.condExpr))
		}
		if !p.at(",") {
			break
		}
		isTuple = true
	}
	if !isTuple && len(items) > 0 {
		return items[0]
	}
	if !isTuple && !rules.parens {
		t := p.cur()
		failAt(ErrTemplate, t.line, "expected an expression, got %s", t.describe())
	}
	return &tupleExpr{items}
}

func (p *parser) postfix(e expr) expr {
	for n := 0; ; p.chain(&n) {
		switch t := p.cur(); t.kind {
		case ".":
			p.next()
			e = p.attribute(e, t.line)
		case "[":
			p.next()
			e = p.subscript(e, t.line)
		case "(":
			e = &callExpr{e, p.callArgs(), t.line}
		default:
			return e
		}
	}
}

func (p *parser) attribute(e expr, line int) expr {
	t := p.next()
	switch t.kind {
	case tokName:
		return &getattrExpr{e, t.text, line}
	case tokInteger:
		return &getitemExpr{e, &constExpr{t.num}, line}
	}
	failAt(ErrTemplate, t.line, "expected a name or number after the dot, got %s", t.describe())
	return nil
}

func (p *parser) subscript(e expr, line int) expr {
	defer p.enter()()
	var keys []expr
	sliced := false
	for !p.at("]") {
		if len(keys) > 0 {
			p.expect(",")
		}
		key := p.subscribed()
		_, isSlice := key.(*sliceExpr)
		sliced = sliced || isSlice
		keys = append(keys, key)
	}
	p.expect("]")
	if len(keys) == 1 {
		return &getitemExpr{e, keys[0], line}
	}
	if sliced {
		failAt(ErrUnsupported, line, "several slices in one subscript")
	}
	return &getitemExpr{e, &tupleExpr{keys}, line}
}

func (p *parser) subscribed() expr {
	s := &sliceExpr{}
	if !p.at(":") {
		s.start = p.expression()
		if !p.at(":") {
			return s.start
		}
	}
	p.next()
	atEnd := func() bool { return p.at("]") || p.at(",") }
	if !p.at(":") && !atEnd() {
		s.stop = p.expression()
	}
	if p.skip(":") && !atEnd() {
		s.step = p.expression()
	}
	return s
}

func (p *parser) callArgs() argExprs {
	defer p.enter()()
	var a argExprs
	line := p.expect("(").line
	ensure := func(ok bool) {
		if !ok {
			failAt(ErrTemplate, line, "invalid syntax for function call expression")
		}
	}
	for first := true; !p.at(")"); first = false {
		if !first {
			p.expect(",")
			if p.at(")") {
				break
			}
		}
		switch {
		case p.skip("*"):
			ensure(a.star == nil && a.starStar == nil)
			a.star = p.expression()
		case p.skip("**"):
			ensure(a.starStar == nil)
			a.starStar = p.expression()
		case p.at(tokName) && p.look().kind == "=":
			ensure(a.starStar == nil)
			name := p.next().text
			p.next()
			if indexOf(a.names, name) >= 0 {
				failAt(ErrTemplate, line, "keyword argument %s repeated", name)
			}
			a.names = append(a.names, name)
			a.vals = append(a.vals, p.expression())
		default:
			ensure(a.star == nil && a.starStar == nil && len(a.names) == 0)
			a.pos = append(a.pos, p.expression())
		}
	}
	p.expect(")")
	return a
}

func (p *parser) filtersAndTests(e expr) expr {
	for n := 0; ; p.chain(&n) {
		switch {
		case p.at("|"):
			e = p.filterChain(e, false)
		case p.atName("is"):
			e = p.test(e)
		case p.at("("):
			line := p.cur().line
			e = &callExpr{e, p.callArgs(), line}
		default:
			return e
		}
	}
}

// filterChain reads |name(args)|… after e; the first | is left out when inline is set.
func (p *parser) filterChain(e expr, inline bool) expr {
	for n := 0; inline || p.at("|"); p.chain(&n) {
		if !inline {
			p.next()
		}
		inline = false
		f := &filterExpr{x: e, line: p.cur().line}
		f.name = p.dottedName()
		if p.at("(") {
			f.args = p.callArgs()
		}
		e = f
	}
	return e
}

func (p *parser) dottedName() string {
	name := p.expect(tokName).text
	for p.skip(".") {
		name += "." + p.expect(tokName).text
	}
	return name
}

// test reads "is [not] name [argument]".
func (p *parser) test(e expr) expr {
	line := p.next().line
	negated := p.skipName("not")
	t := &testExpr{x: e, line: line, name: p.dottedName()}
	switch {
	case p.at("("):
		t.args = p.callArgs()
	case p.atName("else", "or", "and"):
	case p.atName("is"):
		failAt(ErrTemplate, line, "tests cannot be chained with is")
	case slices.Contains([]string{tokName, tokString, tokInteger, tokFloat, "[", "{"}, p.cur().kind):
		t.args.pos = []expr{p.postfix(p.primary(false))}
	}
	if negated {
		return &notExpr{t}
	}
	return t
}
