package chat

import "math/big"

// testFunc gets the operand as first argument.
type testFunc func(*run, callArgs) bool

// findTest returns a test by name, nil if there is none. All of the reference's are here.
func findTest(name string) testFunc {
	switch name {
	case "odd", "even", "divisibleby":
		return func(r *run, a callArgs) bool { return testRemainder(r, a, name) }
	case "filter":
		return func(r *run, a callArgs) bool {
			filter := needString("filter name", bind(name, a, 1, "value")[0])
			return findFilter(filter) != nil || indexOf(filtersMissing(), filter) >= 0
		}
	case "test":
		return func(r *run, a callArgs) bool {
			return findTest(needString("test name", bind(name, a, 1, "value")[0])) != nil
		}
	case "in":
		return func(r *run, a callArgs) bool {
			args := bind(name, a, 2, "value", "seq")
			return r.contains(args[1], args[0])
		}
	case "sameas":
		return testSame
	case "upper", "lower":
		return func(r *run, a callArgs) bool {
			is, _ := predicate(r.str(bind(name, a, 1, "value")[0]), "is"+name)
			return is
		}
	}
	if op := comparisonTest(name); op != "" {
		return func(r *run, a callArgs) bool {
			args := positional(name, a, 2, "a", "b")
			return r.compareOp(op, args[0], args[1])
		}
	}
	if is := findTypeTest(name); is != nil {
		return func(r *run, a callArgs) bool { return is(bind(name, a, 1, "value")[0]) }
	}
	return nil
}

// comparisonTest maps the names of comparing tests to operators.
func comparisonTest(name string) string {
	switch name {
	case "==", "eq", "equalto":
		return "=="
	case "!=", "ne":
		return "!="
	case ">", "gt", "greaterthan":
		return ">"
	case ">=", "ge":
		return ">="
	case "<", "lt", "lessthan":
		return "<"
	case "<=", "le":
		return "<="
	}
	return ""
}

// findTypeTest returns the tests that look only at the type.
func findTypeTest(name string) func(any) bool {
	switch name {
	case "defined":
		return func(v any) bool { return !isUndefined(v) }
	case "undefined":
		return isUndefined
	case "none":
		return func(v any) bool { return v == any(none{}) }
	case "boolean":
		return func(v any) bool { _, ok := v.(bool); return ok }
	case "true":
		return func(v any) bool { return v == any(true) }
	case "false":
		return func(v any) bool { return v == any(false) }
	case "integer":
		return isInteger
	case "float":
		return func(v any) bool { _, ok := v.(float64); return ok }
	case "number":
		return func(v any) bool { _, _, _, ok := number(v); return ok }
	case "string":
		return func(v any) bool { _, ok := asString(v); return ok }
	case "mapping":
		return func(v any) bool { _, ok := v.(*dict); return ok }
	case "sequence":
		return isSequence
	case "iterable":
		return iterable
	case "callable":
		return isCallable
	case "escaped":
		return func(v any) bool { _, ok := v.(markup); return ok }
	}
	return nil
}

func isUndefined(v any) bool { _, ok := v.(*undefined); return ok }

func isInteger(v any) bool {
	switch v.(type) {
	case int64, *big.Int:
		return true
	}
	return false
}

// isSequence: has a length and items, which Python says of mappings and Undefined too.
func isSequence(v any) bool {
	switch v.(type) {
	case string, markup, *list, *tuple, *dict, *rangeValue, *undefined:
		return true
	}
	return false
}

func isCallable(v any) bool {
	switch v.(type) {
	case *macro, *builtin, *method, *undefined, *loopContext, *joiner:
		return true
	}
	return false
}

func testRemainder(r *run, a callArgs, name string) bool {
	params := []string{"value"}
	if name == "divisibleby" {
		params = append(params, "num")
	}
	args := bind(name, a, len(params), params...)
	want, divisor := int64(0), any(int64(2))
	switch name {
	case "odd":
		want = 1
	case "divisibleby":
		divisor = args[1]
	}
	return r.equal(r.binary("%", args[0], divisor), want)
}

// testSame is Python's "is", where that does not depend on how Python stores values.
func testSame(r *run, a callArgs) bool {
	args := bind("sameas", a, 2, "value", "other")
	for _, v := range args {
		switch v.(type) {
		case none, bool:
			return args[0] == args[1]
		}
	}
	fail(ErrUnsupported, "the test sameas of %s and %s", typeName(args[0]), typeName(args[1]))
	return false
}
