package tokenizer

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// minimal is a tokenizer.json with one field replaced or added at the top.
func minimal(field string) string {
	base := map[string]string{
		"model": `"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3, "</s>": 4},
			"merges": ["a b"]}`,
		"added_tokens": `"added_tokens": [{"id": 3, "content": "<s>", "special": true},
			{"id": 4, "content": "</s>", "special": true}]`,
	}
	if name, _, ok := strings.Cut(strings.TrimPrefix(field, `"`), `"`); ok && name != "" {
		base[name] = field
	}
	var parts []string
	for _, p := range base {
		parts = append(parts, p)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestUnsupportedOptionsAreNamed(t *testing.T) {
	bpe := func(extra string) string {
		return `"model": {"type": "BPE", "vocab": {"<s>": 1, "</s>": 2}, "merges": [], ` + extra + `}`
	}
	normalizer := func(s string) string { return `"normalizer": {"type": ` + s + `}` }
	pre := func(s string) string { return `"pre_tokenizer": {"type": ` + s + `}` }
	decoder := func(s string) string { return `"decoder": {"type": ` + s + `}` }
	regex := func(p string) string {
		return normalizer(`"Replace", "pattern": {"Regex": "` + p + `"}, "content": "x"`)
	}
	for field, want := range map[string]string{
		`"version": "2.0"`:                                                    "2.0",
		`"model": {"type": "Unigram"}`:                                        "Unigram",
		`"model": {"type": "WordPiece"}`:                                      "WordPiece",
		`"post_processor": {"type": "BertProcessing"}`:                        "BertProcessing",
		bpe(`"dropout": 0.1`):                                                 "dropout",
		bpe(`"continuing_subword_prefix": "##"`):                              "continuing_subword_prefix",
		bpe(`"end_of_word_suffix": "</w>"`):                                   "end_of_word_suffix",
		bpe(`"new_option": true`):                                             "new_option",
		normalizer(`"Nmt"`):                                                   "Nmt",
		normalizer(`"Precompiled"`):                                           "Precompiled",
		normalizer(`"NFC", "strength": 3`):                                    "strength",
		normalizer(`"Sequence", "normalizers": [{"type": "BertNormalizer"}]`): "BertNormalizer",
		normalizer(`"Replace", "pattern": {"String": ""}, "content": ""`):     "empty pattern",
		regex(`\\w+`):           `\\w`,
		regex(`a\\b`):           `\\b`,
		regex(`a++`):            "quantifier",
		regex(`a{2}?`):          "{n}?",
		regex(`[a&&b]`):         "class",
		regex(`[[:alpha:]]`):    "class",
		regex(`(?i:ss)`):        "ignore case",
		regex(`(?i:é)`):         "ignores case",
		regex(`(?<x>a)`):        "group",
		regex(`(a)\\1`):         "escape",
		regex(`\\p{Cn}`):        "property",
		regex(`\\xE4`):          "escape",
		regex(`a)`):             "unmatched",
		pre(`"UnicodeScripts"`): "UnicodeScripts",
		pre(`"Split", "pattern": {"String": "x"}, "behavior": "New"`):                   "New",
		pre(`"Metaspace", "replacement": "_", "prepend_scheme": "last"`):                "last",
		pre(`"ByteLevel", "style": "x"`):                                                "style",
		decoder(`"WordPiece", "prefix": "##"`):                                          "WordPiece",
		decoder(`"CTC"`):                                                                "CTC",
		decoder(`"Strip", "content": " ", "start": 0, "stop": 1`):                       "stop 1",
		decoder(`"Replace", "pattern": {"Regex": "a"}, "content": ""`):                  "regular expression",
		decoder(`"Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]`): "ByteFallback",
	} {
		_, err := FromJSON([]byte(minimal(field)), nil)
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v does not name %s", field, err, want)
		}
	}
}

// A mark on the piece that starts the text, where something before may have taken that start away.
func TestMetaspaceFirstBehindAStripIsRefused(t *testing.T) {
	_, err := FromJSON([]byte(minimal(`"normalizer": {"type": "Strip"}, "pre_tokenizer":
		{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}`)), nil)
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "prepend_scheme") {
		t.Errorf("error %v", err)
	}
}

