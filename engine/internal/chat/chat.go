package chat

import (
	"time"
	"unicode/utf8"
)

// Value is a value a template can see. The zero Value is Python's None. A Value is never changed
// after it is made, so it can be shared between goroutines.
type Value struct{ v any }

// Values are the variables of a rendering.
type Values map[string]Value

func (v Value) inner() any {
	if v.v == nil {
		return none{}
	}
	return v.v
}

// String makes a Value of text, which must be UTF-8 for Render to accept it.
func String(s string) Value { return Value{s} }

// Bool makes a Value of a truth value.
func Bool(b bool) Value { return Value{b} }

// FromJSON reads one JSON text. Objects keep the order of their keys and 1 differs from 1.0, as in
// Python's json.loads. It fails for what Go and Python would read differently: bytes that are not
// UTF-8, halves of surrogate pairs, floats that overflow.
func FromJSON(data []byte) (v Value, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = rescue(p, "input", 0)
		}
	}()
	return Value{fromJSON(data)}, nil
}

// Template is a parsed chat template. It is safe for concurrent use.
type Template struct {
	name   string
	body   []stmt
	frame  frame
	limits limits
}

// Parse reads the source of a template; name is for error messages. The error is an *Error.
func Parse(name, source string) (t *Template, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, rescue(p, name, 0)
		}
	}()
	if len(source) > sourceBytesMax {
		fail(ErrLimit, "a template of %d bytes, at most %d", len(source), sourceBytesMax)
	}
	if !utf8.ValidString(source) {
		fail(ErrTemplate, "the template is not UTF-8")
	}
	body := parseSource(source)
	return &Template{name, body, compileTemplate(body), defaultLimits()}, nil
}

// Render renders the template with the variables given, and no others. now is the clock of
// strftime_now; nil makes a template that asks for the time an error. The error is an *Error, and
// the text is then empty.
func (t *Template) Render(vars Values, now func() time.Time) (text string, err error) {
	r := &run{vars: make(map[string]any, len(vars)), now: now, limits: t.limits}
	defer func() {
		if p := recover(); p != nil {
			text, err = "", rescue(p, t.name, r.line)
		}
	}()
	for name, v := range vars {
		if s, ok := v.v.(string); ok && !utf8.ValidString(s) {
			fail(ErrTemplate, "the variable %s is not UTF-8", name)
		}
		r.vars[name] = v.inner()
	}
	var out output
	r.stmts(t.body, r.open(t.frame, nil), &out)
	return out.String(), nil
}

// Chat is one conversation to make a prompt of.
type Chat struct {
	// Messages is a JSON array of objects, at least one.
	Messages Value
	// Tools and Documents are JSON arrays of objects, or the zero Value for none.
	Tools, Documents Value
	// AddGenerationPrompt asks for the header of the answer at the end.
	AddGenerationPrompt bool
	// Tokens are the special tokens the tokenizer defines: bos_token, eos_token and so on.
	Tokens map[string]string
	// Extra are further variables, such as enable_thinking. They win over Tokens, and may not name
	// what the other fields give.
	Extra Values
	// Now is the clock of strftime_now; see Render.
	Now func() time.Time
}

// RenderChat makes the prompt of a conversation as apply_chat_template of transformers 5 does:
// message keys that are null are left out, and the reasoning of a message is given to the template
// under both of its names.
func (t *Template) RenderChat(c Chat) (text string, err error) {
	defer func() {
		if p := recover(); p != nil {
			text, err = "", rescue(p, t.name, 0)
		}
	}()
	vars := Values{}
	for name, token := range c.Tokens {
		vars[name] = String(token)
	}
	for name, v := range c.Extra {
		vars[name] = v
	}
	for _, name := range []string{"messages", "tools", "documents", "add_generation_prompt"} {
		if _, ok := vars[name]; ok {
			fail(ErrTemplate, "the variable %s is given twice", name)
		}
	}
	vars["messages"] = Value{normalizeMessages(c.Messages.inner())}
	vars["tools"] = checkObjects("tools", c.Tools)
	vars["documents"] = checkObjects("documents", c.Documents)
	vars["add_generation_prompt"] = Bool(c.AddGenerationPrompt)
	return t.Render(vars, c.Now)
}

// normalizeMessages copies the messages without null values and with reasoning under its two names.
func normalizeMessages(v any) *list {
	messages, ok := v.(*list)
	if !ok || len(messages.items) == 0 {
		fail(ErrTemplate, "messages must be an array of at least one object")
	}
	out := &list{make([]any, len(messages.items))}
	for i, item := range messages.items {
		m, ok := item.(*dict)
		if !ok {
			fail(ErrTemplate, "message %d is %s, not an object", i, typeName(item))
		}
		out.items[i] = normalizeMessage(m)
	}
	return out
}

func normalizeMessage(m *dict) *dict {
	kept := newDict()
	for i, key := range m.keys {
		if m.vals[i] != any(none{}) {
			kept.setString(key.(string), m.vals[i])
		}
	}
	for _, name := range []string{"reasoning_content", "thinking", "reasoning"} {
		reasoning, ok := kept.getString(name)
		if !ok {
			continue
		}
		out := newDict()
		out.setString("thinking", reasoning)
		for i, key := range kept.keys {
			out.setString(key.(string), kept.vals[i])
		}
		out.setString("reasoning_content", reasoning)
		return out
	}
	return kept
}

func checkObjects(name string, v Value) Value {
	if v.inner() == any(none{}) {
		return v
	}
	l, ok := v.v.(*list)
	if !ok {
		fail(ErrTemplate, "%s must be an array of objects", name)
	}
	for i, item := range l.items {
		if _, ok := item.(*dict); !ok {
			fail(ErrTemplate, "%s[%d] is %s, not an object", name, i, typeName(item))
		}
	}
	return v
}
