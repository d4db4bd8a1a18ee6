package batch

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/zeebo/xxh3"
)

// Response is the answer to a request.
type Response struct {
	Text         string
	Finish       string  // "stop" or "length"
	Tokens       []Token // where log-probabilities were asked for
	PromptTokens int
	NewTokens    int
	Embeddings   [][]float32
}

// Token is one generated token with its probability and the likeliest in its place.
type Token struct {
	Bytes   []byte
	LogProb float64
	Top     []TokenProb
}

// TokenProb is a token and its log-probability.
type TokenProb struct {
	Bytes   []byte
	LogProb float64
}

// leastLogProb stands for minus infinity, which JSON does not have; OpenAI's API gives the same.
const leastLogProb = -9999

// JSON of the output, in OpenAI's forms. Field order is the order of the file.
type (
	resultLine struct {
		ID       string      `json:"id"`
		CustomID *string     `json:"custom_id"`
		Response *httpAnswer `json:"response"`
		Error    *lineError  `json:"error"`
	}
	httpAnswer struct {
		StatusCode int    `json:"status_code"`
		RequestID  string `json:"request_id"`
		Body       any    `json:"body"`
	}
	lineError struct {
		Code    string  `json:"code"`
		Message string  `json:"message"`
		Param   *string `json:"param"`
		Line    int32   `json:"line"`
	}
	errorBody struct {
		Error bodyError `json:"error"`
	}
	bodyError struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	usage struct {
		PromptTokens     int  `json:"prompt_tokens"`
		CompletionTokens *int `json:"completion_tokens,omitempty"` // embeddings have none
		TotalTokens      int  `json:"total_tokens"`
	}
	chatBody struct {
		ID          string       `json:"id"`
		Object      string       `json:"object"`
		Created     int64        `json:"created"`
		Model       string       `json:"model"`
		Choices     []chatChoice `json:"choices"`
		Usage       usage        `json:"usage"`
		Fingerprint string       `json:"system_fingerprint"`
	}
	chatChoice struct {
		Index   int         `json:"index"`
		Message chatMessage `json:"message"`
		Probs   *chatTokens `json:"logprobs"`
		Finish  string      `json:"finish_reason"`
	}
	chatMessage struct {
		Role    string  `json:"role"`
		Content string  `json:"content"`
		Refusal *string `json:"refusal"`
	}
	chatTokens struct {
		Content []chatToken `json:"content"`
		Refusal *string     `json:"refusal"`
	}
	chatToken struct {
		Token   string        `json:"token"`
		LogProb float64       `json:"logprob"`
		Bytes   []int         `json:"bytes"`
		Top     []chatTokenIn `json:"top_logprobs"`
	}
	chatTokenIn struct {
		Token   string  `json:"token"`
		LogProb float64 `json:"logprob"`
		Bytes   []int   `json:"bytes"`
	}
	textBody struct {
		ID          string       `json:"id"`
		Object      string       `json:"object"`
		Created     int64        `json:"created"`
		Model       string       `json:"model"`
		Choices     []textChoice `json:"choices"`
		Usage       usage        `json:"usage"`
		Fingerprint string       `json:"system_fingerprint"`
	}
	textChoice struct {
		Index  int         `json:"index"`
		Text   string      `json:"text"`
		Probs  *textTokens `json:"logprobs"`
		Finish string      `json:"finish_reason"`
	}
	textTokens struct {
		Tokens   []string             `json:"tokens"`
		LogProbs []float64            `json:"token_logprobs"`
		Top      []map[string]float64 `json:"top_logprobs"`
		Offsets  []int                `json:"text_offset"`
	}
	embeddingBody struct {
		Object string          `json:"object"`
		Data   []embeddingData `json:"data"`
		Model  string          `json:"model"`
		Usage  usage           `json:"usage"`
	}
	embeddingData struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
)

// identity derives ids from what identifies a request, so that a result is the same in every run.
func identity(prefix, id string) string {
	h := xxh3.HashString128(prefix + id).Bytes()
	return prefix + hex.EncodeToString(h[:12])
}

// served is what every response says of the model.
type served struct {
	name        string // where a request names none
	fingerprint string
	created     int64
}

