package chat

// macro is a callable made by {% macro %}, or the caller of a {% call %} block.
type macro struct {
	def   *macroDef
	scope *scope // where it was defined
}

func (m *macro) label() string {
	if m.def.name == "" {
		return "the call block"
	}
	return "macro " + pyQuote(m.def.name)
}

// call binds arguments as jinja2.runtime.Macro does and renders the body.
func (m *macro) call(r *run, a callArgs) any {
	defer r.enterCall()()
	if m.scope.closed {
		fail(ErrUnsupported, "%s called after the scope it was defined in ended", m.label())
	}
	d := m.def
	s := &scope{level: d.frame.level, parent: m.scope, vars: map[string]any{}}
	given := min(len(a.pos), len(d.params))
	kw := append([]kwarg(nil), a.kw...)
	foundCaller := given == len(d.params) && d.explicitCaller
	args := make([]any, len(d.params))
	for i, p := range d.params {
		if i < given {
			args[i] = a.pos[i]
			continue
		}
		name := p.(*nameExpr).name
		args[i] = takeKwarg(&kw, name)
		foundCaller = foundCaller || name == "caller"
	}
	if d.usesCaller && !foundCaller {
		caller := takeKwarg(&kw, "caller")
		if caller == nil || caller == any(none{}) {
			caller = &undefined{"no caller defined"}
		}
		s.vars["caller"] = caller
	}
	m.bindRest(s, kw, a.pos[given:])
	r.enterFrame(d.frame, s)
	m.bindParams(r, s, args)
	var buf output
	r.stmts(d.body, s, &buf)
	s.close()
	return buf.String()
}

func (m *macro) bindRest(s *scope, kw []kwarg, extra []any) {
	if m.def.usesKwargs {
		rest := newDict()
		for _, k := range kw {
			rest.setString(k.name, k.val)
		}
		s.vars["kwargs"] = rest
	} else if len(kw) > 0 {
		fail(ErrTemplate, "%s takes no keyword argument %q", m.label(), kw[0].name)
	}
	if m.def.usesVarargs {
		s.vars["varargs"] = &tuple{extra}
	} else if len(extra) > 0 {
		fail(ErrTemplate, "%s takes not more than %d arguments", m.label(), len(m.def.params))
	}
}

// bindParams sets the parameters in order, so a default can use the ones before it.
func (m *macro) bindParams(r *run, s *scope, args []any) {
	d := m.def
	for i, p := range d.params {
		s.vars[p.(*nameExpr).name] = args[i]
	}
	for i, p := range d.params {
		if args[i] != nil {
			continue
		}
		name := p.(*nameExpr).name
		if j := i - (len(d.params) - len(d.defaults)); j >= 0 {
			s.vars[name] = r.eval(d.defaults[j], s)
		} else {
			s.vars[name] = &undefined{"parameter " + pyQuote(name) + " was not provided"}
		}
	}
}

// takeKwarg removes a keyword argument and returns it, or nil.
func takeKwarg(kw *[]kwarg, name string) any {
	for i, k := range *kw {
		if k.name == name {
			*kw = append((*kw)[:i], (*kw)[i+1:]...)
			return k.val
		}
	}
	return nil
}

// callBlock runs {% call %} and {% generation %}: the body becomes a macro; the call puts it out.
func (r *run) callBlock(st *callBlockStmt, s *scope, w *output) {
	caller := &macro{def: &st.def, scope: s}
	r.line = st.line
	if st.call == nil {
		r.write(w, r.text(caller.call(r, callArgs{})))
		return
	}
	fn := r.eval(st.call.fn, s)
	args := r.args(&st.call.args, s)
	for _, k := range args.kw {
		if k.name == "caller" {
			fail(ErrTemplate, "two values for the keyword argument caller")
		}
	}
	args.kw = append(args.kw, kwarg{"caller", caller})
	r.line = st.line
	r.write(w, r.text(r.call(fn, args)))
}
