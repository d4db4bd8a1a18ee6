package chat

import (
	"math/big"
	"slices"
	"strings"
)

// getattr is x.name: the attribute first, then the item, then Undefined.
func (r *run) getattr(x any, name string) any {
	if v, ok := r.attribute(x, name); ok {
		return v
	}
	if v, ok := r.item(x, name); ok {
		return v
	}
	return missing(x, name)
}

// getitem is x[key]: the item first, then for a string the attribute, then Undefined.
func (r *run) getitem(x, key any) any {
	if v, ok := r.item(x, key); ok {
		return v
	}
	if name, ok := asString(key); ok {
		if v, ok := r.attribute(x, name); ok {
			return v
		}
		return missing(x, name)
	}
	return &undefined{typeName(x) + " object has no such element"}
}

func missing(x any, name string) *undefined {
	return &undefined{pyQuote(typeName(x)+" object") + " has no attribute " + pyQuote(name)}
}

// Methods of the built-in types. Those that change their object are kept from templates by the
// sandbox: they read as Undefined, which fails when it is called.
const (
	stringMethods = " capitalize casefold center count encode endswith expandtabs find format " +
		"format_map index isalnum isalpha isascii isdecimal isdigit isidentifier islower " +
		"isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans " +
		"partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit " +
		"rstrip split splitlines startswith strip swapcase title translate upper zfill "
	markupMethods = " escape unescape striptags "
	dictMethods   = " copy fromkeys get items keys values "
	dictMutators  = " clear pop popitem setdefault update "
	listMethods   = " copy count index "
	listMutators  = " append clear extend insert pop remove reverse sort "
	tupleMethods  = " count index "
	intMembers    = " as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag " +
		"is_integer numerator real to_bytes "
	floatMembers = " as_integer_ratio conjugate fromhex hex imag is_integer real "
	viewMembers  = " isdisjoint mapping "
	rangeMembers = " count index start step stop "
	otherMembers = " arguments caller catch_kwargs catch_varargs close explicit_caller fromkeys " +
		"items name pos reset send sep throw used "
)

func listed(names, name string) bool { return strings.Contains(names, " "+name+" ") }

// attribute is Python's getattr behind the sandbox.
func (r *run) attribute(x any, name string) (any, bool) {
	if u, ok := x.(*undefined); ok {
		if isDunder(name) {
			return nil, false
		}
		fail(ErrTemplate, "%s", u.message)
	}
	if ns, ok := x.(*namespace); ok {
		if name == "__class__" {
			fail(ErrUnsupported, "the attribute %s", name)
		}
		return ns.attrs.getString(name)
	}
	if isDunder(name) {
		fail(ErrUnsupported, "the attribute %s", name)
	}
	if name == "" || strings.ContainsRune(name, ' ') {
		return nil, false
	}
	return r.member(x, name)
}

func isDunder(name string) bool {
	return strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__")
}

// member finds a method or attribute of a built-in type.
func (r *run) member(x any, name string) (any, bool) {
	methods, mutators, unsupported := "", "", ""
	switch x := x.(type) {
	case string:
		methods = stringMethods
	case markup:
		methods, unsupported = stringMethods, markupMethods
	case *dict:
		methods, mutators = dictMethods, dictMutators
	case *list:
		methods, mutators = listMethods, listMutators
	case *tuple:
		methods = tupleMethods
	case bool, int64, *big.Int:
		unsupported = intMembers
	case float64:
		unsupported = floatMembers
	case *dictView:
		unsupported = viewMembers
	case *rangeValue:
		unsupported = rangeMembers
	case *loopContext:
		return x.attribute(name)
	case *cycler:
		if v, ok := x.attribute(name); ok {
			return v, true
		}
		unsupported = otherMembers
	case none:
	default:
		unsupported = otherMembers
	}
	switch {
	case listed(methods, name):
		return &method{x, name}, true
	case listed(mutators, name):
		return &undefined{"access to attribute " + pyQuote(name) + " of " + typeName(x) +
			" object is unsafe"}, true
	case listed(unsupported, name):
		fail(ErrUnsupported, "the attribute %q of %s", name, typeName(x))
	}
	return nil, false
}

func (c *cycler) attribute(name string) (any, bool) {
	switch name {
	case "current":
		return c.items[c.pos], true
	case "next":
		return &builtin{"cycler.next", func(_ *run, a callArgs) any {
			bind("cycler.next", a, 0)
			v := c.items[c.pos]
			c.pos = (c.pos + 1) % len(c.items)
			return v
		}}, true
	case "reset":
		return &builtin{"cycler.reset", func(_ *run, a callArgs) any {
			bind("cycler.reset", a, 0)
			c.pos = 0
			return none{}
		}}, true
	}
	return nil, false
}

// item is x[key] in Python; ok is false where that raises KeyError, IndexError or TypeError.
func (r *run) item(x, key any) (any, bool) {
	switch x := x.(type) {
	case *undefined:
		fail(ErrTemplate, "%s", x.message)
	case *dict:
		hash, ok := r.hashKey(key)
		if !ok {
			return nil, false
		}
		i, ok := x.index[hash]
		if !ok {
			return nil, false
		}
		return x.vals[i], true
	}
	i, ok := asInt(key)
	if !ok {
		return nil, false
	}
	return r.index(x, i)
}

