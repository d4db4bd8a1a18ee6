package chat

import "slices"

// eval evaluates an expression; the result is never nil.
func (r *run) eval(e expr, s *scope) any {
	r.charge(stepCost)
	switch e := e.(type) {
	case *constExpr:
		return e.val
	case *nameExpr:
		if v := s.at(e.level).vars[e.name]; v != nil {
			return v
		}
		return undefinedName(e.name)
	case *tupleExpr:
		return &tuple{r.evalAll(e.items, s)}
	case *listExpr:
		return &list{r.evalAll(e.items, s)}
	case *dictExpr:
		return r.evalDict(e, s)
	case *condExpr:
		if r.truth(r.eval(e.test, s)) {
			return r.eval(e.yes, s)
		}
		if e.no == nil {
			return &undefined{"the inline if was false and has no else"}
		}
		return r.eval(e.no, s)
	case *logicExpr:
		left := r.eval(e.left, s)
		if r.truth(left) == e.isOr {
			return left
		}
		return r.eval(e.right, s)
	case *notExpr:
		return !r.truth(r.eval(e.x, s))
	case *concatExpr:
		var out output
		for _, v := range r.evalAll(e.items, s) {
			r.write(&out, r.str(v))
		}
		return out.String()
	}
	return r.evalOperation(e, s)
}

// evalOperation evaluates the expressions that can fail; it keeps the line for the message.
func (r *run) evalOperation(e expr, s *scope) any {
	switch e := e.(type) {
	case *binExpr:
		left, right := r.eval(e.left, s), r.eval(e.right, s)
		r.line = e.line
		return r.binary(e.op, left, right)
	case *unaryExpr:
		x := r.eval(e.x, s)
		r.line = e.line
		return r.unary(e.op, x)
	case *compareExpr:
		return r.evalCompare(e, s)
	case *getattrExpr:
		x := r.eval(e.x, s)
		r.line = e.line
		return r.getattr(x, e.attr)
	case *getitemExpr:
		x := r.eval(e.x, s)
		if sl, ok := e.key.(*sliceExpr); ok {
			bounds := r.evalSlice(sl, s)
			r.line = e.line
			return r.slice(x, bounds, isConstant(e.x))
		}
		key := r.eval(e.key, s)
		r.line = e.line
		return r.getitem(x, key)
	case *callExpr:
		fn := r.eval(e.fn, s)
		args := r.args(&e.args, s)
		r.line = e.line
		return r.call(fn, args)
	case *filterExpr:
		return r.applyFilter(e, r.eval(e.x, s), s)
	case *testExpr:
		x := r.eval(e.x, s)
		args := r.args(&e.args, s)
		r.line = e.line
		return r.test(e.name, x, args)
	}
	fail(errInternal, "unexpected expression %T", e)
	return nil
}

// isConstant reports whether the reference may evaluate an expression when it compiles.
func isConstant(e expr) bool {
	switch e := e.(type) {
	case *nameExpr, *callExpr:
		return false
	case *logicExpr:
		return isConstant(e.left)
	case *condExpr:
		return isConstant(e.test)
	}
	for _, c := range children(e) {
		if !isConstant(c) {
			return false
		}
	}
	return true
}

func (r *run) evalAll(es []expr, s *scope) []any {
	out := make([]any, len(es))
	for i, e := range es {
		out[i] = r.eval(e, s)
	}
	return out
}

func (r *run) evalDict(e *dictExpr, s *scope) any {
	d := newDict()
	for i, k := range e.keys {
		key := r.eval(k, s)
		val := r.eval(e.vals[i], s)
		r.store(d, key, val)
	}
	return d
}

// store sets d[key] = val, which fails for a key that cannot be hashed.
func (r *run) store(d *dict, key, val any) {
	hash, ok := r.hashKey(key)
	if !ok {
		fail(ErrTemplate, "unhashable mapping key of type %s", typeName(key))
	}
	d.set(hash, key, val)
}

func (r *run) evalSlice(e *sliceExpr, s *scope) [3]any {
	var out [3]any
	for i, part := range []expr{e.start, e.stop, e.step} {
		out[i] = none{}
		if part != nil {
			out[i] = r.eval(part, s)
		}
	}
	return out
}

// evalCompare chains comparisons as Python does: a < b < c evaluates b once and c only if a < b.
func (r *run) evalCompare(e *compareExpr, s *scope) any {
	left := r.eval(e.first, s)
	for i, op := range e.ops {
		right := r.eval(e.rest[i], s)
		r.line = e.line
		if !r.compareOp(op, left, right) {
			return false
		}
		left = right
	}
	return true
}

// args evaluates call arguments.
func (r *run) args(a *argExprs, s *scope) callArgs {
	out := callArgs{pos: r.evalAll(a.pos, s)}
	for i, e := range a.vals {
		out.kw = append(out.kw, kwarg{a.names[i], r.eval(e, s)})
	}
	if a.star != nil {
		out.pos = append(out.pos, r.collect(r.eval(a.star, s))...)
	}
	if a.starStar == nil {
		return out
	}
	d, ok := r.eval(a.starStar, s).(*dict)
	if !ok {
		fail(ErrTemplate, "the argument after ** must be a mapping")
	}
	for i, key := range d.keys {
		name := needString("keyword", key)
		if slices.ContainsFunc(out.kw, func(k kwarg) bool { return k.name == name }) {
			fail(ErrTemplate, "two values for the keyword argument %q", name)
		}
		out.kw = append(out.kw, kwarg{name, d.vals[i]})
	}
	return out
}

// call calls a value.
func (r *run) call(fn any, a callArgs) any {
	switch f := fn.(type) {
	case *macro:
		return f.call(r, a)
	case *builtin:
		return f.call(r, a)
	case *method:
		return r.callMethod(f, a)
	case *loopContext:
		return f.call(r, a)
	case *joiner:
		bind("joiner()", a, 0)
		if f.used {
			return f.sep
		}
		f.used = true
		return ""
	case *undefined:
		fail(ErrTemplate, "%s", f.message)
	}
	fail(ErrTemplate, "%s is not callable", typeName(fn))
	return nil
}

func (r *run) applyFilter(f *filterExpr, x any, s *scope) any {
	args := r.args(&f.args, s)
	r.line = f.line
	return r.filter(f.name, x, args)
}

// filter applies a filter by name.
func (r *run) filter(name string, x any, a callArgs) any {
	fn := findFilter(name)
	if fn == nil {
		checkFilter(name, r.line)
	}
	a.pos = append([]any{x}, a.pos...)
	r.charge(stepCost)
	return fn(r, a)
}

// test applies a test by name.
func (r *run) test(name string, x any, a callArgs) bool {
	fn := findTest(name)
	if fn == nil {
		checkTest(name, r.line)
	}
	a.pos = append([]any{x}, a.pos...)
	r.charge(stepCost)
	return fn(r, a)
}
