package tokenizer

import (
	"bytes"
	"encoding/json"
	"sort"
	"strings"
	"unicode/utf8"
)

// options reads the fields of one component of tokenizer.json. The first error sticks. finish
// reports it, or a field that nobody has asked for and that is not null: an option that we do not
// know may change the result.
type options struct {
	what   string // for errors, such as "normalizer Replace"
	fields map[string]json.RawMessage
	err    error
}

// parseComponent reads an object with a "type" field. A missing or null one returns nil.
func parseComponent(what string, raw json.RawMessage) (kind string, o *options, err error) {
	if isNull(raw) {
		return "", nil, nil
	}
	o = &options{what: what}
	if err := json.Unmarshal(raw, &o.fields); err != nil {
		return "", nil, formatError("%s: %v", what, err)
	}
	kind = o.str("type")
	o.what = what + " " + kind
	return kind, o, o.err
}

func isNull(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}

func (o *options) fail(err error) {
	if o.err == nil && err != nil {
		o.err = err
	}
}

// get decodes a field into v and reports whether it was there.
func (o *options) get(key string, v any) bool {
	raw, ok := o.fields[key]
	delete(o.fields, key)
	if !ok || isNull(raw) {
		return false
	}
	if err := json.Unmarshal(raw, v); err != nil {
		o.fail(formatError("%s, %s: %v", o.what, key, err))
		return false
	}
	return true
}

func (o *options) need(key string, v any) {
	if !o.get(key, v) {
		o.fail(formatError("%s has no %s", o.what, key))
	}
}

func (o *options) str(key string) (s string) {
	o.need(key, &s)
	return s
}

// char reads a field that is one character.
func (o *options) char(key string) string {
	s := o.str(key)
	if o.err == nil && utf8.RuneCountInString(s) != 1 {
		o.fail(formatError("%s: %s %q is not one character", o.what, key, s))
	}
	return s
}

// flag reads a boolean; a missing one has the value def.
func (o *options) flag(key string, def bool) bool {
	v := def
	o.get(key, &v)
	return v
}

// ignore drops a field that has no bearing on ids and text.
func (o *options) ignore(keys ...string) {
	for _, k := range keys {
		delete(o.fields, k)
	}
}

// pattern reads {"String": s} or {"Regex": s}.
func (o *options) pattern(key string) matcher {
	var p map[string]string
	o.need(key, &p)
	if o.err != nil {
		return nil
	}
	if s, ok := p["String"]; ok && len(p) == 1 {
		if s == "" {
			o.fail(unsupported("%s: empty %s", o.what, key))
		}
		return stringMatcher(s)
	}
	s, ok := p["Regex"]
	if !ok || len(p) != 1 {
		o.fail(unsupported("%s: %s is neither String nor Regex", o.what, key))
		return nil
	}
	m, err := newMatcher(s)
	o.fail(err)
	return m
}

func (o *options) finish() error {
	if o.err != nil {
		return o.err
	}
	var left []string
	for k, raw := range o.fields {
		if !isNull(raw) {
			left = append(left, k)
		}
	}
	if len(left) > 0 {
		sort.Strings(left)
		return unsupported("%s, option %s", o.what, strings.Join(left, ", "))
	}
	return nil
}

// sequenceDepthMax bounds Sequence inside Sequence.
const sequenceDepthMax = 4

// sequence calls each for the parts of a Sequence component.
func (o *options) sequence(key string, depth int, each func(json.RawMessage) error) error {
	if depth >= sequenceDepthMax {
		return unsupported("%s nested %d deep", o.what, depth)
	}
	var parts []json.RawMessage
	o.need(key, &parts)
	for _, p := range parts {
		if o.err == nil {
			o.fail(each(p))
		}
	}
	return o.finish()
}
