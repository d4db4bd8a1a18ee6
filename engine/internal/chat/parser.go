package chat

import "slices"

// parser builds the tree; it accepts what jinja2.parser accepts, less what is not implemented.
type parser struct {
	tokens []token
	pos    int
	depth  int // nested expressions and statements
}

// parseSource parses a whole template.
func parseSource(source string) []stmt {
	p := &parser{tokens: tokenize(source)}
	body := p.statements()
	if t := p.cur(); t.kind != tokEOF {
		failAt(ErrTemplate, t.line, "unexpected %s", t.describe())
	}
	return body
}

func (p *parser) cur() token { return p.tokens[p.pos] }

func (p *parser) look() token { return p.tokens[min(p.pos+1, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.tokens[p.pos]
	if t.kind != tokEOF {
		p.pos++
	}
	return t
}

// at reports whether the current token is of the kind and, for names, has the text.
func (p *parser) at(kind string) bool { return p.cur().kind == kind }

func (p *parser) atName(names ...string) bool {
	t := p.cur()
	return t.kind == tokName && slices.Contains(names, t.text)
}

func (p *parser) skip(kind string) bool {
	if p.at(kind) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) skipName(name string) bool {
	if p.atName(name) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expect(kind string) token {
	t := p.cur()
	if t.kind != kind {
		failAt(ErrTemplate, t.line, "expected %s, got %s", kind, t.describe())
	}
	return p.next()
}

func (p *parser) expectName(name string) {
	if t := p.cur(); !p.skipName(name) {
		failAt(ErrTemplate, t.line, "expected %q, got %s", name, t.describe())
	}
}

// enter counts nesting; call the result when leaving.
func (p *parser) enter() func() {
	p.depth++
	if p.depth > nestingMax {
		failAt(ErrLimit, p.cur().line, "more than %d nested constructs", nestingMax)
	}
	return func() { p.depth-- }
}

// chain counts operators in a row.
func (p *parser) chain(n *int) {
	*n++
	if *n > chainMax {
		failAt(ErrLimit, p.cur().line, "more than %d operators in a row", chainMax)
	}
}

// statements reads text and tags until a tag named in ends, which becomes the current token.
func (p *parser) statements(ends ...string) []stmt {
	defer p.enter()()
	var body []stmt
	var out *outputStmt
	add := func(e expr) {
		if out == nil {
			out = &outputStmt{}
			body = append(body, out)
		}
		out.items = append(out.items, e)
	}
	for !p.at(tokEOF) {
		t := p.next()
		switch t.kind {
		case tokData:
			add(&textExpr{t.text})
		case tokVarBegin:
			add(p.tuple(tupleRules{condExpr: true}))
			p.expect(tokVarEnd)
		default: // tokBlockBegin: the lexer emits nothing else here
			if p.atName(ends...) {
				return body
			}
			out = nil
			body = append(body, p.statement())
			p.expect(tokBlockEnd)
		}
	}
	if len(ends) > 0 {
		failAt(ErrTemplate, p.cur().line, "unexpected end of template, expected %q", ends)
	}
	return body
}

// block reads the body of a tag: an optional colon, the end of the tag, and statements.
func (p *parser) block(ends ...string) []stmt {
	p.skip(":")
	p.expect(tokBlockEnd)
	return p.statements(ends...)
}

// closedBlock is block, with the end tag's name read.
func (p *parser) closedBlock(end string) []stmt {
	body := p.block(end)
	p.next()
	return body
}

func (p *parser) statement() stmt {
	t := p.expect(tokName)
	switch t.text {
	case "for":
		return p.forTag(t.line)
	case "if":
		return p.ifTag()
	case "set":
		return p.setTag(t.line)
	case "macro":
		return p.macroTag(t.line)
	case "call":
		return p.callTag(t.line)
	case "generation":
		def := macroDef{line: t.line, body: p.closedBlock("endgeneration")}
		return &callBlockStmt{line: t.line, def: def}
	case "filter":
		s := &filterBlockStmt{filter: p.filterChain(nil, true)}
		s.body = p.closedBlock("endfilter")
		return s
	case "with":
		return p.withTag(t.line)
	case "print":
		return p.printTag()
	case "break", "continue":
		return &loopControlStmt{t.text == "break", t.line}
	case "block", "extends", "include", "import", "from", "autoescape":
		failAt(ErrUnsupported, t.line, "the %s tag", t.text)
	}
	failAt(ErrTemplate, t.line, "unknown tag %q", t.text)
	return nil
}

func (p *parser) forTag(line int) stmt {
	s := &forStmt{line: line}
	s.target = p.target(tupleRules{end: "in"})
	p.expectName("in")
	s.iter = p.tuple(tupleRules{end: "recursive"})
	if p.skipName("if") {
		s.test = p.expression()
	}
	s.recursive = p.skipName("recursive")
	s.body = p.block("endfor", "else")
	if p.next().text == "else" {
		s.other = p.closedBlock("endfor")
	}
	return s
}

func (p *parser) ifTag() stmt {
	first := &ifStmt{}
	s := first
	for {
		s.test = p.tuple(tupleRules{})
		s.body = p.block("elif", "else", "endif")
		switch p.next().text {
		case "elif":
			s = &ifStmt{}
			first.elifs = append(first.elifs, s)
			continue
		case "else":
			first.other = p.closedBlock("endif")
		}
		return first
	}
}

func (p *parser) setTag(line int) stmt {
	target := p.target(tupleRules{namespace: true})
	if p.skip("=") {
		return &setStmt{target, p.tuple(tupleRules{condExpr: true}), line}
	}
	s := &setBlockStmt{target: target, line: line}
	s.filter = p.filterChain(nil, false)
	s.body = p.closedBlock("endset")
	return s
}

func (p *parser) withTag(line int) stmt {
	s := &withStmt{line: line}
	for !p.at(tokBlockEnd) {
		if len(s.targets) > 0 {
			p.expect(",")
		}
		target := p.target(tupleRules{})
		markParam(target)
		s.targets = append(s.targets, target)
		p.expect("=")
		s.vals = append(s.vals, p.expression())
	}
	s.body = p.closedBlock("endwith")
	return s
}

func markParam(e expr) {
	switch e := e.(type) {
	case *nameExpr:
		e.param = true
	case *tupleExpr:
		for _, item := range e.items {
			markParam(item)
		}
	}
}

func (p *parser) printTag() stmt {
	s := &outputStmt{}
	for !p.at(tokBlockEnd) {
		if len(s.items) > 0 {
			p.expect(",")
		}
		s.items = append(s.items, p.expression())
	}
	return s
}

func (p *parser) macroTag(line int) stmt {
	name := p.nameTarget()
	s := &macroStmt{name: name.name, line: line}
	s.def = p.signature(line)
	s.def.name = name.name
	s.def.body = p.closedBlock("endmacro")
	return s
}

func (p *parser) callTag(line int) stmt {
	s := &callBlockStmt{line: line, def: macroDef{line: line}}
	if p.at("(") {
		s.def = p.signature(line)
	}
	call, ok := p.expression().(*callExpr)
	if !ok {
		failAt(ErrTemplate, line, "expected a call")
	}
	s.call = call
	if indexOf(call.args.names, "caller") >= 0 {
		failAt(ErrTemplate, line, "keyword argument caller repeated")
	}
	s.def.body = p.closedBlock("endcall")
	return s
}

// signature reads the parameters of a macro or call block.
func (p *parser) signature(line int) macroDef {
	def := macroDef{line: line}
	var names []string
	p.expect("(")
	for !p.at(")") {
		if len(def.params) > 0 {
			p.expect(",")
		}
		param := p.nameTarget()
		param.param = true
		if indexOf(names, param.name) >= 0 {
			failAt(ErrTemplate, line, "duplicate parameter %q", param.name)
		}
		names = append(names, param.name)
		if p.skip("=") {
			def.defaults = append(def.defaults, p.expression())
		} else if len(def.defaults) > 0 {
			failAt(ErrTemplate, line, "parameter without default after one with default")
		}
		def.params = append(def.params, param)
	}
	p.expect(")")
	return def
}

func (p *parser) nameTarget() *nameExpr {
	t := p.expect(tokName)
	if isConstName(t.text) {
		failAt(ErrTemplate, t.line, "can't assign to %q", t.text)
	}
	return &nameExpr{name: t.text, line: t.line, store: true}
}

func isConstName(s string) bool {
	return slices.Contains([]string{"true", "false", "none", "True", "False", "None"}, s)
}

// target reads what can be assigned to: a name, a namespace attribute, or a tuple of them.
func (p *parser) target(rules tupleRules) expr {
	line := p.cur().line
	rules.simple = true
	e := p.tuple(rules)
	markStore(e, line)
	return e
}

func markStore(e expr, line int) {
	switch e := e.(type) {
	case *nameExpr:
		e.store = true
	case *nsRefExpr:
	case *tupleExpr:
		for _, item := range e.items {
			markStore(item, line)
		}
	default:
		failAt(ErrTemplate, line, "can't assign to this expression")
	}
}
