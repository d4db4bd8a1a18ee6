package engine

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/moering/moering/engine/internal/chat"
	"github.com/moering/moering/engine/internal/tokenizer"
	"github.com/moering/moering/offload/store"
)

// chatSource finds the template that the publisher ships, and the special tokens by name; "" where
// there is none.
func (e *Engine) chatSource() (source string, special map[string]string, err error) {
	special = map[string]string{}
	s := e.model.Store
	if !hubTokenizer(s) {
		const key = "tokenizer.chat_template"
		if s.Metadata().Has(key) {
			source, err = s.Metadata().String(key)
		}
		if e.tok != nil {
			ids := e.tok.Special()
			for name, id := range map[string]int32{"bos_token": ids.BOS, "eos_token": ids.EOS,
				"unk_token": ids.UNK, "pad_token": ids.PAD} {
				if token, ok := e.tok.Token(id); ok {
					special[name] = token
				}
			}
		}
		return source, special, err
	}
	if text, absent := s.SideFile("tokenizer_config.json"); absent == nil {
		if source, err = templateInConfig(text, special); err != nil {
			return "", nil, err
		}
	}
	if text, absent := s.SideFile(store.SideChatTemplate); absent == nil {
		source = string(text)
	}
	return source, special, nil
}

// templateInConfig reads tokenizer_config.json: the template, alone or the one named default in a
// list, and the special tokens, as strings or as objects with their content.
func templateInConfig(text []byte, special map[string]string) (string, error) {
	var c map[string]json.RawMessage
	if err := json.Unmarshal(text, &c); err != nil {
		return "", fmt.Errorf("%w: tokenizer_config.json: %w", ErrFormat, err)
	}
	for _, name := range []string{"bos_token", "eos_token", "unk_token", "pad_token"} {
		var token string
		var object struct {
			Content string `json:"content"`
		}
		if json.Unmarshal(c[name], &token) == nil && token != "" {
			special[name] = token
		} else if json.Unmarshal(c[name], &object) == nil && object.Content != "" {
			special[name] = object.Content
		}
	}
	raw := bytes.TrimSpace(c["chat_template"])
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var source string
	if json.Unmarshal(raw, &source) == nil {
		return source, nil
	}
	var list []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return "", fmt.Errorf("%w: tokenizer_config.json: chat_template: %w", ErrFormat, err)
	}
	for _, t := range list {
		if t.Name == "default" {
			return t.Template, nil
		}
	}
	return "", fmt.Errorf("%w: tokenizer_config.json has several chat templates, none named default",
		ErrUnsupported)
}

// RenderChat turns a conversation into a prompt by the model's chat template, with the header of the
// answer at its end. A construct that this version does not render as the reference does is an
// error that wraps ErrUnsupported or ErrFormat, never another prompt.
func (e *Engine) RenderChat(messages []Message) (string, error) {
	if !e.info.ChatTemplate {
		return "", fmt.Errorf("%w: model %s ships no chat template; give the prompt as the model "+
			"expects it", ErrUnsupported, e.info.Path)
	}
	template, err := e.template()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	text, err := json.Marshal(messages)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUsage, err)
	}
	value, err := chat.FromJSON(text)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUsage, err)
	}
	prompt, err := template.RenderChat(chat.Chat{Messages: value, AddGenerationPrompt: true,
		Tokens: e.special, Now: clock})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return prompt, nil
}

// EncodeChat returns the token ids of a conversation: RenderChat's text with its special tokens
// recognised, and none added, since the template writes its own.
func (e *Engine) EncodeChat(messages []Message) ([]int32, error) {
	text, err := e.RenderChat(messages)
	if err != nil {
		return nil, err
	}
	if e.tok == nil {
		return nil, fmt.Errorf("%w: model %s has no tokenizer", ErrUnsupported, e.info.Path)
	}
	ids, err := e.tok.Encode(text, tokenizer.EncodeOptions{ParseSpecial: true})
	return ids, mapError(err)
}
