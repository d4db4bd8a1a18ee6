package chat

import (
	"math/big"
	"strconv"
	"strings"
)

// Inside the package a Python value is a Go any of one of these types:
//
//	None       none            bool     bool
//	int        int64, or *big.Int when it does not fit
//	float      float64 (finite)
//	str        string (valid UTF-8)          Markup   markup
//	list       *list    tuple  *tuple        dict     *dict
//	dict views *dictView       range         *rangeValue
//	generators *iterator       Undefined     *undefined
//	callables  *macro, *method, *builtin
//	others     *namespace, *loopContext, *cycler, *joiner
//
// A Go nil is never a value; it marks "missing", as in an argument that was not given.
// Lists, tuples and mappings are never changed after they are built: the sandbox forbids it.
type (
	none   struct{}
	markup string
	list   struct{ items []any }
	tuple  struct{ items []any }
)

// dict is Python's mapping: it keeps insertion order, and 1, 1.0 and True are one key.
type dict struct {
	keys  []any
	vals  []any
	index map[string]int // by hashKey
}

func newDict() *dict { return &dict{index: map[string]int{}} }

func (d *dict) set(hash string, key, val any) {
	if i, ok := d.index[hash]; ok {
		d.vals[i] = val
		return
	}
	d.index[hash] = len(d.keys)
	d.keys = append(d.keys, key)
	d.vals = append(d.vals, val)
}

// setString is set for a str key.
func (d *dict) setString(key string, val any) { d.set("s"+key, key, val) }

// getString looks a str key up.
func (d *dict) getString(key string) (any, bool) {
	i, ok := d.index["s"+key]
	if !ok {
		return nil, false
	}
	return d.vals[i], true
}

func (d *dict) pair(i int) any { return &tuple{[]any{d.keys[i], d.vals[i]}} }

// dictView is what keys(), values() and items() return.
type dictView struct {
	d    *dict
	kind string // "keys", "values" or "items"
}

func (v *dictView) at(i int) any {
	switch v.kind {
	case "keys":
		return v.d.keys[i]
	case "values":
		return v.d.vals[i]
	}
	return v.d.pair(i)
}

type rangeValue struct{ start, stop, step int64 }

func (g *rangeValue) len() int {
	switch {
	case g.step > 0 && g.start < g.stop:
		return int((g.stop-g.start-1)/g.step) + 1
	case g.step < 0 && g.start > g.stop:
		return int((g.start-g.stop-1)/-g.step) + 1
	}
	return 0
}

// iterator is a Python generator or iterator: used up as it is read, true, without a length.
type iterator struct{ next func() (any, bool) }

// undefined is jinja2.Undefined: prints as nothing, is false and empty, and fails when used.
type undefined struct{ message string }

func undefinedName(name string) *undefined {
	return &undefined{pyQuote(name) + " is undefined"}
}

type namespace struct{ attrs *dict }

// method is a bound method of a str, dict, list or tuple.
type method struct {
	self any
	name string
}

// builtin is a global function.
type builtin struct {
	name string
	call func(*run, callArgs) any
}

type cycler struct {
	items []any
	pos   int
}

type joiner struct {
	sep  any
	used bool
}

// callArgs are the evaluated arguments of a call, a filter or a test.
type callArgs struct {
	pos []any
	kw  []kwarg
}

type kwarg struct {
	name string
	val  any
}

// bind matches arguments to parameters as Python does. The result has one entry a parameter, nil
// where none was given; the first required ones must be given.
func bind(what string, a callArgs, required int, params ...string) []any {
	if len(a.pos) > len(params) {
		fail(ErrTemplate, "%s takes at most %d arguments, got %d", what, len(params), len(a.pos))
	}
	out := make([]any, len(params))
	copy(out, a.pos)
	for _, k := range a.kw {
		i := indexOf(params, k.name)
		if i < 0 {
			fail(ErrTemplate, "%s got an unexpected keyword argument %q", what, k.name)
		}
		if out[i] != nil {
			fail(ErrTemplate, "%s got two values for argument %q", what, k.name)
		}
		out[i] = k.val
	}
	for i := range required {
		if out[i] == nil {
			fail(ErrTemplate, "%s misses argument %q", what, params[i])
		}
	}
	return out
}

func indexOf(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}

// typeName is the Python name of a value's type, for messages.
func typeName(v any) string {
	switch v.(type) {
	case none:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case markup:
		return "Markup"
	case *list:
		return "list"
	case *tuple:
		return "tuple"
	case *dict:
		return "dict"
	case *dictView:
		return "dict view"
	case *rangeValue:
		return "range"
	case *iterator:
		return "generator"
	case *undefined:
		return "Undefined"
	case *namespace:
		return "Namespace"
	case *loopContext:
		return "LoopContext"
	case *macro:
		return "Macro"
	}
	return "object"
}

// asString returns the text of a str or Markup.
func asString(v any) (string, bool) {
	switch s := v.(type) {
	case string:
		return s, true
	case markup:
		return string(s), true
	}
	return "", false
}

// like gives s the string type of the value it came from: methods of Markup return Markup.
func like(origin any, s string) any {
	if _, ok := origin.(markup); ok {
		return markup(s)
	}
	return s
}

