package chat

// The tree. Expressions and statements are pointers to the structs below; each keeps its line.
// Names carry the level of the scope they belong to, which compile.go fills in.
type (
	expr = any
	stmt = any

	constExpr struct{ val any }
	// textExpr is template text between tags.
	textExpr struct{ text string }
	nameExpr struct {
		name  string
		line  int
		store bool // assigned or declared here, not read
		param bool
		level int
	}
	// nsRefExpr is the target of {% set ns.attr = … %}.
	nsRefExpr struct {
		name  string
		attr  string
		line  int
		level int
	}
	tupleExpr struct{ items []expr }
	listExpr  struct{ items []expr }
	dictExpr  struct{ keys, vals []expr }
	condExpr  struct {
		test, yes, no expr // no may be nil
		line          int
	}
	binExpr struct {
		op          string // + - * / // % **
		left, right expr
		line        int
	}
	logicExpr struct {
		isOr        bool
		left, right expr
	}
	notExpr   struct{ x expr }
	unaryExpr struct {
		op   string // + -
		x    expr
		line int
	}
	compareExpr struct {
		first expr
		ops   []string // == != < <= > >= in notin
		rest  []expr
		line  int
	}
	concatExpr  struct{ items []expr }
	getattrExpr struct {
		x    expr
		attr string
		line int
	}
	getitemExpr struct {
		x, key expr // key may be *sliceExpr
		line   int
	}
	sliceExpr struct{ start, stop, step expr } // each may be nil
	callExpr  struct {
		fn   expr
		args argExprs
		line int
	}
	filterExpr struct {
		x    expr // nil in a filter block or set block
		name string
		args argExprs
		line int
	}
	testExpr struct {
		x    expr
		name string
		args argExprs
		line int
	}
	argExprs struct {
		pos      []expr
		names    []string
		vals     []expr
		star     expr // *args, may be nil
		starStar expr // **kwargs, may be nil
	}

	outputStmt struct{ items []expr }
	ifStmt     struct {
		test  expr
		body  []stmt
		elifs []stmt // of *ifStmt
		other []stmt
	}
	forStmt struct {
		target, iter, test expr // test may be nil
		body, other        []stmt
		recursive          bool
		line               int

		bodyFrame, testFrame, otherFrame frame
	}
	setStmt struct {
		target, val expr
		line        int
	}
	setBlockStmt struct {
		target expr
		filter expr // may be nil
		body   []stmt
		line   int
		frame  frame
	}
	withStmt struct {
		targets, vals []expr
		body          []stmt
		line          int
		frame         frame
	}
	filterBlockStmt struct {
		filter expr
		body   []stmt
		frame  frame
	}
	macroStmt struct {
		name  string
		level int
		line  int
		def   macroDef
	}
	// callBlockStmt is {% call %}, and {% generation %} when call is nil.
	callBlockStmt struct {
		call *callExpr
		def  macroDef
		line int
	}
	loopControlStmt struct {
		isBreak bool
		line    int
	}

	// macroDef is what a macro and a call block share.
	macroDef struct {
		name     string // "" for a call block
		params   []expr // of *nameExpr
		defaults []expr // of the last parameters
		body     []stmt
		line     int
		frame    frame
		// Which of the special names the body reads without declaring them.
		usesCaller, usesKwargs, usesVarargs bool
		explicitCaller                      bool
	}
)

// frame is a scope as compile.go resolved it: its level and how each name of it starts out.
type frame struct {
	level int
	loads []load
}

type loadKind int

const (
	loadParam     loadKind = iota // given by the statement that opens the scope
	loadResolve                   // from the variables given to Render and the globals
	loadAlias                     // from the scope at level from
	loadUndefined                 // missing until assigned
)

type load struct {
	name string
	kind loadKind
	from int
}

// children returns the parts of a node in the order of the reference's node fields, which decides
// what "declared before" means there.
func children(n any) []any {
	switch n := n.(type) {
	case *tupleExpr:
		return n.items
	case *listExpr:
		return n.items
	case *dictExpr:
		var out []any
		for i := range n.keys {
			out = append(out, n.keys[i], n.vals[i])
		}
		return out
	case *condExpr:
		return present(n.test, n.yes, n.no)
	case *binExpr:
		return []any{n.left, n.right}
	case *logicExpr:
		return []any{n.left, n.right}
	case *notExpr:
		return []any{n.x}
	case *unaryExpr:
		return []any{n.x}
	case *compareExpr:
		return append([]any{n.first}, n.rest...)
	case *concatExpr:
		return n.items
	case *getattrExpr:
		return []any{n.x}
	case *getitemExpr:
		return []any{n.x, n.key}
	case *sliceExpr:
		return present(n.start, n.stop, n.step)
	case *callExpr:
		return append([]any{n.fn}, n.args.children()...)
	case *filterExpr:
		return append(present(n.x), n.args.children()...)
	case *testExpr:
		return append([]any{n.x}, n.args.children()...)
	}
	return stmtChildren(n)
}

func stmtChildren(n any) []any {
	switch n := n.(type) {
	case *outputStmt:
		return n.items
	case *ifStmt:
		return join([]any{n.test}, n.body, n.elifs, n.other)
	case *forStmt:
		return join([]any{n.target, n.iter}, n.body, n.other, present(n.test))
	case *setStmt:
		return []any{n.target, n.val}
	case *setBlockStmt:
		return join([]any{n.target}, present(n.filter), n.body)
	case *withStmt:
		return join(n.targets, n.vals, n.body)
	case *filterBlockStmt:
		return join(n.body, []any{n.filter})
	case *macroStmt:
		return join(n.def.params, n.def.defaults, n.def.body)
	case *callBlockStmt:
		own := join(n.def.params, n.def.defaults, n.def.body)
		if n.call == nil {
			return own
		}
		return join([]any{n.call}, own)
	}
	return nil
}

func (a *argExprs) children() []any {
	return join(a.pos, a.vals, present(a.star, a.starStar))
}

func present(xs ...any) []any {
	var out []any
	for _, x := range xs {
		if x != nil {
			out = append(out, x)
		}
	}
	return out
}

func join(lists ...[]any) []any {
	var out []any
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}
