package tokenizer

// Split patterns of published tokenizers, as their tokenizer.json spells them.
const (
	patternGPT2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternQwen = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|` +
		` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|` +
		` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

	patternNewline      = "[\r\n]"
	patternDigit        = `\p{N}`
	patternDigits3      = `\p{N}{1,3}`
	patternCJK          = "[一-龥\u0800-一가-\ud7ff]+"
	patternCJKKana      = "[一-龥\u3040-ゟ゠-ヿ]+"
	patternSpaceAtEnd   = `\s+$`
	patternSpaceLetters = `\s?\p{L}+`
	patternSpacePunct   = `\s?\p{P}+`

	// DeepSeek LLM: the letters of bicameral scripts, one blank before them; then punctuation.
	// Escaped, because some of these letters change under the normalisation that editors like.
	patternDeepSeekLetters = "\\s?[A-Za-z" +
		"\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293" +
		"\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c" +
		"\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5" +
		"\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77" +
		"\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57" +
		"\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4" +
		"\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc" +
		"\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d" +
		"\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b" +
		"\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f" +
		"\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a" +
		"\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb" +
		"\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df" +
		"\U0001e900-\U0001e943]+"
	patternDeepSeekPunct = "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"

	patternDeepSeek3 = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|" +
		"[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|" +
		"\\s*[\r\n]+|\\s+(?!\\S)|\\s+"

	// What GGUF files mean by "default": three patterns, applied one behind the other.
	patternDefaultPunct  = `[\p{P}\$\+<=>\^~\|]+`
	patternDefaultDigits = `\p{N}+`
	patternThreeDigits   = `[0-9][0-9][0-9]`
)

// trustedPattern reports whether a pattern is one of the above, of which we know that they match
// in linear time.
func trustedPattern(p string) bool {
	switch p {
	case patternGPT2, patternQwen, patternLlama3, patternNewline, patternDigit, patternDigits3,
		patternCJK, patternCJKKana, patternSpaceAtEnd, patternSpaceLetters, patternSpacePunct,
		patternDeepSeekLetters, patternDeepSeekPunct, patternDeepSeek3,
		patternDefaultPunct, patternDefaultDigits, patternThreeDigits:
		return true
	}
	return false
}

// newMatcher returns the matcher of a regular expression.
func newMatcher(pattern string) (matcher, error) {
	if m, ok := scanner(pattern); ok {
		return m, nil
	}
	return newRegexMatcher(pattern)
}

func newRegexMatcher(pattern string) (matcher, error) {
	re, err := compilePattern(pattern)
	if err != nil {
		return nil, err
	}
	return regexMatcher{re}, nil
}
