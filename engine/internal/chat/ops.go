package chat

import (
	"math"
	"math/big"
	"strings"
)

// number returns v as int (exactly one of n and isFloat) or float; ok is false for other types.
func number(v any) (n *big.Int, f float64, isFloat, ok bool) {
	switch x := v.(type) {
	case float64:
		return nil, x, true, true
	case *big.Int:
		return x, 0, false, true
	}
	if i, isInt := asInt(v); isInt {
		return big.NewInt(i), 0, false, true
	}
	return nil, 0, false, false
}

// fromBig returns the smallest form of an int.
func fromBig(n *big.Int) any {
	if n.IsInt64() {
		return n.Int64()
	}
	if n.BitLen() > intBitsMax {
		fail(ErrLimit, "an integer of more than %d bits", intBitsMax)
	}
	return n
}

// finite refuses infinities and NaN: the reference compiles them to names it does not know.
func finite(f float64) any {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		fail(ErrUnsupported, "a float that is not finite")
	}
	return f
}

func bigFloat(n *big.Int) float64 {
	f, _ := new(big.Float).SetInt(n).Float64()
	if math.IsInf(f, 0) {
		fail(ErrTemplate, "integer too large to become a float")
	}
	return f
}

func (r *run) unary(op string, v any) any {
	n, f, isFloat, ok := number(v)
	switch {
	case !ok:
		failOperand("unary "+op, v)
	case op == "+" && isFloat:
		return f
	case op == "+":
		return fromBig(n)
	case isFloat:
		return -f
	}
	return fromBig(new(big.Int).Neg(n))
}

func failOperand(op string, operands ...any) {
	var names []string
	for _, v := range operands {
		if u, ok := v.(*undefined); ok {
			fail(ErrTemplate, "%s", u.message)
		}
		names = append(names, typeName(v))
	}
	fail(ErrTemplate, "unsupported operand for %s: %s", op, strings.Join(names, " and "))
}

func (r *run) binary(op string, a, b any) any {
	_, leftUndefined := a.(*undefined)
	_, rightUndefined := b.(*undefined)
	if s, ok := asString(a); ok && op == "%" {
		return like(a, r.percentFormat(a, s, b))
	}
	if leftUndefined || rightUndefined {
		failOperand(op, a, b)
	}
	if x, ok := a.(int64); ok {
		if y, ok := b.(int64); ok {
			if v, ok := smallArithmetic(op, x, y); ok {
				return v
			}
		}
	}
	an, af, aFloat, aNum := number(a)
	bn, bf, bFloat, bNum := number(b)
	if !aNum || !bNum {
		return r.sequenceOp(op, a, b)
	}
	if !aFloat && !bFloat {
		return intArithmetic(op, an, bn)
	}
	if !aFloat {
		af = bigFloat(an)
	}
	if !bFloat {
		bf = bigFloat(bn)
	}
	return floatArithmetic(op, af, bf)
}

// smallArithmetic covers the common case without big integers.
func smallArithmetic(op string, x, y int64) (any, bool) {
	const safe = 1 << 31
	if x >= safe || x <= -safe || y >= safe || y <= -safe {
		return nil, false
	}
	switch op {
	case "+":
		return x + y, true
	case "-":
		return x - y, true
	case "*":
		return x * y, true
	}
	return nil, false
}

func intArithmetic(op string, x, y *big.Int) any {
	z := new(big.Int)
	switch op {
	case "+":
		return fromBig(z.Add(x, y))
	case "-":
		return fromBig(z.Sub(x, y))
	case "*":
		return fromBig(z.Mul(x, y))
	case "**":
		return intPower(x, y)
	}
	if y.Sign() == 0 {
		fail(ErrTemplate, "division by zero")
	}
	if op == "/" {
		if x.Sign() == 0 && y.Sign() < 0 {
			return math.Copysign(0, -1)
		}
		f, _ := new(big.Rat).SetFrac(x, y).Float64()
		return finite(f)
	}
	// Python rounds towards minus infinity; Euclid differs for negative divisors.
	m := new(big.Int)
	z.DivMod(x, y, m)
	if m.Sign() != 0 && y.Sign() < 0 {
		z.Sub(z, big.NewInt(1))
		m.Add(m, y)
	}
	if op == "//" {
		return fromBig(z)
	}
	return fromBig(m)
}

