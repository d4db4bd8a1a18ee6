package chat

import (
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// filterFunc gets the operand as first argument.
type filterFunc func(*run, callArgs) any

// findFilter returns a filter by name, nil if the package does not have it.
func findFilter(name string) filterFunc {
	switch name {
	case "abs":
		return filterAbs
	case "batch":
		return filterBatch
	case "count", "length":
		return filterLength
	case "d", "default":
		return filterDefault
	case "dictsort":
		return filterDictSort
	case "e", "escape":
		return filterEscape
	case "first":
		return filterFirst
	case "float":
		return filterFloat
	case "forceescape":
		return filterForceEscape
	case "format":
		return filterFormat
	case "indent":
		return filterIndent
	case "int":
		return filterInt
	case "items":
		return filterItems
	case "join":
		return filterJoin
	case "last":
		return filterLast
	case "list":
		return filterList
	case "map":
		return filterMap
	case "max", "min":
		return func(r *run, a callArgs) any { return filterMinMax(r, a, name) }
	case "replace":
		return filterReplace
	case "reverse":
		return filterReverse
	case "round":
		return filterRound
	case "select", "reject", "selectattr", "rejectattr":
		return func(r *run, a callArgs) any { return filterSelect(r, a, name) }
	case "slice":
		return filterSlice
	case "sort":
		return filterSort
	case "sum":
		return filterSum
	case "tojson":
		return func(r *run, a callArgs) any {
			return r.toJSON(a.pos[0], callArgs{a.pos[1:], a.kw})
		}
	case "unique":
		return filterUnique
	}
	return findTextFilter(name)
}

// findTextFilter returns the filters that turn their operand into text first.
func findTextFilter(name string) filterFunc {
	switch name {
	case "capitalize", "lower", "upper", "title", "string", "safe", "trim", "center":
		return func(r *run, a callArgs) any { return filterText(r, a, name) }
	}
	return nil
}

// filtersMissing are the filters the reference has and this package does not: they need random
// numbers, a text width, or HTML, which chat templates have no use for.
func filtersMissing() []string {
	return []string{"attr", "filesizeformat", "groupby", "pprint", "random", "striptags", "truncate",
		"urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"}
}

// softStr is markupsafe.soft_str: text as it is, everything else through str().
func (r *run) softStr(v any) any {
	if _, ok := asString(v); ok {
		return v
	}
	return r.str(v)
}

func filterText(r *run, a callArgs, name string) any {
	v := r.softStr(a.pos[0])
	s, _ := asString(v)
	r.charge(len(s))
	switch name {
	case "trim":
		return like(v, strip("strip", s, bind(name, a, 1, "value", "chars")[1]))
	case "center":
		width := bind(name, a, 1, "value", "width")[1]
		if width == nil {
			width = int64(80)
		}
		return like(v, r.justify(s, "center", callArgs{pos: []any{width}}).(string))
	}
	bind(name, a, 1, "s")
	switch name {
	case "string":
		return v
	case "safe":
		return markup(s)
	case "title":
		return filterTitle(s) // the reference joins words to a plain str
	}
	out, _ := caseMethod(s, name)
	return like(v, out)
}

// filterTitle starts a word after each run of white space and opening brackets.
func filterTitle(s string) string {
	var b strings.Builder
	inWord := false
	for _, c := range s {
		switch {
		case isSpace(c) || strings.ContainsRune("-({[<", c):
			inWord = false
			b.WriteRune(c)
		case inWord:
			b.WriteString(lower(string(c)))
		default:
			inWord = true
			b.WriteString(upper(string(c)))
		}
	}
	return b.String()
}

func filterAbs(r *run, a callArgs) any {
	n, f, isFloat, ok := number(bind("abs", a, 1, "value")[0])
	if !ok {
		failOperand("abs", a.pos[0])
	}
	if isFloat {
		return math.Abs(f)
	}
	return fromBig(new(big.Int).Abs(n))
}

func filterLength(r *run, a callArgs) any {
	v := bind("length", a, 1, "value")[0]
	n, ok := length(v)
	if !ok {
		fail(ErrTemplate, "%s has no length", typeName(v))
	}
	return int64(n)
}

func filterDefault(r *run, a callArgs) any {
	args := bind("default", a, 1, "value", "default_value", "boolean")
	_, isUndefined := args[0].(*undefined)
	if isUndefined || args[2] != nil && r.truth(args[2]) && !r.truth(args[0]) {
		if args[1] == nil {
			return ""
		}
		return args[1]
	}
	return args[0]
}

func filterEscape(r *run, a callArgs) any {
	v := bind("escape", a, 1, "s")[0]
	if m, ok := v.(markup); ok {
		return m
	}
	return r.escaped(v)
}

func filterForceEscape(r *run, a callArgs) any {
	return r.escaped(bind("forceescape", a, 1, "value")[0])
}

func (r *run) escaped(v any) any {
	s := escapeHTML(r.str(v))
	r.sized(len(s))
	return markup(s)
}

func filterFormat(r *run, a callArgs) any {
	if len(a.kw) > 0 {
		fail(ErrUnsupported, "the filter format with names")
	}
	v := r.softStr(a.pos[0])
	s, _ := asString(v)
	return like(v, r.percentFormat(v, s, &tuple{a.pos[1:]}))
}

func filterIndent(r *run, a callArgs) any {
	args := bind("indent", a, 1, "s", "width", "first", "blank")
	width := strings.Repeat(" ", 4)
	if s, ok := asString(args[1]); ok {
		width = s
	} else if args[1] != nil {
		n := needInt("indent width", args[1])
		r.sized(clampInt(max(n, 0)))
		width = strings.Repeat(" ", int(max(n, 0)))
	}
	s, ok := args[0].(string)
	if _, isMarkup := args[0].(markup); isMarkup {
		fail(ErrUnsupported, "indent of safe text")
	}
	if !ok {
		failOperand("indent", args[0])
	}
	lines := splitLines(s+"\n", false)
	blank := args[3] != nil && r.truth(args[3])
	r.sized(len(s) + len(lines)*(1+len(width)))
	var b strings.Builder
	if args[2] != nil && r.truth(args[2]) {
		b.WriteString(width)
	}
	for i, line := range lines {
		if i > 0 {
			b.WriteByte('\n')
			if blank || line != "" {
				b.WriteString(width)
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

func filterReplace(r *run, a callArgs) any {
	args := bind("replace", a, 3, "s", "old", "new", "count")
	limit := int64(-1)
	if args[3] != nil && args[3] != any(none{}) {
		limit = needInt("count", args[3])
	}
	return r.replace(r.str(args[0]), r.str(args[1]), r.str(args[2]), limit)
}

func filterFloat(r *run, a callArgs) any {
	args := bind("float", a, 1, "value", "default")
	if f, ok := r.toFloat(args[0]); ok {
		return f
	}
	if args[1] == nil {
		return 0.0
	}
	return args[1]
}

// toFloat is float(v); ok is false where that raises TypeError or ValueError.
func (r *run) toFloat(v any) (float64, bool) {
	if u, ok := v.(*undefined); ok {
		fail(ErrTemplate, "%s", u.message)
	}
	if n, f, isFloat, ok := number(v); ok {
		if !isFloat {
			f = bigFloat(n)
		}
		return f, true
	}
	s, ok := asString(v)
	if !ok {
		return 0, false
	}
	s = strings.TrimFunc(s, isSpace)
	bare := strings.ToLower(strings.TrimLeft(s, "+-"))
	if !isASCII(s) || bare == "nan" || bare == "inf" || bare == "infinity" {
		fail(ErrUnsupported, "the number %q", s)
	}
	unsigned := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	if !validNumber(unsigned, true) {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	if err != nil {
		if math.IsInf(f, 0) {
			fail(ErrUnsupported, "the number %q", s)
		}
		return 0, false
	}
	return f, true
}

// validNumber: only the characters of a decimal number, underscores between digits.
func validNumber(s string, isFloat bool) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case isDigit(c):
		case c == '_':
			if i == 0 || i+1 == len(s) || !isDigit(s[i-1]) || !isDigit(s[i+1]) {
				return false
			}
		case !isFloat || !strings.ContainsRune(".eE+-", rune(c)):
			return false
		}
	}
	return s != ""
}

func filterInt(r *run, a callArgs) any {
	args := bind("int", a, 1, "value", "default", "base")
	if args[2] != nil && args[2] != any(int64(10)) {
		fail(ErrUnsupported, "the filter int with a base other than 10")
	}
	if s, ok := asString(args[0]); ok {
		s = strings.TrimFunc(s, isSpace)
		unsigned := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
		if len(s)-len(unsigned) <= 1 && validNumber(unsigned, false) {
			if len(s) > intBitsMax/4 {
				fail(ErrLimit, "an integer of %d digits", len(s))
			}
			n, _ := new(big.Int).SetString(strings.ReplaceAll(s, "_", ""), 10)
			return fromBig(n)
		}
	}
	if n, f, isFloat, ok := number(args[0]); ok && !isFloat {
		return fromBig(n)
	} else if ok {
		return truncated(f)
	}
	if f, ok := r.toFloat(args[0]); ok {
		return truncated(f)
	}
	if args[1] == nil {
		return int64(0)
	}
	return args[1]
}

func truncated(f float64) any {
	n, _ := big.NewFloat(f).Int(nil)
	return fromBig(n)
}

func filterRound(r *run, a callArgs) any {
	args := bind("round", a, 1, "value", "precision", "method")
	precision := int64(0)
	if args[1] != nil {
		precision = needInt("precision", args[1])
	}
	mode := "common"
	if args[2] != nil {
		mode = r.str(args[2])
	}
	if !slices.Contains([]string{"common", "ceil", "floor"}, mode) {
		fail(ErrTemplate, "round method must be common, ceil or floor")
	}
	n, f, isFloat, ok := number(args[0])
	if !ok {
		failOperand("round", args[0])
	}
	if precision < 0 || precision > 300 {
		fail(ErrUnsupported, "rounding to %d digits", precision)
	}
	if mode == "common" {
		if !isFloat {
			return fromBig(n)
		}
		f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(precision), 64), 64)
		return f
	}
	scale := intPower(big.NewInt(10), big.NewInt(precision))
	scaled := r.binary("*", args[0], scale)
	if f, ok := scaled.(float64); ok {
		f = math.Floor(f)
		if mode == "ceil" {
			f = math.Ceil(scaled.(float64))
		}
		scaled = truncated(f)
	}
	return r.binary("/", scaled, scale)
}
