package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/zeebo/xxh3"
)

// Kind is what a request asks for.
type Kind int

// The kinds, by URL.
const (
	Completion Kind = iota // /v1/completions
	Chat                   // /v1/chat/completions
	Embedding              // /v1/embeddings
)

// URL is the endpoint of the kind.
func (k Kind) URL() string {
	return [...]string{"/v1/completions", "/v1/chat/completions", "/v1/embeddings"}[k]
}

// Message is one turn of a chat; the fields are those that chat templates know.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Text is a prompt: characters, or tokens where the request gave those.
type Text struct {
	Text   string
	Tokens []int32
}

// Params says how tokens are chosen, with the meaning of engine.Sampling.
type Params struct {
	MaxTokens         int // 0: not stated
	Temperature       float64
	TopP              float64
	TopK              int
	MinP              float64
	RepetitionPenalty float64
	Seed              uint64
	Stop              []string
	LogProbs          int // alternatives to compute for each token; 0: none
	IgnoreEOS         bool
}

// Request is one line of the input.
type Request struct {
	ID       string // custom_id
	Kind     Kind
	Model    string    // as the request names it; "" where it does not
	Messages []Message // of a chat
	Inputs   []Text    // one of a completion, one or more of embeddings
	Params   Params
	// Tops is how many alternatives the answer lists for each token; -1: no log-probabilities.
	Tops int
	// Base64 asks for embeddings as base64 of little-endian float32.
	Base64 bool
}

// Defaults are for what a request does not state.
type Defaults struct {
	// MaxTokens is the engine's to apply, since it gives way to the context's end where a limit that
	// a request states does not.
	MaxTokens   int
	Temperature float64
	TopP        float64
	Seed        uint64 // mixed with the custom_id
	ChatText    bool   // a line of text is a user's message rather than the beginning of a text
}

// seedOf derives a seed from what identifies the request, so that its output does not depend on
// what else is in the job.
func (d Defaults) seedOf(id string) uint64 { return xxh3.HashStringSeed(id, d.Seed) }

func (d Defaults) params(id string) Params {
	return Params{Temperature: d.Temperature, TopP: d.TopP, Seed: d.seedOf(id)}
}

// parseText makes the request of a line of text.
func parseText(line []byte, number int, d Defaults) (*Request, *Error) {
	id := fmt.Sprintf("line-%d", number)
	if !utf8.Valid(line) {
		return nil, Refuse(CodeInvalidUTF8, "", "the line is not UTF-8")
	}
	r := &Request{ID: id, Params: d.params(id), Tops: -1}
	if d.ChatText {
		r.Kind = Chat
		r.Messages = []Message{{Role: "user", Content: string(line)}}
	} else {
		r.Inputs = []Text{{Text: string(line)}}
	}
	return r, nil
}

// parseJSON makes the request of a line in OpenAI's form. Where the custom_id could be read, the
// request is there beside the error, and holds it.
func parseJSON(line []byte, d Defaults) (*Request, *Error) {
	if !utf8.Valid(line) {
		return nil, Refuse(CodeInvalidUTF8, "", "the line is not UTF-8")
	}
	f := &fields{}
	if err := decode(line, &f.raw); err != nil {
		return nil, err
	}
	r := &Request{Tops: -1}
	r.ID = f.need("custom_id")
	if f.err != nil || r.ID == "" || len(r.ID) > customIDMax {
		return nil, Refuse(CodeCustomID, "custom_id", "custom_id must be a string of 1 to %d bytes",
			customIDMax)
	}
	method, url := f.need("method"), f.need("url")
	body := fields{raw: f.object("body")}
	if f.rest(); f.err != nil {
		return r, f.err
	}
	if method != "POST" {
		return r, Refuse(CodeMethod, "method", "method is %s; it must be POST", quote(method))
	}
	r.Params = d.params(r.ID)
	switch url {
	case Chat.URL():
		r.Kind = Chat
		r.chat(&body)
	case Completion.URL():
		r.Kind = Completion
		r.completion(&body)
	case Embedding.URL():
		r.Kind = Embedding
		r.embedding(&body)
	default:
		return r, Refuse(CodeURL, "url", "url is %s; use %s, %s or %s", quote(url), Chat.URL(),
			Completion.URL(), Embedding.URL())
	}
	body.rest()
	return r, body.err
}

// decode reads one JSON value and nothing after it.
func decode(line []byte, v any) *Error {
	err := json.Unmarshal(line, v)
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax):
		return Refuse(CodeInvalidJSON, "", "not JSON at byte %d: %v", syntax.Offset, err)
	}
	return Refuse(CodeInvalidJSON, "", "the line is no JSON object")
}

