package chat

import (
	"slices"
	"strconv"
	"strings"
)

// Filters over sequences. Those the reference writes as generators are lazy here too: nothing is
// evaluated, and no error raised, before the first item is asked for.

// lazy is a generator whose body starts at the first item. Generators over generators nest only so
// deep.
func (r *run) lazy(start func() func() (any, bool)) *iterator {
	var next func() (any, bool)
	return &iterator{func() (any, bool) {
		defer r.descend()()
		if next == nil {
			next = start()
		}
		return next()
	}}
}

func nothing() (any, bool) { return nil, false }

// attrGetter returns the function that reads a dotted attribute path; fallback, unless nil or None,
// stands in for a missing part.
func (r *run) attrGetter(attribute, fallback any) func(any) any {
	path := attrPath(attribute)
	return func(v any) any {
		for _, part := range path {
			v = r.getitem(v, part)
			_, isUndefined := v.(*undefined)
			if isUndefined && fallback != nil && fallback != any(none{}) {
				v = fallback
			}
		}
		return v
	}
}

func attrPath(attribute any) []any {
	if attribute == nil || attribute == any(none{}) {
		return nil
	}
	s, ok := asString(attribute)
	if !ok {
		return []any{attribute}
	}
	var path []any
	for _, part := range strings.Split(s, ".") {
		if n, err := strconv.Atoi(part); err == nil && isDigit(part[0]) {
			path = append(path, int64(n))
		} else {
			path = append(path, part)
		}
	}
	return path
}

// sortKey returns attribute values as sort, min, max and unique compare them: text in lower case
// unless told otherwise.
func (r *run) sortKey(attribute, caseSensitive any) func(any) any {
	get := r.attrGetter(attribute, nil)
	exact := caseSensitive != nil && r.truth(caseSensitive)
	return func(v any) any {
		v = get(v)
		if s, ok := asString(v); ok && !exact {
			return lower(s)
		}
		return v
	}
}

func (r *run) given(v any) bool { return v != nil && r.truth(v) }

type keyed struct{ key, item any }

// sorted is Python's sorted(): stable, in both directions.
func (r *run) sorted(items []any, key func(any) any, reverse bool) *list {
	pairs := make([]keyed, len(items))
	for i, item := range items {
		pairs[i] = keyed{key(item), item}
	}
	slices.SortStableFunc(pairs, func(a, b keyed) int {
		if reverse {
			return r.order("<", b.key, a.key)
		}
		return r.order("<", a.key, b.key)
	})
	for i, p := range pairs {
		items[i] = p.item
	}
	return &list{items}
}

func filterSort(r *run, a callArgs) any {
	args := bind("sort", a, 1, "value", "reverse", "case_sensitive", "attribute")
	attributes := []any{args[3]}
	if s, ok := asString(args[3]); ok {
		attributes = nil
		for _, part := range strings.Split(s, ",") {
			attributes = append(attributes, part)
		}
	}
	var keys []func(any) any
	for _, attribute := range attributes {
		keys = append(keys, r.sortKey(attribute, args[2]))
	}
	return r.sorted(r.collect(args[0]), func(v any) any {
		out := &list{make([]any, len(keys))}
		for i, key := range keys {
			out.items[i] = key(v)
		}
		return out
	}, r.given(args[1]))
}

func filterDictSort(r *run, a callArgs) any {
	args := bind("dictsort", a, 1, "value", "case_sensitive", "by", "reverse")
	pos := int64(0)
	if args[2] != nil {
		pos = int64(slices.Index([]string{"key", "value"}, r.str(args[2])))
	}
	if pos < 0 {
		fail(ErrTemplate, "dictsort sorts by key or by value")
	}
	d, ok := args[0].(*dict)
	if !ok {
		fail(ErrTemplate, "dictsort needs a mapping, not %s", typeName(args[0]))
	}
	items := r.collect(&dictView{d, "items"})
	return r.sorted(items, r.sortKey(pos, args[1]), r.given(args[3]))
}