func TestMalformedFilesAreErrors(t *testing.T) {
	for _, field := range []string{
		`"model": null`,
		`"model": {"type": "BPE", "vocab": {"a": 0}}`,
		`"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}`,
		`"model": {"type": "BPE", "vocab": {"a": 2000000000}, "merges": []}`,
		`"model": {"type": "BPE", "vocab": {"a": 99999999999}, "merges": []}`,
		`"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}`,
		`"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}`,
		`"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}`,
		`"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}`,
		`"added_tokens": [{"id": 9, "content": "<s>", "special": true}]`,
		`"added_tokens": [{"id": 7, "content": "<new>", "special": true}]`,
		`"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]}`,
		`"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B"}}]}`,
		`"normalizer": 3`,
		`"normalizer": {"type": "Strip", "strip_left": "yes"}`,
	} {
		if _, err := FromJSON([]byte(minimal(field)), nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: error %v", field, err)
		}
	}
	for _, data := range []string{"", "{", "[]", "null", `{"model": 1}`, "{\"model\": \"\xff\"}"} {
		if _, err := FromJSON([]byte(data), nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: error %v", data, err)
		}
	}
	_, err := FromJSON([]byte(minimal("")), []byte(`{"added_tokens_decoder": {"x": {}}}`))
	if !errors.Is(err, ErrFormat) {
		t.Errorf("an added token with id x: error %v", err)
	}
}

func TestConfigurationSetsTemplateAndSpecialTokens(t *testing.T) {
	for config, want := range map[string][]int32{
		``: {2},
		`{"bos_token": "<s>", "eos_token": {"content": "</s>"}}`: {2},
		`{"bos_token": "<s>", "add_bos_token": true}`:            {3, 2},
		`{"bos_token": "<s>", "eos_token": "</s>",
			"add_bos_token": true, "add_eos_token": true}`: {3, 2, 4},
		`{"eos_token": "</s>", "add_bos_token": true, "add_eos_token": true}`:                  {2, 4},
		`{"add_bos_token": false, "bos_token": "<s>"}`:                                         {2},
		`{"added_tokens_decoder": {"5": {"content": "!", "special": true}}, "pad_token": "!"}`: {2},
		`{"added_tokens_decoder": {"2": {"content": "ab", "normalized": false}}}`:              {2},
		`{"bos_token": "nowhere", "eos_token": null, "chat_template": "x"}`:                    {2},
	} {
		tok, err := FromJSON([]byte(minimal("")), []byte(config))
		if err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		got, err := tok.Encode("ab", EncodeOptions{AddSpecial: true})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v (%v)", config, got, want, err)
		}
	}
	_, err := FromJSON([]byte(minimal("")), []byte(`{"add_bos_token": true, "bos_token": "nowhere"}`))
	if !errors.Is(err, ErrFormat) {
		t.Errorf("a BOS token that is not there: %v", err)
	}
	tok, err := FromJSON([]byte(minimal("")), []byte(`{"bos_token": "<s>", "eos_token": "</s>"}`))
	if err != nil {
		t.Fatal(err)
	}
	if s := tok.Special(); s != (Special{BOS: 3, EOS: 4, UNK: -1, PAD: -1}) {
		t.Errorf("special tokens %+v", s)
	}
	if eogs := tok.EOGs(); !slices.Equal(eogs, []int32{4}) {
		t.Errorf("end tokens %v", eogs)
	}
}

func TestAMissingUnknownTokenIsAnErrorWhenItIsNeeded(t *testing.T) {
	tok, err := FromJSON([]byte(minimal(`"model": {"type": "BPE", "unk_token": "?", "merges": [],
		"vocab": {"a": 0, "x": 1, "y": 2, "<s>": 3, "</s>": 4}}`)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Encode("a", EncodeOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := tok.Encode("az", EncodeOptions{}); !errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
}

func TestPatternsThatBlowUpEndInAnError(t *testing.T) {
	re, err := compilePattern("(?:a|a|b|ab)*c")
	if err != nil {
		t.Fatal(err)
	}
	if re.MatchTimeout != matchTimeMax {
		t.Errorf("an unknown pattern may take %v", re.MatchTimeout)
	}
	re.MatchTimeout /= 100
	err = eachMatch(re, "", []rune(strings.Repeat("ab", 200)), func(int, int) {})
	if !errors.Is(err, ErrPattern) {
		t.Errorf("error %v", err)
	}
}
