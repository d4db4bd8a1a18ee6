package chat

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// stringMethod calls a method of str or Markup.
func (r *run) stringMethod(self any, name string, a callArgs) any {
	s, _ := asString(self)
	r.charge(len(s))
	_, isMarkup := self.(markup)
	if isMarkup && !listed(safeTextMethods, name) {
		fail(ErrUnsupported, "the method %q of safe text", name)
	}
	switch name {
	case "strip", "lstrip", "rstrip":
		chars := positional(name, a, 0, "chars")[0]
		return like(self, strip(name, s, chars))
	case "split", "rsplit":
		return r.splitMethod(self, s, name, a)
	case "splitlines":
		return r.splitLines(self, s, a)
	case "join":
		return r.joinMethod(s, positional(name, a, 1, "iterable")[0])
	case "replace":
		return r.replaceMethod(s, a)
	case "format":
		return r.braceFormat(s, a)
	case "startswith", "endswith":
		return startsOrEnds(s, name, positional(name, a, 1, "prefix", "start", "end"))
	case "find", "rfind", "index", "rindex", "count":
		return search(s, name, positional(name, a, 1, "sub", "start", "end"))
	case "removeprefix":
		return strings.TrimPrefix(s, needString(name, positional(name, a, 1, "prefix")[0]))
	case "removesuffix":
		return strings.TrimSuffix(s, needString(name, positional(name, a, 1, "suffix")[0]))
	case "partition", "rpartition":
		return partition(s, name, needString(name, positional(name, a, 1, "sep")[0]))
	case "ljust", "rjust", "center", "zfill":
		return r.justify(s, name, a)
	}
	bind(name, a, 0)
	if v, ok := caseMethod(s, name); ok {
		return like(self, v)
	}
	if v, ok := predicate(s, name); ok {
		return v
	}
	fail(ErrUnsupported, "the method %q of str", name)
	return nil
}

// safeTextMethods are the methods that Markup does not change or only wraps.
const safeTextMethods = " strip lstrip rstrip split rsplit splitlines startswith endswith find " +
	"rfind index rindex count capitalize lower upper title isalnum isalpha isdigit islower " +
	"isspace isupper isascii "

// positional is bind for methods that take no keyword arguments.
func positional(name string, a callArgs, required int, params ...string) []any {
	if len(a.kw) > 0 {
		fail(ErrTemplate, "%s takes no keyword arguments", name)
	}
	return bind(name, a, required, params...)
}

func strip(side, s string, chars any) string {
	drop := isSpace
	if chars != nil && chars != any(none{}) {
		set := needString("strip argument", chars)
		drop = func(c rune) bool { return strings.ContainsRune(set, c) }
	}
	if side != "rstrip" {
		s = strings.TrimLeftFunc(s, drop)
	}
	if side != "lstrip" {
		s = strings.TrimRightFunc(s, drop)
	}
	return s
}

func (r *run) splitMethod(self any, s, name string, a callArgs) any {
	args := bind(name, a, 0, "sep", "maxsplit")
	limit := int64(-1)
	if args[1] != nil {
		limit = needInt("maxsplit", args[1])
	}
	if limit < 0 {
		limit = int64(len(s)) + 1
	}
	n := clampInt(limit)
	var parts []string
	switch {
	case args[0] == nil || args[0] == any(none{}):
		parts = splitSpace(s, n, name == "rsplit")
	default:
		sep := needString("separator", args[0])
		if sep == "" {
			fail(ErrTemplate, "empty separator")
		}
		if name == "split" {
			parts = strings.SplitN(s, sep, n+1)
		} else {
			parts = rsplit(s, sep, n)
		}
	}
	return r.stringList(self, parts)
}

func (r *run) stringList(self any, parts []string) *list {
	r.charge(stepCost * len(parts))
	l := &list{make([]any, len(parts))}
	for i, p := range parts {
		l.items[i] = like(self, p)
	}
	return l
}

func rsplit(s, sep string, n int) []string {
	all := strings.Split(s, sep)
	if extra := len(all) - 1 - n; extra > 0 {
		head := strings.Join(all[:extra+1], sep)
		return append([]string{head}, all[extra+1:]...)
	}
	return all
}