// asInt returns v as Python's __index__ would: int and bool, within 64 bits.
func asInt(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case bool:
		if n {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

func needInt(what string, v any) int64 {
	n, ok := asInt(v)
	if !ok {
		fail(ErrTemplate, "%s must be an integer, not %s", what, typeName(v))
	}
	return n
}

func needString(what string, v any) string {
	s, ok := asString(v)
	if !ok {
		fail(ErrTemplate, "%s must be a string, not %s", what, typeName(v))
	}
	return s
}

// truth is Python's bool().
func (r *run) truth(v any) bool {
	switch x := v.(type) {
	case none, *undefined:
		return false
	case bool:
		return x
	case int64:
		return x != 0
	case float64:
		return x != 0
	case string:
		return x != ""
	case markup:
		return x != ""
	case *list:
		return len(x.items) > 0
	case *tuple:
		return len(x.items) > 0
	case *dict:
		return len(x.keys) > 0
	case *dictView:
		return len(x.d.keys) > 0
	case *rangeValue:
		return x.len() > 0
	case *loopContext:
		return x.length() > 0
	}
	return true
}

// length is Python's len(); ok is false where that raises TypeError.
func length(v any) (n int, ok bool) {
	switch x := v.(type) {
	case *undefined:
		return 0, true
	case string:
		return runeCount(x), true
	case markup:
		return runeCount(string(x)), true
	case *list:
		return len(x.items), true
	case *tuple:
		return len(x.items), true
	case *dict:
		return len(x.keys), true
	case *dictView:
		return len(x.d.keys), true
	case *rangeValue:
		return x.len(), true
	case *loopContext:
		return x.length(), true
	}
	return 0, false
}

// iterable reports whether iter(v) works.
func iterable(v any) bool {
	switch v.(type) {
	case string, markup, *list, *tuple, *dict, *dictView, *rangeValue, *iterator, *undefined,
		*loopContext:
		return true
	}
	return false
}

// iterate is Python's iter(): each call of next gives an item until ok is false.
func (r *run) iterate(v any) (next func() (any, bool)) {
	switch x := v.(type) {
	case *iterator:
		return x.next
	case *undefined:
		return func() (any, bool) { return nil, false }
	case string:
		return iterateString(x)
	case markup:
		return iterateString(string(x))
	case *list:
		return counted(len(x.items), func(i int) any { return x.items[i] })
	case *tuple:
		return counted(len(x.items), func(i int) any { return x.items[i] })
	case *dict:
		return counted(len(x.keys), func(i int) any { return x.keys[i] })
	case *dictView:
		return counted(len(x.d.keys), x.at)
	case *rangeValue:
		return counted(x.len(), func(i int) any { return x.start + int64(i)*x.step })
	case *loopContext:
		fail(ErrUnsupported, "iterating over the loop variable")
	}
	fail(ErrTemplate, "%s is not iterable", typeName(v))
	return nil
}

func counted(n int, at func(int) any) func() (any, bool) {
	i := 0
	return func() (any, bool) {
		if i == n {
			return nil, false
		}
		i++
		return at(i - 1), true
	}
}

func iterateString(s string) func() (any, bool) {
	return func() (any, bool) {
		if s == "" {
			return nil, false
		}
		n := firstRuneLen(s)
		head := s[:n]
		s = s[n:]
		return head, true
	}
}

// slice is Python's list(): every item, within the work bound.
func (r *run) collect(v any) []any {
	next := r.iterate(v)
	var out []any
	for item, ok := next(); ok; item, ok = next() {
		r.charge(stepCost)
		out = append(out, item)
	}
	return out
}

// hashKey gives equal strings for values that are equal as dict keys. ok is false for a value that
// Python cannot hash.
func (r *run) hashKey(v any) (key string, ok bool) {
	switch x := v.(type) {
	case string:
		return "s" + x, true
	case markup:
		return "s" + string(x), true
	case none:
		return "N", true
	case bool, int64:
		n, _ := asInt(x)
		return "i" + strconv.FormatInt(n, 10), true
	case *big.Int:
		return "i" + x.String(), true
	case float64:
		if n, isInt := floatInt(x); isInt {
			return "i" + n.String(), true
		}
		return "f" + strconv.FormatFloat(x, 'g', -1, 64), true
	case *undefined:
		return "U", true
	case *tuple:
		return r.hashTuple(x)
	case *list, *dict, *dictView:
		return "", false
	}
	fail(ErrUnsupported, "%s as a mapping key", typeName(v))
	return "", false
}

func (r *run) hashTuple(t *tuple) (string, bool) {
	defer r.descend()()
	var b strings.Builder
	b.WriteByte('t')
	for _, item := range t.items {
		k, ok := r.hashKey(item)
		if !ok {
			return "", false
		}
		r.charge(len(k))
		b.WriteString(strconv.Itoa(len(k)))
		b.WriteByte(':')
		b.WriteString(k)
	}
	return b.String(), true
}

// floatInt returns the integer a float is equal to, if there is one.
func floatInt(f float64) (*big.Int, bool) {
	n, accuracy := big.NewFloat(f).Int(nil)
	return n, accuracy == big.Exact
}
