package chat

import "maps"

// symbols is what is known of the names of one scope while compiling. It mirrors
// jinja2.idtracking, so that a name means here what it means there, quirks included: a name that is
// assigned in a scope, and not read there before, is missing in inner scopes until the assignment
// runs, even if the caller passed a variable of that name.
type symbols struct {
	level  int
	parent *symbols
	loads  map[string]load
	order  []string // names of loads as first defined; keeps compiling deterministic
	stores map[string]bool
}

func newSymbols(parent *symbols) *symbols {
	s := &symbols{parent: parent, loads: map[string]load{}, stores: map[string]bool{}}
	if parent != nil {
		s.level = parent.level + 1
	}
	return s
}

// copy is for the branches of an if, which share a scope.
func (s *symbols) copy() *symbols {
	c := *s
	c.loads = maps.Clone(s.loads)
	c.order = append([]string(nil), s.order...)
	c.stores = maps.Clone(s.stores)
	return &c
}

func (s *symbols) define(name string, l load) {
	l.name = name
	if _, ok := s.loads[name]; !ok {
		if len(s.order) == namesMax {
			fail(ErrLimit, "more than %d names in one scope", namesMax)
		}
		s.order = append(s.order, name)
	}
	s.loads[name] = l
}

// find returns the level of the scope that holds the name.
func (s *symbols) find(name string) (level int, ok bool) {
	for ; s != nil; s = s.parent {
		if _, ok := s.loads[name]; ok {
			return s.level, true
		}
	}
	return 0, false
}

func (s *symbols) read(name string) {
	if _, ok := s.find(name); !ok {
		s.define(name, load{kind: loadResolve})
	}
}

func (s *symbols) param(name string) {
	s.stores[name] = true
	s.define(name, load{kind: loadParam})
}

func (s *symbols) store(name string) {
	s.stores[name] = true
	if _, ok := s.loads[name]; ok {
		return
	}
	if level, ok := s.parent.find(name); ok {
		s.define(name, load{kind: loadAlias, from: level})
		return
	}
	s.define(name, load{kind: loadUndefined})
}

// merge takes in the branches of an if: what only some of them assign starts as the outer value.
func (s *symbols) merge(branches ...*symbols) {
	assigned := map[string]bool{}
	for _, b := range branches {
		for name := range b.stores {
			if !s.stores[name] {
				assigned[name] = true
			}
		}
	}
	for _, b := range branches {
		for _, name := range b.order {
			s.define(name, b.loads[name])
		}
		maps.Copy(s.stores, b.stores)
	}
	for name := range assigned {
		if level, ok := s.parent.find(name); ok {
			s.define(name, load{kind: loadAlias, from: level})
		} else {
			s.define(name, load{kind: loadResolve})
		}
	}
}

// frame lists how the names of the scope start out.
func (s *symbols) frame() frame {
	f := frame{level: s.level}
	for _, name := range s.order {
		f.loads = append(f.loads, s.loads[name])
	}
	return f
}

// visitAll takes nodes into the scope in order.
func visitAll[N any](s *symbols, nodes []N) {
	for _, n := range nodes {
		s.visit(n)
	}
}

// visit takes one node into the scope. Bodies of inner scopes are left out; compile.go gives them
// their own symbols.
func (s *symbols) visit(n any) {
	switch n := n.(type) {
	case *nameExpr:
		switch {
		case n.param:
			s.param(n.name)
		case n.store:
			s.store(n.name)
		default:
			s.read(n.name)
		}
	case *nsRefExpr:
		s.read(n.name)
	case *ifStmt:
		s.visitIf(n)
	case *forStmt:
		s.visit(n.iter)
	case *setStmt:
		s.visit(n.val)
		s.visit(n.target)
	case *setBlockStmt:
		s.visit(n.target)
	case *withStmt:
		visitAll(s, n.vals)
	case *filterBlockStmt:
		s.visit(n.filter)
	case *macroStmt:
		s.store(n.name)
	case *callBlockStmt:
		if n.call != nil {
			s.visit(n.call)
		}
	default:
		visitAll(s, children(n))
	}
}

func (s *symbols) visitIf(n *ifStmt) {
	s.visit(n.test)
	branch := func(body []stmt) *symbols {
		b := s.copy()
		visitAll(b, body)
		return b
	}
	s.merge(branch(n.body), branch(n.elifs), branch(n.other))
}

// visitTarget takes a loop target in: its names are given by the loop.
func (s *symbols) visitTarget(e expr) {
	switch e := e.(type) {
	case *nameExpr:
		s.param(e.name)
	case *tupleExpr:
		for _, item := range e.items {
			s.visitTarget(item)
		}
	}
}

// undeclared reports which of the names are read in the nodes before they are assigned there, in
// the order of the reference's walk, which does enter inner scopes.
func undeclared[N any](nodes []N, names ...string) map[string]bool {
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	found := map[string]bool{}
	var walk func(n any) bool
	walk = func(n any) bool {
		if name, ok := n.(*nameExpr); ok {
			if !name.store && !name.param && wanted[name.name] {
				found[name.name] = true
			} else {
				delete(wanted, name.name)
			}
			return !maps.Equal(found, wanted)
		}
		for _, c := range children(n) {
			if !walk(c) {
				return false
			}
		}
		return true
	}
	for _, n := range nodes {
		if !walk(n) {
			break
		}
	}
	return found
}