// index is x[i] of a sequence, counting from the end for a negative i.
func (r *run) index(x any, i int64) (any, bool) {
	switch x.(type) {
	case string, markup, *list, *tuple, *rangeValue:
	default:
		return nil, false
	}
	n, _ := length(x)
	if i < 0 {
		i += int64(n)
	}
	if i < 0 || i >= int64(n) {
		return nil, false
	}
	switch x := x.(type) {
	case *list:
		return x.items[i], true
	case *tuple:
		return x.items[i], true
	case *rangeValue:
		return x.start + i*x.step, true
	}
	s, _ := asString(x)
	if len(s) == n {
		return like(x, s[i:i+1]), true
	}
	r.charge(len(s))
	return like(x, string([]rune(s)[i])), true
}

// slice is x[start:stop:step]. If x is constant, the reference gives Undefined in some places and
// raises in others where x has no slices.
func (r *run) slice(x any, bounds [3]any, constant bool) any {
	n, ok := length(x)
	switch v := x.(type) {
	case *undefined:
		fail(ErrTemplate, "%s", v.message)
	case string, markup, *list, *tuple:
	case *rangeValue:
		fail(ErrUnsupported, "a slice of a range")
	default:
		ok = false
	}
	if !ok && constant {
		fail(ErrUnsupported, "slicing a constant %s", typeName(x))
	}
	if !ok {
		fail(ErrTemplate, "%s cannot be sliced", typeName(x))
	}
	start, stop, step := sliceBounds(bounds, n)
	var picks []int
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		picks = append(picks, i)
	}
	r.charge(stepCost * len(picks))
	switch v := x.(type) {
	case *list:
		return &list{pick(v.items, picks)}
	case *tuple:
		return &tuple{pick(v.items, picks)}
	}
	s, _ := asString(x)
	r.charge(len(s))
	if step == 1 && len(s) == n {
		return like(x, s[start:max(start, stop)])
	}
	return like(x, string(pick([]rune(s), picks)))
}

func pick[T any](items []T, picks []int) []T {
	out := make([]T, len(picks))
	for i, p := range picks {
		out[i] = items[p]
	}
	return out
}

// sliceBounds clips the three parts of a slice to a sequence of length n, as slice.indices does.
func sliceBounds(bounds [3]any, n int) (start, stop, step int) {
	step = 1
	if bounds[2] != any(none{}) {
		step = clampInt(needInt("slice step", bounds[2]))
	}
	if step == 0 {
		fail(ErrTemplate, "slice step cannot be zero")
	}
	low, high := 0, n
	if step < 0 {
		low, high = -1, n-1
	}
	clip := func(v any, missing int) int {
		if v == any(none{}) {
			return missing
		}
		i := clampInt(needInt("slice index", v))
		if i < 0 {
			i += n
		}
		return min(max(i, low), high)
	}
	if step > 0 {
		return clip(bounds[0], low), clip(bounds[1], high), step
	}
	return clip(bounds[0], high), clip(bounds[1], low), step
}

// clampInt keeps slice arithmetic away from overflow; no sequence is this long.
func clampInt(i int64) int {
	const far = 1 << 40
	return int(min(max(i, -far), far))
}

// callMethod calls a method of a built-in type.
func (r *run) callMethod(m *method, a callArgs) any {
	switch x := m.self.(type) {
	case *dict:
		return r.dictMethod(x, m.name, a)
	case *list:
		return r.sequenceMethod(x.items, m.name, a)
	case *tuple:
		return r.sequenceMethod(x.items, m.name, a)
	}
	return r.stringMethod(m.self, m.name, a)
}

func (r *run) dictMethod(d *dict, name string, a callArgs) any {
	switch name {
	case "keys", "values", "items":
		bind(name, a, 0)
		return &dictView{d, name}
	case "copy":
		bind(name, a, 0)
		c := *d
		return &c
	case "get":
		if len(a.kw) > 0 {
			fail(ErrTemplate, "get takes no keyword arguments")
		}
		args := bind(name, a, 1, "key", "default")
		hash, ok := r.hashKey(args[0])
		if !ok {
			fail(ErrTemplate, "unhashable type %s", typeName(args[0]))
		}
		if i, ok := d.index[hash]; ok {
			return d.vals[i]
		}
		if args[1] != nil {
			return args[1]
		}
		return none{}
	}
	fail(ErrUnsupported, "the method %q of dict", name)
	return nil
}

func (r *run) sequenceMethod(items []any, name string, a callArgs) any {
	if len(a.kw) > 0 {
		fail(ErrTemplate, "%s takes no keyword arguments", name)
	}
	if name == "copy" {
		bind(name, a, 0)
		return &list{items}
	}
	if len(a.pos) > 1 && name == "index" {
		fail(ErrUnsupported, "index with bounds")
	}
	want := bind(name, a, 1, "value")[0]
	at := slices.IndexFunc(items, func(v any) bool { return r.equal(v, want) })
	if name == "index" {
		if at < 0 {
			fail(ErrTemplate, "value is not in the list")
		}
		return int64(at)
	}
	n := int64(0)
	for _, v := range items {
		if r.equal(v, want) {
			n++
		}
	}
	return n
}
