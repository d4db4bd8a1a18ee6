#!/usr/bin/env python3
"""Trains small vocabularies and records what Hugging Face tokenizers does with them.

    pip install tokenizers==0.23.3
    python make.py            # rewrites NAME.json and NAME.golden.json beside this file
    python make.py --fuzz N FILE   # N random strings and id lists through every vocabulary, to FILE

Each NAME has the pipeline of a model family (see PIPELINES). NAME.json is a tokenizer.json;
NAME.golden.json holds, for each text of corpus(), the ids with and without special tokens, and with
special tokens in the text left as letters; the decoded text with and without special tokens; and
decoded lists of random ids. The output is the same on every run.
"""
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 700

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
DEEPSEEK3 = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
             "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
             "\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
CASED = "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03ff\u0400-\u052f]+"
DEEPSEEK_PUNCT = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"

WORDS = """the of and to in is that for it was on are as with his they at be this from have or by
one had not but what all were when we there can an your which their said if do will each about how
up out them then she many some so these would other into has more her two like him see time could
no make than first been its who now people my made over did down only way find use may water long
little very after words called just where most know function return import string error value type
""".split()
SAMPLES = [
    "Ünïcödé naïve façade Ångström œuvre ß ſtraße ﬁne ĳ ŉ",
    "Привет, мир! Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Γειά σου Κόσμε, ῥόδον ὦ ξεῖν᾽ ἀγγέλλειν ΐ Ί K Ω",
    "こんにちは世界。カタカナとひらがな、漢字。ﾊﾝｶｸ", "你好，世界！这是一个测试。繁體中文", "안녕하세요 세계",
    "مرحبا بالعالم ١٢٣", "שלום עולם", "नमस्ते दुनिया १२३", "สวัสดีชาวโลก", "Xin chào thế giới",
    "ሰላም ልዑል", "გამარჯობა Მსოფლიო", "Բարեւ աշխարհ", "བཀྲ་ཤིས་བདེ་ལེགས།", "ᏣᎳᎩ ꮳꮃꭹ", "𐐀𐐨 𞤀𞤢", "𝔘𝔫𝔦 𝟘𝟙",
]
CODE = [
    "func main() {\n\tfmt.Println(\"hello, world\")\n}\n",
    "for (int i = 0; i < n; ++i) {\r\n    a[i] += b[i] * 0x1F;\r\n}\r\n",
    "def f(x):\n    return x**2 if x != 0 else None  # ok?\n\n\n",
    "SELECT * FROM t WHERE a='b' AND c<>1;--x", "{\"key\": [1, 2.5e-10, null], \"k\\n\": \"\\u00e9\"}",
]


def training_text():
    rng = random.Random(1)
    for _ in range(400):
        yield " ".join(rng.choice(WORDS) for _ in range(12)) + rng.choice([".", "!", "?", ",", "\n"])
    for _ in range(4):
        yield from SAMPLES
        yield from CODE
    for _ in range(40):
        yield " ".join(str(rng.randrange(10 ** rng.randrange(1, 7))) for _ in range(6))
        yield "\n" * rng.randrange(4) + " " * rng.randrange(9) + "\t" * rng.randrange(3) + "x = 1;"


