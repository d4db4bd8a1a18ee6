package chat

import (
	"fmt"
	"strings"
	"time"
)

// findGlobal returns a global function by name, nil if there is none.
func findGlobal(name string) *builtin {
	switch name {
	case "range":
		return &builtin{name, globalRange}
	case "dict":
		return &builtin{name, func(r *run, a callArgs) any { return r.newDict(a) }}
	case "namespace":
		return &builtin{name, globalNamespace}
	case "cycler":
		return &builtin{name, globalCycler}
	case "joiner":
		return &builtin{name, globalJoiner}
	case "raise_exception":
		return &builtin{name, globalRaise}
	case "strftime_now":
		return &builtin{name, globalStrftime}
	}
	return nil
}

func globalRange(_ *run, a callArgs) any {
	args := positional("range", a, 1, "start", "stop", "step")
	var n [3]int64
	for i, v := range args {
		if v != nil {
			n[i] = int64(clampInt(needInt("range argument", v)))
		}
	}
	g := &rangeValue{n[0], n[1], n[2]}
	if args[1] == nil {
		g.start, g.stop = 0, n[0]
	}
	if args[2] == nil {
		g.step = 1
	}
	if g.step == 0 {
		fail(ErrTemplate, "range step must not be zero")
	}
	if g.len() > rangeMax {
		fail(ErrTemplate, "range of more than %d items", rangeMax)
	}
	return g
}

// newDict is dict(mapping or pairs, name=value…).
func (r *run) newDict(a callArgs) *dict {
	if len(a.pos) > 1 {
		fail(ErrTemplate, "dict expected at most 1 argument, got %d", len(a.pos))
	}
	d := newDict()
	for _, arg := range a.pos {
		if src, ok := arg.(*dict); ok {
			for i, key := range src.keys {
				r.store(d, key, src.vals[i])
			}
			continue
		}
		for _, item := range r.collect(arg) {
			pair := r.unpack(item, 2)
			r.store(d, pair[0], pair[1])
		}
	}
	for _, k := range a.kw {
		d.setString(k.name, k.val)
	}
	return d
}

func globalNamespace(r *run, a callArgs) any {
	ns := &namespace{r.newDict(a)}
	for _, key := range ns.attrs.keys {
		if name, ok := asString(key); ok {
			checkAttrName(name)
		}
	}
	return ns
}

func globalCycler(_ *run, a callArgs) any {
	if len(a.pos) == 0 || len(a.kw) > 0 {
		fail(ErrTemplate, "cycler needs at least one item")
	}
	return &cycler{items: a.pos}
}

func globalJoiner(_ *run, a callArgs) any {
	sep := bind("joiner", a, 0, "sep")[0]
	if sep == nil {
		sep = ", "
	}
	return &joiner{sep: sep}
}

func globalRaise(r *run, a callArgs) any {
	fail(ErrTemplate, "%s", r.str(bind("raise_exception", a, 1, "message")[0]))
	return nil
}

func globalStrftime(r *run, a callArgs) any {
	format := needString("format", bind("strftime_now", a, 1, "format")[0])
	if r.now == nil {
		fail(ErrUnsupported, "strftime_now without a clock")
	}
	return strftime(r.now(), format)
}

// strftime formats as C does in the C locale.
func strftime(t time.Time, format string) string {
	var b strings.Builder
	for {
		text, rest, ok := strings.Cut(format, "%")
		b.WriteString(text)
		if !ok {
			return b.String()
		}
		if rest == "" {
			fail(ErrUnsupported, "a time format that ends in %%")
		}
		n := 1
		if rest[0] == '-' && len(rest) > 1 {
			n = 2
		}
		b.WriteString(timeField(t, rest[:n]))
		format = rest[n:]
	}
}

func timeField(t time.Time, field string) string {
	hour12 := (t.Hour()+11)%12 + 1
	number := func(n, width int) string {
		if field[0] == '-' {
			width = 0
		}
		return fmt.Sprintf("%0*d", width, n)
	}
	switch field[len(field)-1] {
	case 'd':
		return number(t.Day(), 2)
	case 'm':
		return number(int(t.Month()), 2)
	case 'H':
		return number(t.Hour(), 2)
	case 'I':
		return number(hour12, 2)
	case 'M':
		return number(t.Minute(), 2)
	case 'S':
		return number(t.Second(), 2)
	case 'j':
		return number(t.YearDay(), 3)
	case 'y':
		return number(t.Year()%100, 2)
	}
	layouts := map[string]string{"Y": "2006", "B": "January", "b": "Jan", "h": "Jan", "A": "Monday",
		"a": "Mon", "p": "PM", "F": "2006-01-02", "T": "15:04:05", "R": "15:04", "D": "01/02/06"}
	if layout, ok := layouts[field]; ok {
		return t.Format(layout)
	}
	switch field {
	case "%":
		return "%"
	case "n":
		return "\n"
	case "t":
		return "\t"
	case "e":
		return fmt.Sprintf("%2d", t.Day())
	}
	fail(ErrUnsupported, "the time format %%%s", field)
	return ""
}