// result renders the line of the output for a request that was answered.
func (s served) result(r *Request, a *Response) ([]byte, error) {
	return s.render(resultLine{ID: identity("batch_req_", r.ID), CustomID: &r.ID,
		Response: &httpAnswer{200, identity("req_", r.ID), s.body(r, a)}})
}

// refusal renders the line of the error file. r is nil where the line gave no custom_id.
func (s served) refusal(r *Request, e *Error, number int32) ([]byte, error) {
	var param *string
	if e.Param != "" {
		param = &e.Param
	}
	if r == nil || e.ofLine() {
		return s.render(resultLine{ID: identity("batch_req_", "line "+strconv.Itoa(int(number))),
			Error: &lineError{e.Code, e.Message, param, number}})
	}
	return s.render(resultLine{ID: identity("batch_req_", r.ID), CustomID: &r.ID,
		Response: &httpAnswer{e.Status, identity("req_", r.ID),
			errorBody{bodyError{e.Message, e.kind(), param, e.Code}}}})
}

func (s served) render(l resultLine) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

func (s served) body(r *Request, a *Response) any {
	model := r.Model
	if model == "" {
		model = s.name
	}
	u := usage{a.PromptTokens, &a.NewTokens, a.PromptTokens + a.NewTokens}
	switch r.Kind {
	case Chat:
		choice := chatChoice{Message: chatMessage{Role: "assistant", Content: a.Text}, Finish: a.Finish}
		if r.Tops >= 0 {
			choice.Probs = &chatTokens{Content: chatProbs(a.Tokens, r.Tops)}
		}
		return chatBody{identity("chatcmpl-", r.ID), "chat.completion", s.created, model,
			[]chatChoice{choice}, u, s.fingerprint}
	case Completion:
		choice := textChoice{Text: a.Text, Finish: a.Finish}
		if r.Tops >= 0 {
			choice.Probs = textProbs(a.Tokens, r.Tops)
		}
		return textBody{identity("cmpl-", r.ID), "text_completion", s.created, model,
			[]textChoice{choice}, u, s.fingerprint}
	}
	body := embeddingBody{Object: "list", Model: model, Usage: usage{PromptTokens: a.PromptTokens,
		TotalTokens: a.PromptTokens}}
	for i, v := range a.Embeddings {
		d := embeddingData{Object: "embedding", Index: i, Embedding: v}
		if r.Base64 {
			d.Embedding = packed(v)
		}
		body.Data = append(body.Data, d)
	}
	return body
}

func packed(v []float32) string {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(b)
}

func finite(logProb float64) float64 {
	if logProb > leastLogProb {
		return logProb
	}
	return leastLogProb
}

// spelled is a token's text and its bytes; half a character shows as U+FFFD in the text alone.
func spelled(b []byte) (string, []int) {
	list := make([]int, len(b))
	for i, c := range b {
		list[i] = int(c)
	}
	return string(bytes.ToValidUTF8(b, []byte(string(utf8.RuneError)))), list
}

func chatProbs(tokens []Token, tops int) []chatToken {
	out := []chatToken{}
	for _, t := range tokens {
		text, list := spelled(t.Bytes)
		c := chatToken{Token: text, LogProb: finite(t.LogProb), Bytes: list, Top: []chatTokenIn{}}
		for _, p := range t.Top[:min(tops, len(t.Top))] {
			text, list := spelled(p.Bytes)
			c.Top = append(c.Top, chatTokenIn{text, finite(p.LogProb), list})
		}
		out = append(out, c)
	}
	return out
}

func textProbs(tokens []Token, tops int) *textTokens {
	out := &textTokens{Tokens: []string{}, LogProbs: []float64{}, Top: []map[string]float64{},
		Offsets: []int{}}
	offset := 0
	for _, t := range tokens {
		text, _ := spelled(t.Bytes)
		top := map[string]float64{}
		for _, p := range t.Top[:min(tops, len(t.Top))] {
			s, _ := spelled(p.Bytes)
			if _, there := top[s]; !there { // two halves of characters may look alike
				top[s] = finite(p.LogProb)
			}
		}
		out.Tokens, out.LogProbs = append(out.Tokens, text), append(out.LogProbs, finite(t.LogProb))
		out.Top, out.Offsets = append(out.Top, top), append(out.Offsets, offset)
		offset += utf8.RuneCountInString(text)
	}
	return out
}
