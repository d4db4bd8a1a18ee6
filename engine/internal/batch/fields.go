package batch

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
)

// fields reads the members of one JSON object. The first error sticks; rest reports members that
// nobody asked for. null counts as absent, as OpenAI's clients send it.
type fields struct {
	path string // what comes before a name in messages
	raw  map[string]json.RawMessage
	seen map[string]bool // members that were there
	err  *Error
}

func (f *fields) fail(code, name, format string, args ...any) {
	if f.err == nil {
		f.err = Refuse(code, f.path+name, format, args...)
	}
}

// take returns a member and counts it as known.
func (f *fields) take(name string) (json.RawMessage, bool) {
	raw, ok := f.raw[name]
	if !ok {
		return nil, false
	}
	delete(f.raw, name)
	if string(bytes.TrimSpace(raw)) == "null" {
		return nil, false
	}
	if f.seen == nil {
		f.seen = map[string]bool{}
	}
	f.seen[name] = true
	return raw, true
}

// has reports whether a member that was taken was there.
func (f *fields) has(name string) bool { return f.seen[name] }

// text reads an optional string.
func (f *fields) text(name string) (s string) {
	if raw, ok := f.take(name); ok && json.Unmarshal(raw, &s) != nil {
		f.fail(CodeType, name, "%s must be a string", name)
	}
	return s
}

// need reads a string that must be there.
func (f *fields) need(name string) string {
	s := f.text(name)
	if !f.has(name) {
		f.fail(CodeMissing, name, "%s is missing", name)
	}
	return s
}

// object reads an object that must be there.
func (f *fields) object(name string) (m map[string]json.RawMessage) {
	raw, ok := f.take(name)
	switch {
	case !ok:
		f.fail(CodeMissing, name, "%s is missing", name)
	case json.Unmarshal(raw, &m) != nil || m == nil:
		f.fail(CodeType, name, "%s must be an object", name)
	}
	return m
}

func (f *fields) flag(name string) (v bool) {
	if raw, ok := f.take(name); ok && json.Unmarshal(raw, &v) != nil {
		f.fail(CodeType, name, "%s must be true or false", name)
	}
	return v
}