// splitSpace splits at runs of white space, at most n times from the left or from the right.
func splitSpace(s string, n int, fromRight bool) []string {
	if !fromRight {
		var parts []string
		for s = strings.TrimLeftFunc(s, isSpace); s != ""; s = strings.TrimLeftFunc(s, isSpace) {
			i := strings.IndexFunc(s, isSpace)
			if len(parts) == n || i < 0 {
				return append(parts, s)
			}
			parts = append(parts, s[:i])
			s = s[i:]
		}
		return parts
	}
	var reversed []string
	for s = strings.TrimRightFunc(s, isSpace); s != ""; s = strings.TrimRightFunc(s, isSpace) {
		i := strings.LastIndexFunc(s, isSpace)
		if len(reversed) == n || i < 0 {
			reversed = append(reversed, s)
			break
		}
		i += firstRuneLen(s[i:])
		reversed = append(reversed, s[i:])
		s = s[:i]
	}
	for i, j := 0, len(reversed)-1; i < j; i, j = i+1, j-1 {
		reversed[i], reversed[j] = reversed[j], reversed[i]
	}
	return reversed
}

func (r *run) splitLines(self any, s string, a callArgs) any {
	keep := bind("splitlines", a, 0, "keepends")[0]
	return r.stringList(self, splitLines(s, keep != nil && r.truth(keep)))
}

// splitLines is str.splitlines.
func splitLines(s string, keepEnds bool) []string {
	var lines []string
	for s != "" {
		i := strings.IndexFunc(s, isLineEnd)
		if i < 0 {
			return append(lines, s)
		}
		end := i + firstRuneLen(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			end = i + 2
		}
		if keepEnds {
			i = end
		}
		lines = append(lines, s[:i])
		s = s[end:]
	}
	return lines
}

func (r *run) joinMethod(sep string, v any) any {
	var parts []string
	size := 0
	next := r.iterate(v)
	for item, ok := next(); ok; item, ok = next() {
		if _, isMarkup := item.(markup); isMarkup {
			fail(ErrUnsupported, "join of safe text")
		}
		s, ok := item.(string)
		if !ok {
			fail(ErrTemplate, "join: expected a string, got %s", typeName(item))
		}
		size += len(s) + len(sep)
		r.sized(size)
		r.work -= size - len(s) - len(sep)
		parts = append(parts, s)
	}
	return strings.Join(parts, sep)
}

func (r *run) replaceMethod(s string, a callArgs) any {
	args := positional("replace", a, 2, "old", "new", "count")
	limit := int64(-1)
	if args[2] != nil {
		limit = needInt("count", args[2])
	}
	return r.replace(s, needString("old", args[0]), needString("new", args[1]), limit)
}

// replace is str.replace.
func (r *run) replace(s, old, new string, limit int64) string {
	n := strings.Count(s, old)
	if limit >= 0 {
		n = min(n, clampInt(limit))
	}
	if len(new) > len(old) && n > r.limits.output/len(new) {
		fail(ErrLimit, "a string of more than %d bytes", r.limits.output)
	}
	r.sized(len(s) + n*(len(new)-len(old)))
	return strings.Replace(s, old, new, n)
}

// window cuts s to the start and end arguments of find and its kin; offset is in characters.
func window(s string, start, end any) (part string, offset int, ok bool) {
	given := func(v any) any {
		if v == nil {
			return none{}
		}
		return v
	}
	if given(start) == any(none{}) && given(end) == any(none{}) {
		return s, 0, true
	}
	runes := []rune(s)
	if v, isInt := asInt(given(start)); isInt && v > int64(len(runes)) {
		return "", 0, false
	}
	lo, hi, _ := sliceBounds([3]any{given(start), given(end), none{}}, len(runes))
	if lo > hi {
		return "", 0, false
	}
	return string(runes[lo:hi]), lo, true
}

func startsOrEnds(s, name string, args []any) bool {
	part, _, ok := window(s, args[1], args[2])
	has := strings.HasPrefix
	if name == "endswith" {
		has = strings.HasSuffix
	}
	options := []any{args[0]}
	if t, isTuple := args[0].(*tuple); isTuple {
		options = t.items
	}
	for _, o := range options {
		if fix := needString(name+" argument", o); ok && has(part, fix) {
			return true
		}
	}
	return false
}

func search(s, name string, args []any) any {
	sub := needString(name+" argument", args[0])
	part, offset, ok := window(s, args[1], args[2])
	if name == "count" {
		if !ok {
			return int64(0)
		}
		return int64(strings.Count(part, sub))
	}
	i := strings.Index(part, sub)
	if strings.HasPrefix(name, "r") {
		i = strings.LastIndex(part, sub)
	}
	if !ok || i < 0 {
		if strings.HasSuffix(name, "index") {
			fail(ErrTemplate, "substring not found")
		}
		return int64(-1)
	}
	return int64(offset + runeCount(part[:i]))
}