func filterUnique(r *run, a callArgs) any {
	args := bind("unique", a, 1, "value", "case_sensitive", "attribute")
	return r.lazy(func() func() (any, bool) {
		key := r.sortKey(args[2], args[1])
		seen := map[string]bool{}
		next := r.iterate(args[0])
		return func() (any, bool) {
			for item, ok := next(); ok; item, ok = next() {
				hash, hashable := r.hashKey(key(item))
				if !hashable {
					fail(ErrTemplate, "unique: unhashable item of type %s", typeName(item))
				}
				if !seen[hash] {
					seen[hash] = true
					return item, true
				}
			}
			return nil, false
		}
	})
}

func filterMinMax(r *run, a callArgs, name string) any {
	args := bind(name, a, 1, "value", "case_sensitive", "attribute")
	op := "<"
	if name == "max" {
		op = ">"
	}
	next := r.iterate(args[0])
	best, ok := next()
	if !ok {
		return &undefined{"no aggregated item, the sequence was empty"}
	}
	key := r.sortKey(args[2], args[1])
	bestKey := key(best)
	for item, ok := next(); ok; item, ok = next() {
		if k := key(item); r.ordered(op, k, bestKey) {
			best, bestKey = item, k
		}
	}
	return best
}

func filterSum(r *run, a callArgs) any {
	args := bind("sum", a, 1, "iterable", "attribute", "start")
	get := r.attrGetter(args[1], nil)
	total := args[2]
	if total == nil {
		total = int64(0)
	}
	if _, ok := asString(total); ok {
		fail(ErrTemplate, "sum cannot add strings")
	}
	next := r.iterate(args[0])
	for item, ok := next(); ok; item, ok = next() {
		r.charge(stepCost)
		total = r.binary("+", total, get(item))
	}
	return total
}

func filterFirst(r *run, a callArgs) any {
	if v, ok := r.iterate(bind("first", a, 1, "seq")[0])(); ok {
		return v
	}
	return &undefined{"no first item, the sequence was empty"}
}

func filterLast(r *run, a callArgs) any {
	v := bind("last", a, 1, "seq")[0]
	next, ok := r.reversed(v)
	if !ok {
		fail(ErrTemplate, "%s cannot be read from its end", typeName(v))
	}
	if item, ok := next(); ok {
		return item
	}
	return &undefined{"no last item, the sequence was empty"}
}

// reversed is Python's reversed(); ok is false where that raises TypeError.
func (r *run) reversed(v any) (next func() (any, bool), ok bool) {
	switch v.(type) {
	case string, markup, *list, *tuple, *dict, *dictView, *rangeValue, *undefined:
	default:
		return nil, false
	}
	items := r.collect(v)
	n := len(items)
	if _, isMarkup := v.(markup); isMarkup {
		return counted(n, func(i int) any { return markup(items[n-1-i].(string)) }), true
	}
	return counted(n, func(i int) any { return items[n-1-i] }), true
}

func filterReverse(r *run, a callArgs) any {
	v := bind("reverse", a, 1, "value")[0]
	if _, ok := asString(v); ok {
		return r.slice(v, [3]any{none{}, none{}, int64(-1)}, false)
	}
	if next, ok := r.reversed(v); ok {
		return &iterator{next}
	}
	items := r.collect(v)
	slices.Reverse(items)
	return &list{items}
}

func filterList(r *run, a callArgs) any {
	return &list{r.collect(bind("list", a, 1, "value")[0])}
}

func filterItems(r *run, a callArgs) any {
	v := bind("items", a, 1, "value")[0]
	return r.lazy(func() func() (any, bool) {
		if _, ok := v.(*undefined); ok {
			return nothing
		}
		d, ok := v.(*dict)
		if !ok {
			fail(ErrTemplate, "items needs a mapping, not %s", typeName(v))
		}
		return counted(len(d.keys), d.pair)
	})
}

func filterJoin(r *run, a callArgs) any {
	args := bind("join", a, 1, "value", "d", "attribute")
	sep := ""
	if args[1] != nil {
		sep = r.str(args[1])
	}
	get := r.attrGetter(args[2], nil)
	next := r.iterate(args[0])
	var out output
	first := true
	for item, ok := next(); ok; item, ok = next() {
		r.charge(stepCost)
		if !first {
			r.write(&out, sep)
		}
		first = false
		r.write(&out, r.str(get(item)))
	}
	return out.String()
}