def corpus(added):
    """The nasty texts. added: spellings of added tokens to put between them."""
    rng = random.Random(2)
    out = ["", " ", "  ", "   ", "\n", "\n\n", "\r\n", " \n ", "\t", "\u00a0", "\u3000", "a", " a", "a ",
           " a ", "  a", "a  b", "a   b", "Hello", "Hello world", " Hello  world ", "▁", "▁▁ ▁", "a▁b",
           "\x00", "\x00\x01\x7f", "\ufeffbom", "\ufffd", "\u0085", "\u2028x\u2029", "\u180e", "\u200b"]
    out += SAMPLES + CODE
    out += ["I'm you're he'll we've she'd it's don't", "I'M YOU'RE HE'LL WE'VE SHE'D IT'S", "'s't're 'S",
            "'ſ 'ſt 'K", "''ll'", "it' s", "l'été d'Été", "’s ’t"]
    out += ["1", "12", "123", "1234", "12345", "1234567890", "1,234.56", "٣٤٥٦", "²³¹", "½¾", "Ⅳⅴ", "१२३४", "x1y22z333",
            "１２３", "3.14159e-10"]
    out += ["👍", "👨‍👩‍👧‍👦", "🏳️‍🌈🏴‍☠️", "🇩🇪🇫🇷", "👩🏽‍💻 ok", "☃️ ❤ ❤️", "\U0001f9ff\U0001fae0"]
    out += ["e\u0301 \u00e9 e\u0301\u0301", "a\u0323\u0307 a\u0307\u0323", "q\u0307\u0323", "\u0301", "\u0344",
            "\u1e9b\u0323", "\u212b\u2126\u212a", "\u1100\u1161\u11a8 \uac01", "\uac00\u11a8", "\u0958",
            "\ufb01\u2460\uff21", "z" + "\u0300\u0323\u0331" * 15, "\u0e33", "\u0b47\u0b56\u0b3e",
            "o" + "\u0301" * 40 + "x"]
    out += [" " * n + "x" for n in (2, 3, 4, 7, 8, 9, 16, 17, 33)]
    out += ["\n" * 5 + "x", "x" + "\n" * 5, " \n \n ", "a\r\n\r\nb", "\t\t x", " \t \t", "a \n", "a\n b", "a\n  b",
            "x \u00a0 y", "x\u2003\u2003y", "\u3000\u3000a", "a\r", "\r\r\n\n", "a.\n\nB", "!\n\n", "! \n"]
    out += ["...", "?!?!", "---", "a-b_c", "(a)[b]{c}", "$100 €5 £3 ¥9", "a+b=c", "~`^|<>", "«»“”‘’", "、。「」", "<0x41><0xE4>",
            "<unk>", "</s>", "<s>x</s>", "http://a.b/c?d=e&f#g", "a@b.cd", "C:\\x\\y", "%20%E4"]
    out += ["a" * 100, "ab" * 100, "the" * 60, "漢" * 40, " " * 100, "\n" * 100, "\u00e9" * 50, "1" * 50, "😀" * 20, "." * 70]
    for n in range(40):  # bytes that are mostly not UTF-8, read two ways
        b = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 24)))
        out.append(b.decode("latin-1") if n % 2 else b.decode("utf-8", "replace"))
    for t in added:
        for form in ("%s", " %s", "%s ", " %s ", "x%s", "%sx", "x%sx", "x %s x", "x  %s  x", "\n%s\n", "%s%%s", "%s %%s",
                     "é%sé", "1%s1", "%s.", "_%s_"):
            out.append((form % t).replace("%s", t))
    for a in added:
        for b in added:
            out += [a + gap + b for gap in ("", " ", "  ", "\n \n")]
    for _ in range(60):
        out.append("".join(rng.choice(added + WORDS + SAMPLES + [" ", "  ", "\n", "'s", "1", ".", "▁"])
                           for _ in range(rng.randrange(2, 7))))
    return list(dict.fromkeys(out))


def frequent(n):
    """The n most frequent characters, and the visible blank: the trainer's own choice of an alphabet
    is another on every run."""
    count = {"▁": 1 << 30}
    for text in training_text():
        for c in text:
            count[c] = count.get(c, 0) + 1
    return sorted(count, key=lambda c: (-count[c], c))[:n]


def train(tok, special, initial):
    """initial: the alphabet; characters beyond it are unknown."""
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, initial_alphabet=initial,
                                  limit_alphabet=len(initial), show_progress=False)
    tok.train_from_iterator(training_text(), trainer)


BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def gpt2():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tok, ["<|endoftext|>"], BYTES)
    return tok, ["<|endoftext|>"], "strings"


def gpt2_prefix():
    """RoBERTa's variant: a blank in front, and added tokens with every flag."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tok.decoder = decoders.ByteLevel()
    train(tok, ["<s>", "</s>"], BYTES)
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True),
                            AddedToken("<right>", rstrip=True, special=True, normalized=False),
                            AddedToken("<both>", lstrip=True, rstrip=True, special=True)])
    tok.add_tokens([AddedToken("word", single_word=True), AddedToken("wo", normalized=False),
                    AddedToken("  "), AddedToken("été", single_word=True, lstrip=True)])
    return tok, ["<mask>", "<right>", "<both>", "word", "wo", "été"], "pairs"


def qwen2():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tok, [], BYTES)
    tok.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<tool_call>", normalized=False),
                    AddedToken("e\u0301t\u00e9", normalized=True)])
    return tok, ["<|im_end|>", "<|im_start|>", "<think>", "e\u0301t\u00e9", "\u00e9t\u00e9"], "strings"


def llama3():
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, [], BYTES)
    # Words that are tokens and that no merges make: what ignore_merges is for.
    spec = json.loads(tok.to_str())
    for w in ("Ġunmergeable", "zzqx", "ĠĠĠĠĠĠĠĠĠĠĠĠ", "999"):
        spec["model"]["vocab"].setdefault(w, len(spec["model"]["vocab"]))
    tok = Tokenizer.from_str(json.dumps(spec))
    tok.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    bos = tok.token_to_id("<|begin_of_text|>")
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return tok, ["<|begin_of_text|>", "<|eot_id|>", " unmergeable", "zzqx", "999"], "pairs"


def llama2_base():
    """Characters, byte fallback: trained with blanks as ▁, then given the 256 byte tokens."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    train(tok, ["<unk>", "<s>", "</s>"], frequent(120))
    spec = json.loads(tok.to_str())
    old = sorted(spec["model"]["vocab"].items(), key=lambda kv: kv[1])
    names = [t for t, _ in old[:3]] + ["<0x%02X>" % b for b in range(256)] + [t for t, _ in old[3:]]
    spec["model"]["vocab"] = {t: i for i, t in enumerate(names)}
    spec["model"].update(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tok = Tokenizer.from_str(json.dumps(spec))
    tok.add_special_tokens(["<unk>", "<s>", "</s>"])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tok


def llama2():
    tok = llama2_base()
    tok.pre_tokenizer = None
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                     decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tok, ["<s>", "</s>", "<unk>"], "strings"


def mixtral():
    """The newer form: Metaspace, a mark on the first piece only, no cut."""
    tok = llama2_base()
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                     decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.add_tokens([AddedToken("[INST]", normalized=False), AddedToken("▁▁▁▁", normalized=False),
                    AddedToken("the", normalized=True, single_word=True)])
    return tok, ["<s>", "[INST]", "the", "▁▁▁▁"], "pairs"


def metaspace():
    """Metaspace that cuts, unknown characters that fuse, no byte tokens, no decoder but Metaspace."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tok.decoder = decoders.Metaspace(prepend_scheme="always")
    train(tok, ["<unk>", "<s>"], frequent(90))
    return tok, ["<s>", "<unk>"], "pairs"


def deepseek_llm():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex("[\r\n]"), "isolated"),
        pre_tokenizers.Split(Regex("\\s?" + CASED), "isolated"),
        pre_tokenizers.Split(Regex(DEEPSEEK_PUNCT), "isolated"),
        pre_tokenizers.Split(Regex(r"\s+$"), "isolated"),
        pre_tokenizers.Split(Regex(CJK), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, [], BYTES)
    tok.add_special_tokens(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])
    tok.add_tokens([AddedToken("ø", normalized=True), AddedToken("<fim>", normalized=True)])
    return tok, ["<｜end▁of▁sentence｜>", "ø", "<fim>"], "strings"


def deepseek_v3():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Sequence([])
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), "isolated"),
        pre_tokenizers.Split(Regex(DEEPSEEK3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, [], BYTES)
    tok.add_special_tokens(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>"])
    tok.add_tokens([AddedToken("<think>", normalized=True)])
    bos = tok.token_to_id("<｜begin▁of▁sentence｜>")
    tok.post_processor = processors.TemplateProcessing(
        single="<｜begin▁of▁sentence｜> $A <｜end▁of▁sentence｜>",
        special_tokens=[("<｜begin▁of▁sentence｜>", bos), ("<｜end▁of▁sentence｜>", bos + 1)])
    return tok, ["<｜User｜>", "<think>"], "pairs"


def odd(pre, norm=None, dec=None):
    """The components that no family above has, one vocabulary each: characters, unknowns apart."""
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    if pre is not None:
        tok.pre_tokenizer = pre
    train(tok, ["<unk>"], frequent(150) if dec is None else BYTES)
    if norm is not None:
        tok.normalizer = norm
    if dec is not None:
        tok.decoder = dec
    tok.add_tokens([AddedToken("ÄB c", normalized=True)])
    return tok, ["äb c", "ÄB c"], "pairs"


def odds():
    p, n = pre_tokenizers, normalizers
    bits = [
        (p.Whitespace(), n.NFKC(), None),
        (p.WhitespaceSplit(), n.NFD(), None),
        (p.Sequence([p.Punctuation("merged_with_previous"), p.Digits(False)]), n.NFKD(), None),
        (p.Sequence([p.Split(" ", "merged_with_next"), p.Punctuation("contiguous")]),
         n.Sequence([n.Lowercase(), n.Strip(True, True)]), None),
        (p.Split(Regex(r"\p{L}+"), "removed", invert=True), n.Sequence([n.NFD(), n.StripAccents()]), None),
        (p.Split(Regex("[aeiou ]"), "merged_with_previous", invert=True), n.Replace(Regex(r"\s+"), " "), None),
        (p.Split("a", "contiguous"), n.Strip(False, True), None),
        (p.Sequence([p.Split(Regex("^.|.$"), "isolated"), p.Split(Regex("(?=[0-9])"), "merged_with_next")]),
         n.Replace("e", ""), None),
        (p.Sequence([p.ByteLevel(add_prefix_space=True), p.Digits(True)]), None, decoders.ByteLevel()),
        (p.Metaspace(prepend_scheme="never", split=True), n.Prepend(">"), decoders.Sequence(
            [decoders.Metaspace(prepend_scheme="never"), decoders.Strip(">", 2, 0), decoders.Fuse(),
             decoders.Replace("e", "E")])),
        (None, n.Sequence([n.NFC(), n.Prepend("▁"), n.Replace(" ", "▁")]), decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.Metaspace(prepend_scheme="always")])),
    ]
    return {"odd%d" % i: (lambda b=b: odd(*b)) for i, b in enumerate(bits)}


PIPELINES = {"gpt2": gpt2, "gpt2-prefix": gpt2_prefix, "qwen2": qwen2, "llama3": llama3, "llama2": llama2,
             "mixtral": mixtral, "metaspace": metaspace, "deepseek-llm": deepseek_llm,
             "deepseek-v3": deepseek_v3, **odds()}


def build(name):
    """The tokenizer as loaded from the file that is committed, so that both sides read the same."""
    tok, added, merges = PIPELINES[name]()
    spec = json.loads(tok.to_str())
    if merges == "strings":
        spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
    return Tokenizer.from_str(json.dumps(spec)), spec, added


def run(tok, text):
    """ids, ids with the template, ids with special tokens left as letters ([] if the same)."""
    tok.encode_special_tokens = False
    ids = tok.encode(text, add_special_tokens=False).ids
    full = tok.encode(text, add_special_tokens=True).ids
    tok.encode_special_tokens = True
    letters = tok.encode(text, add_special_tokens=False).ids
    tok.encode_special_tokens = False
    return ids, full, letters


def case(tok, text):
    ids, full, letters = run(tok, text)
    c = {"text": text, "ids": ids}
    if full != ids:
        c["template"] = full
    if letters != ids:
        c["letters"] = letters
    c["decoded"] = tok.decode(full, skip_special_tokens=False)
    skipped = tok.decode(full, skip_special_tokens=True)
    if skipped != c["decoded"]:
        c["skipped"] = skipped
    return c


def random_ids(tok, rng):
    n = tok.get_vocab_size() + 3  # a few past the end
    return [rng.randrange(n) for _ in range(rng.randrange(1, 12))]


def byte_run_is_bad(tok, ids):
    """A run of byte tokens that is not UTF-8: the documented difference, see Tokenizer.Decode."""
    run_ = b""
    for i in ids + [-1]:
        t = tok.id_to_token(i) if i >= 0 else None
        if t is None and i >= 0:
            continue
        if t and len(t) == 6 and t.startswith("<0x"):
            run_ += bytes([int(t[3:5], 16)])
            continue
        try:
            run_.decode()
        except UnicodeDecodeError:
            return True
        run_ = b""
    return False


def decode_case(tok, rng):
    while True:
        ids = random_ids(tok, rng)
        if not byte_run_is_bad(tok, ids):
            return {"ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False)}


def dump(path, lines):
    with open(path, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(x, ensure_ascii=False, separators=(",", ":")) for x in lines)
                + "\n]\n")


def golden():
    for name in PIPELINES:
        tok, spec, added = build(name)
        with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(spec, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
        texts = corpus(added)
        if name.startswith("odd"):
            texts = texts[::2] + ["\u0130stanbul \u0130I\u0131 \u03a3\u03c3\u03c2", "aei ou  iou x aa"]
        rng = random.Random(3)
        cases = [case(tok, t) for t in texts] + [decode_case(tok, rng) for _ in range(60)]
        dump(os.path.join(HERE, name + ".golden.json"), cases)
        print(name, tok.get_vocab_size(), len(cases))


def random_text(rng, added):
    ranges = [(0x20, 0x7f), (0x20, 0x7f), (0, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700),
              (0x900, 0xe80), (0x1100, 0x1200), (0x2000, 0x2100), (0x2100, 0x2c00), (0x3000, 0x3100),
              (0x4e00, 0x9fff), (0xac00, 0xd7a4), (0xf900, 0xfb50), (0xff00, 0xffef), (0x1f300, 0x1fa00),
              (0x10000, 0x10fff), (0x1d400, 0x1d800), (0xe0000, 0xe0100)]
    out = []
    for _ in range(rng.randrange(1, 12)):
        k = rng.randrange(10)
        if k < 3:
            out.append(rng.choice(WORDS))
        elif k == 3:
            out.append(rng.choice([" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", " \n", "\u3000", "\u00a0"]))
        elif k == 4:
            out.append(rng.choice(added))
        elif k == 5:
            out.append(str(rng.randrange(10 ** rng.randrange(1, 9))))
        else:
            lo, hi = rng.choice(ranges)
            out.append("".join(chr(rng.randrange(lo, hi)) for _ in range(rng.randrange(1, 6))))
    return "".join(out)


def fuzz(n, path):
    rng = random.Random()
    with open(path, "w", encoding="utf-8") as f:
        for name in PIPELINES:
            tok, _, added = build(name)
            for _ in range(n // len(PIPELINES)):
                f.write(json.dumps({"name": name, **case(tok, random_text(rng, added))}) + "\n")
                f.write(json.dumps({"name": name, **decode_case(tok, rng)}) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--fuzz":
        fuzz(int(sys.argv[2]), sys.argv[3])
    else:
        golden()