func partition(s, name, sep string) any {
	if sep == "" {
		fail(ErrTemplate, "empty separator")
	}
	i, parts := strings.Index(s, sep), []any{s, "", ""}
	if name == "rpartition" {
		i, parts = strings.LastIndex(s, sep), []any{"", "", s}
	}
	if i >= 0 {
		parts = []any{s[:i], sep, s[i+len(sep):]}
	}
	return &tuple{parts}
}

func (r *run) justify(s, name string, a callArgs) any {
	args := positional(name, a, 1, "width", "fill")
	width := needInt("width", args[0])
	if width > int64(r.limits.output) {
		fail(ErrLimit, "width of %d", width)
	}
	fill := " "
	if args[1] != nil {
		fill = needString("fill", args[1])
	}
	if runeCount(fill) != 1 || name == "zfill" && args[1] != nil {
		fail(ErrTemplate, "the fill character must be one character")
	}
	pad := int(width) - runeCount(s)
	if pad <= 0 {
		return s
	}
	r.sized(len(s) + pad*len(fill))
	left := 0
	switch name {
	case "rjust":
		left = pad
	case "center":
		left = pad/2 + pad&int(width)&1
	case "zfill":
		sign := len(s) > 0 && (s[0] == '+' || s[0] == '-')
		if sign {
			return s[:1] + strings.Repeat("0", pad) + s[1:]
		}
		return strings.Repeat("0", pad) + s
	}
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, pad-left)
}

// caseMethod changes letter case.
func caseMethod(s, name string) (string, bool) {
	switch name {
	case "upper":
		return upper(s), true
	case "lower":
		return lower(s), true
	case "capitalize":
		if s == "" {
			return s, true
		}
		n := firstRuneLen(s)
		return titleChar(s[:n]) + lower(s[n:]), true
	case "title":
		return titleCase(s), true
	}
	return "", false
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func upper(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Upper(language.Und).String(s)
}

// lower refuses the capital sigma, whose lower case depends on the letters around it.
func lower(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	if strings.ContainsRune(s, 'Σ') {
		fail(ErrUnsupported, "lower case of the letter Σ")
	}
	return cases.Lower(language.Und, cases.HandleFinalSigma(false)).String(s)
}

func titleChar(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Title(language.Und, cases.NoLower).String(s)
}

// titleCase is str.title: a letter after a cased letter is lower case, others title case.
func titleCase(s string) string {
	var b strings.Builder
	afterCased := false
	for _, c := range s {
		if afterCased {
			b.WriteString(lower(string(c)))
		} else {
			b.WriteString(titleChar(string(c)))
		}
		afterCased = isCased(c)
	}
	return b.String()
}

func isCased(c rune) bool {
	return unicode.In(c, unicode.Lu, unicode.Ll, unicode.Lt, unicode.Other_Lowercase,
		unicode.Other_Uppercase)
}

// predicate is the is… methods.
func predicate(s, name string) (result, ok bool) {
	all := func(test func(rune) bool) bool {
		for _, c := range s {
			if !test(c) {
				return false
			}
		}
		return s != ""
	}
	switch name {
	case "isspace":
		return all(isSpace), true
	case "isascii":
		return isASCII(s), true
	case "isalpha":
		return all(unicode.IsLetter), true
	case "isdigit", "isnumeric", "isdecimal":
		return all(func(c rune) bool { return asciiOnly(c, name) && c >= '0' && c <= '9' }), true
	case "isalnum":
		return all(func(c rune) bool {
			return unicode.IsLetter(c) || asciiOnly(c, name) && c >= '0' && c <= '9'
		}), true
	case "isupper":
		return casedAs(s, unicode.Lu, unicode.Other_Uppercase), true
	case "islower":
		return casedAs(s, unicode.Ll, unicode.Other_Lowercase), true
	}
	return false, false
}

func asciiOnly(c rune, name string) bool {
	if c >= 0x80 {
		fail(ErrUnsupported, "%s of characters outside ASCII", name)
	}
	return true
}

// casedAs: there is a cased character, and all of them are of the tables.
func casedAs(s string, tables ...*unicode.RangeTable) bool {
	seen := false
	for _, c := range s {
		if isCased(c) {
			if !unicode.In(c, tables...) {
				return false
			}
			seen = true
		}
	}
	return seen
}