// chat reads the body of /v1/chat/completions.
func (r *Request) chat(f *fields) {
	r.Model = f.text("model")
	r.messages(f)
	r.sampling(f)
	limit, stated := f.integer("max_completion_tokens", 1, tokensMax)
	if stated && f.has("max_tokens") && int(limit) != r.Params.MaxTokens {
		f.fail(CodeValue, "max_tokens", "max_tokens and max_completion_tokens differ")
	} else if stated {
		r.Params.MaxTokens = int(limit)
	}
	wanted := f.flag("logprobs")
	tops, stated := f.integer("top_logprobs", 0, topLogProbsMax)
	if stated && !wanted {
		f.fail(CodeValue, "top_logprobs", "top_logprobs goes with logprobs: true")
	}
	if wanted {
		r.Tops, r.Params.LogProbs = int(tops), max(int(tops), 1)
	}
	f.neutral(chatNeutral)
}

// completion reads the body of /v1/completions.
func (r *Request) completion(f *fields) {
	r.Model = f.text("model")
	r.Inputs = f.inputs("prompt", 1)
	r.sampling(f)
	if tops, stated := f.integer("logprobs", 0, topLogProbsMax); stated {
		r.Tops, r.Params.LogProbs = int(tops), max(int(tops), 1)
	}
	f.neutral(completionNeutral)
}

// embedding reads the body of /v1/embeddings.
func (r *Request) embedding(f *fields) {
	r.Model = f.text("model")
	r.Inputs = f.inputs("input", inputsMax)
	switch format := f.text("encoding_format"); format {
	case "", "float":
	case "base64":
		r.Base64 = true
	default:
		f.fail(CodeValue, "encoding_format", "encoding_format is %s; use float or base64",
			quote(format))
	}
	f.neutral(embeddingNeutral)
}

// sampling reads what completions and chats have in common, and extensions that go beyond OpenAI's
// fields under the names that others use for them.
func (r *Request) sampling(f *fields) {
	p := &r.Params
	if n, ok := f.integer("max_tokens", 1, tokensMax); ok {
		p.MaxTokens = int(n)
	}
	if v, ok := f.number("temperature", 0, temperatureMax); ok {
		p.Temperature = v
	}
	if v, ok := f.number("top_p", 0, 1); ok {
		// The sampler takes 0 for "off"; OpenAI's 0 keeps the most likely token.
		p.TopP = max(v, leastTopP)
	}
	if n, ok := f.integer("top_k", 0, tokensMax); ok {
		p.TopK = int(n)
	}
	if v, ok := f.number("min_p", 0, 1); ok {
		p.MinP = v
	}
	if v, ok := f.number("repetition_penalty", 0, repetitionMax); ok {
		p.RepetitionPenalty = v
	}
	if n, ok := f.integer("seed", -1<<63, 1<<63-1); ok {
		p.Seed = uint64(n)
	}
	p.Stop = f.stops("stop")
	p.IgnoreEOS = f.flag("ignore_eos")
}

const (
	leastTopP     = 1e-9
	repetitionMax = 100
)

// messages reads the conversation.
func (r *Request) messages(f *fields) {
	raw, ok := f.take("messages")
	if !ok {
		f.fail(CodeMissing, "messages", "messages is missing")
		return
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 || len(list) > messagesMax {
		f.fail(CodeType, "messages", "messages must be an array of 1 to %d objects", messagesMax)
		return
	}
	for i, raw := range list {
		name := fmt.Sprintf("messages[%d]", i)
		m := fields{path: name + "."}
		if json.Unmarshal(raw, &m.raw) != nil || m.raw == nil {
			f.fail(CodeType, name, "%s must be an object", name)
			return
		}
		r.Messages = append(r.Messages, m.message())
		if m.rest(); m.err != nil {
			f.err = first(f.err, m.err)
			return
		}
	}
}

// message reads one turn.
func (f *fields) message() Message {
	m := Message{Role: f.need("role")}
	switch m.Role {
	case "system", "user", "assistant":
	case "developer":
		m.Role = "system" // OpenAI's later name; chat templates know the first one
	default:
		f.fail(CodeUnsupported, "role", "role %s is not supported; use system, developer, user or "+
			"assistant", quote(m.Role))
	}
	m.Content = f.content()
	f.neutral(messageNeutral)
	return m
}

// content is a string, or an array of text parts, which are joined by line ends.
func (f *fields) content() string {
	raw, ok := f.take("content")
	if !ok {
		f.fail(CodeMissing, "content", "content is missing")
		return ""
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil || len(parts) == 0 {
		f.fail(CodeType, "content", "content must be a string or an array of parts")
		return ""
	}
	var b bytes.Buffer
	for i, p := range parts {
		name := fmt.Sprintf("content[%d]", i)
		if p.Type != "text" {
			f.fail(CodeUnsupported, name+".type", "a part of type %s is not supported; only text is",
				quote(p.Type))
			return ""
		}
		if p.Text == nil {
			f.fail(CodeMissing, name+".text", "the part has no text")
			return ""
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(*p.Text)
	}
	return b.String()
}

// first keeps the earlier of two errors.
func first(a, b *Error) *Error {
	if a != nil {
		return a
	}
	return b
}