func intPower(x, y *big.Int) any {
	if y.Sign() < 0 {
		if x.Sign() == 0 {
			fail(ErrTemplate, "zero to a negative power")
		}
		return finite(math.Pow(bigFloat(x), bigFloat(y)))
	}
	if x.BitLen() > 1 && (!y.IsInt64() || y.Int64()*int64(x.BitLen()-1) > intBitsMax) {
		fail(ErrLimit, "an integer of more than %d bits", intBitsMax)
	}
	if x.BitLen() <= 1 && y.Sign() > 0 { // 0, 1 or -1, whatever the size of y
		y = big.NewInt(2 - int64(y.Bit(0)))
	}
	return fromBig(new(big.Int).Exp(x, y, nil))
}

func floatArithmetic(op string, x, y float64) any {
	switch op {
	case "+":
		return finite(x + y)
	case "-":
		return finite(x - y)
	case "*":
		return finite(x * y)
	case "**":
		if x < 0 && y != math.Trunc(y) {
			fail(ErrUnsupported, "a complex number")
		}
		if x == 0 && y < 0 {
			fail(ErrTemplate, "zero to a negative power")
		}
		return finite(math.Pow(x, y))
	}
	if y == 0 {
		fail(ErrTemplate, "division by zero")
	}
	if op == "/" {
		return finite(x / y)
	}
	mod := math.Mod(x, y)
	div := (x - mod) / y
	if mod == 0 {
		mod = math.Copysign(0, y)
	} else if (y < 0) != (mod < 0) {
		mod += y
		div--
	}
	if op == "%" {
		return finite(mod)
	}
	if div == 0 {
		return math.Copysign(0, x/y)
	}
	floor := math.Floor(div)
	if div-floor > 0.5 {
		floor++
	}
	return finite(floor)
}

// sequenceOp is + and * of strings, lists and tuples.
func (r *run) sequenceOp(op string, a, b any) any {
	if op == "*" {
		if n, ok := asInt(b); ok {
			return r.repeat(a, n)
		}
		if n, ok := asInt(a); ok {
			return r.repeat(b, n)
		}
	}
	if op != "+" {
		failOperand(op, a, b)
	}
	x, xString := asString(a)
	y, yString := asString(b)
	if xString && yString {
		return r.addStrings(a, b, x, y)
	}
	switch a := a.(type) {
	case *list:
		if b, ok := b.(*list); ok {
			return &list{r.addItems(a.items, b.items)}
		}
	case *tuple:
		if b, ok := b.(*tuple); ok {
			return &tuple{r.addItems(a.items, b.items)}
		}
	}
	failOperand(op, a, b)
	return nil
}

// addStrings concatenates; if one side is Markup, the other is escaped and the result is Markup.
func (r *run) addStrings(a, b any, x, y string) any {
	_, xMarkup := a.(markup)
	_, yMarkup := b.(markup)
	if xMarkup != yMarkup {
		if xMarkup {
			y = escapeHTML(y)
		} else {
			x = escapeHTML(x)
		}
	}
	r.sized(len(x) + len(y))
	if xMarkup || yMarkup {
		return markup(x + y)
	}
	return x + y
}

func (r *run) addItems(a, b []any) []any {
	r.charge(stepCost * (len(a) + len(b)))
	return append(append(make([]any, 0, len(a)+len(b)), a...), b...)
}

func (r *run) repeat(v any, n int64) any {
	n = max(n, 0)
	size := func(length, cost int) int {
		if length == 0 {
			n = 0
		}
		if length > 0 && n > int64(r.limits.output/length) {
			fail(ErrLimit, "repeating %d times", n)
		}
		r.charge(cost * length * int(n))
		return int(n)
	}
	if s, ok := asString(v); ok {
		return like(v, strings.Repeat(s, size(len(s), 1)))
	}
	repeated := func(items []any) []any {
		var out []any
		for range size(len(items), stepCost) {
			out = append(out, items...)
		}
		return out
	}
	switch x := v.(type) {
	case *list:
		return &list{repeated(x.items)}
	case *tuple:
		return &tuple{repeated(x.items)}
	}
	failOperand("*", v, n)
	return nil
}

// compareOp is one comparison of a chain.
func (r *run) compareOp(op string, a, b any) bool {
	switch op {
	case "==":
		return r.equal(a, b)
	case "!=":
		return !r.equal(a, b)
	case "in":
		return r.contains(b, a)
	case "notin":
		return !r.contains(b, a)
	}
	return r.ordered(op, a, b)
}