func filterBatch(r *run, a callArgs) any {
	args := bind("batch", a, 2, "value", "linecount", "fill_with")
	return r.lazy(func() func() (any, bool) {
		next := r.iterate(args[0])
		size, sizeIsInt := asInt(args[1])
		if !sizeIsInt {
			fail(ErrUnsupported, "batch with a size of type %s", typeName(args[1]))
		}
		var held []any
		done := false
		return func() (any, bool) {
			for !done {
				item, ok := next()
				if !ok {
					done = true
					return r.lastBatch(held, size, args[2])
				}
				full := int64(len(held)) == size
				if full {
					out := held
					held = []any{item}
					return &list{out}, true
				}
				held = append(held, item)
			}
			return nil, false
		}
	})
}

func (r *run) lastBatch(items []any, size int64, fill any) (any, bool) {
	if len(items) == 0 {
		return nil, false
	}
	if fill != nil && fill != any(none{}) {
		r.charge(stepCost * clampInt(max(0, size-int64(len(items)))))
		for int64(len(items)) < size {
			items = append(items, fill)
		}
	}
	return &list{items}, true
}

func filterSlice(r *run, a callArgs) any {
	args := bind("slice", a, 2, "value", "slices", "fill_with")
	return r.lazy(func() func() (any, bool) {
		items := r.collect(args[0])
		n := clampInt(needInt("slices", args[1]))
		if n == 0 {
			fail(ErrTemplate, "division by zero")
		}
		if n < 0 {
			return nothing
		}
		size, extra := len(items)/n, len(items)%n
		return counted(n, func(i int) any {
			start := i*size + min(i, extra)
			end := start + size
			if i < extra {
				end++
			}
			part := append([]any(nil), items[start:end]...)
			if args[2] != nil && args[2] != any(none{}) && i >= extra {
				part = append(part, args[2])
			}
			return &list{part}
		})
	})
}

// filterMap applies a filter by name, or reads an attribute.
func filterMap(r *run, a callArgs) any {
	value, rest := a.pos[0], callArgs{a.pos[1:], a.kw}
	return r.lazy(func() func() (any, bool) {
		if !r.truth(value) {
			return nothing
		}
		apply := r.mapper(rest)
		next := r.iterate(value)
		return func() (any, bool) {
			item, ok := next()
			if !ok {
				return nil, false
			}
			return apply(item), true
		}
	})
}

func (r *run) mapper(a callArgs) func(any) any {
	if len(a.pos) == 0 && slices.ContainsFunc(a.kw, func(k kwarg) bool {
		return k.name == "attribute"
	}) {
		args := bind("map", a, 1, "attribute", "default")
		return r.attrGetter(args[0], args[1])
	}
	if len(a.pos) == 0 {
		fail(ErrTemplate, "map requires a filter argument")
	}
	name, rest := needString("filter name", a.pos[0]), a.pos[1:]
	return func(item any) any { return r.filter(name, item, callArgs{rest, a.kw}) }
}

// filterSelect is select, reject, selectattr and rejectattr.
func filterSelect(r *run, a callArgs, name string) any {
	value, rest := a.pos[0], callArgs{a.pos[1:], a.kw}
	return r.lazy(func() func() (any, bool) {
		if !r.truth(value) {
			return nothing
		}
		keep := r.selector(rest, name)
		next := r.iterate(value)
		return func() (any, bool) {
			for item, ok := next(); ok; item, ok = next() {
				if keep(item) {
					return item, true
				}
			}
			return nil, false
		}
	})
}

func (r *run) selector(a callArgs, name string) func(any) bool {
	get := func(v any) any { return v }
	pos := a.pos
	if strings.HasSuffix(name, "attr") {
		if len(pos) == 0 {
			fail(ErrTemplate, "missing parameter for attribute name")
		}
		get = r.attrGetter(pos[0], nil)
		pos = pos[1:]
	}
	want := strings.HasPrefix(name, "select")
	if len(pos) == 0 {
		return func(item any) bool { return r.truth(get(item)) == want }
	}
	test := needString("test name", pos[0])
	return func(item any) bool {
		return r.test(test, get(item), callArgs{pos[1:], a.kw}) == want
	}
}