// integer reads an optional whole number from low to high.
func (f *fields) integer(name string, low, high int64) (n int64, stated bool) {
	raw, ok := f.take(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
	switch {
	case err != nil && !isNumber(raw):
		f.fail(CodeType, name, "%s must be a whole number", name)
	case err != nil || n < low || n > high:
		f.fail(CodeValue, name, "%s is %s, no whole number from %d to %d", name,
			shorten(raw), low, high)
	}
	return n, true
}

// number reads an optional number from low to high.
func (f *fields) number(name string, low, high float64) (v float64, stated bool) {
	raw, ok := f.take(name)
	if !ok {
		return 0, false
	}
	err := json.Unmarshal(raw, &v)
	switch {
	case err != nil && !isNumber(raw):
		f.fail(CodeType, name, "%s must be a number", name)
	case err != nil || math.IsNaN(v) || v < low || v > high:
		f.fail(CodeValue, name, "%s is %s, outside %v to %v", name, shorten(raw), low, high)
	}
	return v, true
}

func isNumber(raw json.RawMessage) bool {
	b := bytes.TrimSpace(raw)
	return len(b) > 0 && (b[0] == '-' || b[0] >= '0' && b[0] <= '9')
}

func shorten(raw json.RawMessage) string {
	if len(raw) > errorQuoteBytes {
		return string(raw[:errorQuoteBytes]) + "…"
	}
	return string(raw)
}

// stops reads a string or an array of strings.
func (f *fields) stops(name string) (list []string) {
	raw, ok := f.take(name)
	if !ok {
		return nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		list = []string{one}
	} else if json.Unmarshal(raw, &list) != nil {
		f.fail(CodeType, name, "%s must be a string or an array of strings", name)
		return nil
	}
	if len(list) > stopsMax {
		f.fail(CodeValue, name, "%s has %d strings, more than %d", name, len(list), stopsMax)
	}
	for _, s := range list {
		if s == "" || len(s) > stopBytesMax {
			f.fail(CodeValue, name, "a string of %s has %d bytes, outside 1 to %d", name, len(s),
				stopBytesMax)
		}
	}
	return list
}

// inputs reads a string, an array of token ids, an array of strings or an array of arrays of token
// ids: at least one and at most so many texts.
func (f *fields) inputs(name string, most int) []Text {
	raw, ok := f.take(name)
	if !ok {
		f.fail(CodeMissing, name, "%s is missing", name)
		return nil
	}
	var one string
	var ids []int32
	var texts []string
	var lists [][]int32
	var out []Text
	switch {
	case json.Unmarshal(raw, &one) == nil:
		out = []Text{{Text: one}}
	case json.Unmarshal(raw, &ids) == nil:
		if len(ids) > 0 {
			out = []Text{{Tokens: ids}}
		}
	case json.Unmarshal(raw, &texts) == nil:
		for _, t := range texts {
			out = append(out, Text{Text: t})
		}
	case json.Unmarshal(raw, &lists) == nil:
		for _, l := range lists {
			out = append(out, Text{Tokens: l})
		}
	default:
		f.fail(CodeType, name, "%s must be a string, an array of token ids, or an array of these", name)
		return nil
	}
	if len(out) == 0 || len(out) > most {
		f.fail(CodeValue, name, "%s has %d texts, outside 1 to %d", name, len(out), most)
		return nil
	}
	for _, t := range out {
		if t.Text == "" && len(t.Tokens) == 0 {
			f.fail(CodeValue, name, "%s has an empty text", name)
		}
	}
	return out
}

// neutral takes members that are known and not supported: they are refused unless they say what
// holds anyway. The first in order of their names is reported.
func (f *fields) neutral(known map[string]func(json.RawMessage) bool) {
	var names []string
	for name := range f.raw {
		if _, ok := known[name]; ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if raw, ok := f.take(name); ok && !known[name](raw) {
			f.fail(CodeUnsupported, name, "%s is not supported with the value %s; leave it out", name,
				shorten(raw))
		}
	}
}

// rest reports a member that nobody took, the first in order of names.
func (f *fields) rest() {
	var names []string
	for name := range f.raw {
		names = append(names, name)
	}
	if len(names) > 0 {
		slices.Sort(names)
		name := names[0]
		f.fail(CodeUnknown, name, "unknown field %s", quote(f.path+name))
	}
}

// Values that change nothing.

func anything(json.RawMessage) bool { return true }
func never(json.RawMessage) bool    { return false }

// is accepts the values given, spelled without blanks.
func is(values ...string) func(json.RawMessage) bool {
	return func(raw json.RawMessage) bool {
		var b bytes.Buffer
		return json.Compact(&b, raw) == nil && slices.Contains(values, b.String())
	}
}

func zero(raw json.RawMessage) bool {
	v, err := strconv.ParseFloat(string(bytes.TrimSpace(raw)), 64)
	return err == nil && v == 0
}

// Fields of OpenAI's bodies that are known, with the values that change nothing.
var (
	commonNeutral = map[string]func(json.RawMessage) bool{
		"stream": is("false"), "stream_options": never, "n": is("1"),
		"frequency_penalty": zero, "presence_penalty": zero, "logit_bias": is("{}"),
		"user": anything, "metadata": anything, "safety_identifier": anything,
		"prompt_cache_key": anything, "service_tier": is(`"auto"`, `"default"`),
	}
	chatNeutral = merged(commonNeutral, map[string]func(json.RawMessage) bool{
		"tools": is("[]"), "tool_choice": is(`"none"`, `"auto"`), "parallel_tool_calls": anything,
		"functions": is("[]"), "function_call": is(`"none"`, `"auto"`),
		"response_format": is(`{"type":"text"}`), "modalities": is(`["text"]`), "audio": never,
		"store": is("false"), "prediction": never, "reasoning_effort": never,
		"verbosity": never, "web_search_options": never,
	})
	completionNeutral = merged(commonNeutral, map[string]func(json.RawMessage) bool{
		"echo": is("false"), "best_of": is("1"), "suffix": is(`""`),
	})
	embeddingNeutral = map[string]func(json.RawMessage) bool{
		"dimensions": never, "user": anything,
	}
	messageNeutral = map[string]func(json.RawMessage) bool{
		"name": never, "tool_calls": is("[]"), "tool_call_id": never, "refusal": never,
		"function_call": never, "audio": never,
	}
)

func merged(a, b map[string]func(json.RawMessage) bool) map[string]func(json.RawMessage) bool {
	m := map[string]func(json.RawMessage) bool{}
	for name, f := range a {
		m[name] = f
	}
	for name, f := range b {
		m[name] = f
	}
	return m
}