// equal is Python's ==.
func (r *run) equal(a, b any) bool {
	defer r.descend()()
	r.charge(stepCost)
	if x, ok := asString(a); ok {
		y, ok := asString(b)
		return ok && x == y
	}
	if _, _, _, ok := number(a); ok {
		_, _, _, ok := number(b)
		return ok && compareNumbers(a, b) == 0
	}
	switch x := a.(type) {
	case none:
		return b == any(none{})
	case *undefined:
		_, ok := b.(*undefined)
		return ok
	case *list:
		y, ok := b.(*list)
		return ok && r.equalItems(x.items, y.items)
	case *tuple:
		y, ok := b.(*tuple)
		return ok && r.equalItems(x.items, y.items)
	case *dict:
		y, ok := b.(*dict)
		return ok && r.equalDicts(x, y)
	case *rangeValue:
		y, ok := b.(*rangeValue)
		return ok && r.equalItems(r.collect(x), r.collect(y))
	case *dictView, *method, *builtin:
		fail(ErrUnsupported, "comparing a %s", typeName(a))
	}
	return a == b
}

func (r *run) equalItems(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !r.equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (r *run) equalDicts(a, b *dict) bool {
	if len(a.keys) != len(b.keys) {
		return false
	}
	for hash, i := range a.index {
		j, ok := b.index[hash]
		if !ok || !r.equal(a.vals[i], b.vals[j]) {
			return false
		}
	}
	return true
}

// compareNumbers orders two numbers exactly.
func compareNumbers(a, b any) int {
	an, af, aFloat, _ := number(a)
	bn, bf, bFloat, _ := number(b)
	if !aFloat && !bFloat {
		return an.Cmp(bn)
	}
	x, y := big.NewFloat(af), big.NewFloat(bf)
	if !aFloat {
		x = new(big.Float).SetInt(an)
	}
	if !bFloat {
		y = new(big.Float).SetInt(bn)
	}
	return x.Cmp(y)
}

// ordered is <, <=, > and >=.
func (r *run) ordered(op string, a, b any) bool {
	c := r.order(op, a, b)
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

// order compares two values that have an order, as cmp does; op is for the message.
func (r *run) order(op string, a, b any) int {
	defer r.descend()()
	r.charge(stepCost)
	_, _, _, aNum := number(a)
	_, _, _, bNum := number(b)
	if aNum && bNum {
		return compareNumbers(a, b)
	}
	x, xString := asString(a)
	y, yString := asString(b)
	if xString && yString {
		return strings.Compare(x, y) // byte order of UTF-8 is code point order
	}
	switch a := a.(type) {
	case *list:
		if b, ok := b.(*list); ok {
			return r.orderItems(op, a.items, b.items)
		}
	case *tuple:
		if b, ok := b.(*tuple); ok {
			return r.orderItems(op, a.items, b.items)
		}
	case *dictView:
		fail(ErrUnsupported, "comparing a dict view")
	}
	failOperand(op, a, b)
	return 0
}

func (r *run) orderItems(op string, a, b []any) int {
	for i := range min(len(a), len(b)) {
		if !r.equal(a[i], b[i]) {
			return r.order(op, a[i], b[i])
		}
	}
	return len(a) - len(b)
}

// contains is item in v.
func (r *run) contains(v, item any) bool {
	if s, ok := asString(v); ok {
		sub, ok := asString(item)
		if !ok {
			fail(ErrTemplate, "'in <string>' requires string, not %s", typeName(item))
		}
		r.charge(len(s))
		return strings.Contains(s, sub)
	}
	switch x := v.(type) {
	case *dict:
		return r.hasKey(x, item)
	case *dictView:
		if x.kind == "keys" {
			return r.hasKey(x.d, item)
		}
	case *loopContext:
		fail(ErrUnsupported, "the loop variable on the right of in")
	}
	next := r.iterate(v)
	for other, ok := next(); ok; other, ok = next() {
		if r.equal(other, item) {
			return true
		}
	}
	return false
}

func (r *run) hasKey(d *dict, key any) bool {
	hash, ok := r.hashKey(key)
	if !ok {
		fail(ErrTemplate, "unhashable type %s", typeName(key))
	}
	_, ok = d.index[hash]
	return ok
}
