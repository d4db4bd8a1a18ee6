"""Small templates, one construct each, for make.py.

SAME: the Go renderer must give what the reference gives, text or error.
UNSUPPORTED: the reference renders these; the Go renderer must refuse them.

One line is one template, however long it is.
"""

X = {
    "s": "  Hello, World \n", "e": "", "n": 7, "z": 0, "neg": -7, "f": 2.5, "t": True, "no": False,
    "nil": None, "l": [3, 1, 2], "d": {"b": 1, "a": [1, 2.0, None, "x"], "items": 5},
    "u": "żółć 😀 <b>&'\"", "words": ["b", "A", "c", "a"], "big": 123456789012345678901234567890,
    "people": [{"name": "Bo", "age": 3, "tags": ["x"]}, {"name": "al", "age": 5},
               {"name": "Cy", "age": 3, "on": True}],
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": []}, {"v": 3, "kids": [{"v": 4}]}]}],
    "x": "outer",
}

_PLAIN = r"""
{{ s }}|{{ n }}|{{ f }}|{{ t }}|{{ nil }}|{{ l }}|{{ d }}|{{ missing }}|{{ u }}
{{ missing.attr }}
{{ missing["k"] }}
{{ d.missing }}|{{ d["missing"] }}|{{ l[9] }}|{{ nil.x }}|{{ n.x }}|{{ s.nope }}
{{ d.missing.deeper }}
{{ missing + 1 }}
{{ missing ~ "a" ~ nil ~ 1.0 ~ [1] }}
{{ missing == missing2 }}|{{ missing == nil }}|{{ missing != 1 }}
{{ missing < 1 }}
{{ missing is defined }}|{{ d.a is defined }}|{{ d.q is undefined }}|{{ missing is none }}
{{ [missing] }}|{{ missing|length }}|{{ missing|list }}|{{ 1 in missing }}
{{ missing() }}
{{ d.items() }}|{{ d.keys() }}|{{ d.values() }}
{{ d["items"] }}|{{ d.b }}|{{ d["keys"] is callable }}
{{ d.get("b") }}|{{ d.get("q") }}|{{ d.get("q", "def") }}
{{ d.get("q", default="x") }}
{{ d.get("q", 1) }}|{{ d.copy() == d }}
{{ l.append(1) }}
{{ d.update({}) }}
{{ d.pop("b") }}
{{ l.append is defined }}|{{ l.append }}|{{ l.count(1) }}|{{ l.index(2) }}|{{ l.copy() }}
{{ l.index(99) }}
{{ 1 + 2 * 3 - 4 / 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % -3 }}|{{ -7 % 3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}
{{ 7.5 // 2 }}|{{ -7.5 % 2 }}|{{ 7.5 % -2 }}|{{ 1e16 }}|{{ 1e15 }}|{{ 0.0001 }}|{{ 0.00001 }}|{{ 1.10 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0.0 }}
{{ 2 ** 3 ** 2 }}|{{ -2 ** 2 }}|{{ -n }}|{{ +n }}|{{ --n }}|{{ not not n }}
{{ big + 1 }}|{{ big * big }}|{{ big // 7 }}|{{ big % 7 }}|{{ -big }}|{{ big == big }}|{{ 2 ** 100 }}
{{ True + True }}|{{ t * 3 }}|{{ 1 == 1.0 }}|{{ 1 == True }}|{{ "1" == 1 }}|{{ big > 1.5 }}
{{ 9223372036854775807 + 1 }}|{{ -9223372036854775808 - 1 }}|{{ 4611686018427387904 * 2 }}
{{ "a" + 1 }}
{{ "a" + nil }}
{{ "a" * 3 }}|{{ 2 * "ab" }}|{{ [1] * 2 }}|{{ (1,) * 2 }}|{{ "a" * -1 }}|{{ [1] + [2] }}|{{ (1,) + (2, 3) }}
{{ [1] + (2,) }}
{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ 3 > 2 >= 2 != 5 }}|{{ 1 < 2 == 2 }}
{{ "a" < "b" }}|{{ "Z" < "a" }}|{{ [1, 2] < [1, 3] }}|{{ (1,) < (1, 2) }}
{{ "a" < 1 }}
{{ nil < 1 }}
{{ "el" in s }}|{{ "q" not in s }}|{{ 1 in l }}|{{ "a" in d }}|{{ 5 in d }}|{{ "x" in "" }}|{{ "" in "x" }}
{{ 1 in "123" }}
{{ 1 in 5 }}
{{ n and e }}|{{ e or "dflt" }}|{{ z or nil }}|{{ n and "yes" or "no" }}|{{ not e }}
{{ "yes" if n else "no" }}|{{ "yes" if e }}|{{ ("a" if no else "b") ~ "c" }}|{{ 1 if 0 else 2 if 0 else 3 }}
{{ ("x" if no).y }}
{{ l[0] }}|{{ l[-1] }}|{{ l[1:] }}|{{ l[:-1] }}|{{ l[::-1] }}|{{ l[::2] }}|{{ l[5:1] }}|{{ l[-2:] }}|{{ l[2:0:-1] }}
{{ u[0] }}|{{ u[-1] }}|{{ u[::-1] }}|{{ u[2:4] }}|{{ u[5:6] }}|{{ "abc"[1] }}|{{ "abc"[-5:2] }}|{{ (1,2,3)[1:] }}
{{ l[::0] }}
{{ d[1:2] }}
{{ nil[1:] }}
{{ l["x"] }}|{{ l[1.0] }}|{{ l[true] }}|{{ l.0 }}|{{ d[[1]] }}|{{ l[99999999999999999999] }}
{{ "\n\t\\\"\'\x41\u00e9\U0001F600\101\q" }}|{{ 'it''s' }}|{{ "a" "b" 'c' }}|{{ "\é\\é" }}
{{ "unterminated }}
{{ [1, 2.0, "a", "it's", 'q"', nil, true, (1,), (), {"k": "v", 1: 2, none: 3}] }}
{{ "tab\t nl\n bs\\ \x00 \x7f é 😀 \u200b \u2028" | list }}
{{ {"a": 1, "a": 2, 1: "i", 1.0: "f", true: "b"} }}|{{ {} }}|{{ {(1, 2): 3} }}|{{ {"k": 1}.k }}|{{ {1: 2}[1] }}
{{ {[1]: 2} }}
{{ () }}|{{ (1) }}|{{ (1,) }}|{{ 1, 2 }}|{{ [1, 2,] }}|{{ {"a": 1,} }}
{{ 1_000 }}|{{ 0x1F }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1e3 }}|{{ 1.5e-7 }}|{{ 12.50 }}|{{ 1E5 }}
{{ 10 / 4 }}|{{ 10 / 5 }}|{{ 1 / 3 }}|{{ 1e300 * 1e5 }}|{{ 3.0 }}|{{ 1e22 }}|{{ 123456789.123456789 }}
{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ "xxaxx".strip("x") }}|{{ "abcba".lstrip("ab") }}|{{ "a".strip(nil) }}
{{ "\x1c a\u3000\x85".strip() }}|{{ "a\xa0".rstrip() }}|
{{ "a,b,,c".split(",") }}|{{ "a,b,c".split(",", 1) }}|{{ "a,b,c".rsplit(",", 1) }}|{{ " a  b c ".split() }}|{{ "".split() }}|{{ "".split(",") }}
{{ " a  b  c ".split(none, 1) }}|{{ " a  b  c ".rsplit(none, 1) }}|{{ "a b c".split(maxsplit=1) }}|{{ "a-b".split(sep="-") }}
{{ "abc".split("", 1) }}
{{ "</think>x</think>y".split("</think>")[-1] }}|{{ "no".split("</think>")[0].split("<think>")[-1] }}|{{ "a</t>b".split("</t>", 1)[1] }}
{{ "abc".startswith("ab") }}|{{ "abc".endswith(("x", "c")) }}|{{ "abc".startswith("b", 1) }}|{{ "abc".startswith(()) }}|{{ "abc".endswith("b", 0, 2) }}
{{ "abc".startswith(1) }}
{{ "aXbX".replace("X", "-") }}|{{ "aXbX".replace("X", "-", 1) }}|{{ "ab".replace("", ".") }}|{{ "abc".replace("b", "") }}
{{ "Hello wOrld".upper() }}|{{ "Hello".lower() }}|{{ "hello wORLD it's".title() }}|{{ "hELLO".capitalize() }}|{{ "straße ÀÉ ǆ".upper() }}|{{ "ÀÉİ".lower() }}
{{ "abcb".find("b") }}|{{ "abcb".rfind("b") }}|{{ "abc".find("q") }}|{{ "żółw".find("w") }}|{{ "abcb".index("b", 2) }}|{{ "aaa".count("a") }}|{{ "abc".count("") }}
{{ "abc".index("q") }}
{{ ",".join(["a", "b"]) }}|{{ "".join(words) }}|{{ "-".join("abc") }}|{{ ",".join([]) }}
{{ ",".join([1]) }}
{{ ",".join(l|map("string")) }}|{{ ", ".join(d.keys()) }}
{{ "a\nb\r\nc\x0bd".splitlines() }}|{{ "a\nb\n".splitlines(true) }}|{{ "abc".removeprefix("a").removesuffix("c") }}|{{ "a=b=c".partition("=") }}|{{ "a=b=c".rpartition("=") }}|{{ "a".partition("=") }}
{{ "5".zfill(3) }}|{{ "-5".zfill(4) }}|{{ "a".ljust(3) }}|{{ "a".rjust(3, ".") }}|{{ "ab".center(5) }}|{{ "abc".center(6, "*") }}|
{{ "12".isdigit() }}|{{ "".isdigit() }}|{{ "aB".isalpha() }}|{{ "a1".isalnum() }}|{{ " \n".isspace() }}|{{ "ABC1".isupper() }}|{{ "aé1".islower() }}|{{ "é".isascii() }}
{{ "{} and {}".format(1, "b") }}|{{ "{1}{0}".format("a", "b") }}|{{ "{x}".format(x=5) }}|{{ "{{}}".format() }}
{{ "{}".format() }}
{{ "{} {0}".format(1) }}
{{ "%s is %d (%r)" % ("a", 5, "q") }}|{{ "%5.2f|%-5s|%05d" % (3.14159, "ab", 42) }}|{{ "100%%" % () }}|{{ "%s" % nil }}|{{ "%s" % [1] }}|{{ "%d" % 3.7 }}
{{ "%s %s" % "a" }}
{{ "%s" % ("a", "b") }}
{{ "%d" % "x" }}
{{ "%s, %s!"|format("a", 1) }}
{{ s|trim }}|{{ "xax"|trim("x") }}|{{ missing|trim }}|{{ nil|trim }}|{{ 5|trim }}
{{ l|length }}|{{ u|length }}|{{ d|count }}|{{ ""|length }}
{{ 5|length }}
{{ nil|length }}
{{ l|join }}|{{ l|join(", ") }}|{{ people|join("/", attribute="name") }}|{{ "abc"|join("-") }}|{{ [1, nil, missing]|join(",") }}|{{ d|join("+") }}
{{ 5|join }}
{{ "heLLo"|upper }}|{{ "HE"|lower }}|{{ "hello-wORLD (x)y it's"|title }}|{{ "hELLO"|capitalize }}|{{ 1.5|upper }}|{{ nil|lower }}
{{ "a.b.c"|replace(".", "") }}|{{ "aaa"|replace("a", "b", 2) }}|{{ 121|replace(1, "x") }}
{{ "a"|replace("a") }}
{{ missing|default("d") }}|{{ nil|default("d") }}|{{ e|default("d", true) }}|{{ missing|d }}|{{ nil|d("q", boolean=true) }}|{{ n|default("x") }}
{{ l|first }}|{{ l|last }}|{{ []|first }}|{{ "abc"|last }}|{{ d|first }}|{{ d|last }}|{{ missing|first }}
{{ []|first is defined }}
{{ (l|first).x.y }}
{{ d|items|list }}|{{ missing|items|list }}|{{ d|dictsort }}|{{ {"b": 1, "A": 2}|dictsort }}|{{ {"b": 1, "A": 2}|dictsort(true) }}|{{ {"b": 1, "a": 2}|dictsort(by="value", reverse=true) }}
{{ l|items|list }}
{{ l|items is defined }}
{{ people|map(attribute="name")|list }}|{{ people|map(attribute="on")|list }}|{{ people|map(attribute="on", default="-")|join(",") }}|{{ people[:1]|map(attribute="tags.0")|list }}
{{ people|map(attribute="tags.0")|list }}
{{ words|map("upper")|list }}|{{ words|map("replace", "a", "X")|join }}|{{ missing|map("upper")|list }}|{{ []|map("nope")|list }}
{{ words|map("nope")|list }}
{{ words|map()|list }}
{{ people|selectattr("on")|map(attribute="name")|list }}|{{ people|rejectattr("on")|map(attribute="name")|list }}|{{ people|selectattr("age", "equalto", 3)|map(attribute="name")|join(",") }}|{{ people|selectattr("age", ">", 3)|list|length }}
{{ people|selectattr("tags", "defined")|list }}|{{ people|rejectattr("age", "in", [3])|map(attribute="age")|list }}
{{ [1, 0, 2, none, ""]|select|list }}|{{ [1, 2, 3, 4]|select("even")|list }}|{{ [1, 2, 3]|reject("odd")|list }}|{{ words|reject("equalto", "b")|join(", ") }}
{{ "Tools: " + words | reject('equalto', 'b') | join(", ") + "\n" }}
{{ [1]|select("nope")|list }}
{{ 5|select|list }}
{{ l|select is iterable }}|{{ (l|select) and "true" }}|{{ l|map("string")|first }}
{{ l|select|length }}
{{ l|sort }}|{{ l|sort(reverse=true) }}|{{ words|sort }}|{{ words|sort(case_sensitive=true) }}|{{ people|sort(attribute="name")|map(attribute="name")|list }}|{{ people|sort(attribute="age,name", reverse=true)|map(attribute="name")|list }}
{{ [1, "a"]|sort }}
{{ words|unique|list }}|{{ [1, 1.0, 2, true]|unique|list }}|{{ ["a", "A"]|unique(true)|list }}|{{ people|unique(attribute="age")|map(attribute="name")|list }}
{{ [[1]]|unique|list }}
{{ l|sum }}|{{ people|sum(attribute="age") }}|{{ []|sum }}|{{ [1, 2.5]|sum(start=10) }}|{{ [[1], [2]]|sum(start=[]) }}
{{ ["a"]|sum }}
{{ l|min }}|{{ l|max }}|{{ words|min }}|{{ words|max }}|{{ []|min }}|{{ people|max(attribute="age") }}
{{ l|reverse|list }}|{{ "abc"|reverse }}|{{ d|reverse|list }}|{{ l|select|reverse }}
{{ "12"|int }}|{{ "1.9"|int }}|{{ "x"|int }}|{{ "x"|int(5) }}|{{ 3.99|int }}|{{ -3.99|int }}|{{ true|int }}|{{ nil|int }}|{{ " 1_0 "|int }}|{{ "1__0"|int(-1) }}|{{ "+5"|int }}|{{ []|int }}
{{ missing|int }}
{{ "1.5"|float }}|{{ "x"|float }}|{{ 3|float }}|{{ "1e3"|float }}|{{ nil|float(2) }}|{{ " -.5 "|float }}|{{ "5."|float }}|{{ "."|float }}
{{ 2.5|round }}|{{ 3.5|round }}|{{ 2.675|round(2) }}|{{ 42.55|round(1, "floor") }}|{{ 42.51|round(1, "ceil") }}|{{ 5|round }}|{{ 5|round(method="ceil") }}|{{ 1.1|round(0, "ceil")|int }}
{{ -3|abs }}|{{ -2.5|abs }}|{{ true|abs }}
{{ "x"|abs }}
{{ 5|string ~ "a" }}|{{ [1]|string }}|{{ missing|string is string }}|{{ nil|string|length }}
{{ u|e }}|{{ u|escape|length }}|{{ u|safe }}|{{ (u|safe)|e }}|{{ u|forceescape }}|{{ [u|safe] }}
{{ "<" + ("&"|safe) }}|{{ ("<"|safe) + "<" }}|{{ ("<"|safe) ~ "<" }}|{{ ("a"|safe) == "a" }}|{{ ("<a>"|safe).strip("<") + "<" }}|{{ ("<"|safe) is string }}|{{ ["<"|safe]|join("<") }}
{{ l|batch(2)|list }}|{{ l|batch(2, "-")|list }}|{{ [1,2,3,4,5,6,7]|slice(3)|list }}|{{ [1,2,3,4]|slice(3, "-")|list }}
{{ "a\nb\n\nc"|indent }}|{{ "a\nb"|indent(2, true) }}|{{ "a\n\nb"|indent(1, blank=true) }}|{{ "a\nb"|indent("> ") }}|{{ ""|indent }}|{{ "a\n"|indent }}|
{{ 5|indent }}
{{ d|tojson }}|{{ u|tojson }}|{{ 1.0|tojson }}|{{ nil|tojson }}|{{ t|tojson }}|{{ [1, "a", {}, [], ()]|tojson }}|{{ big|tojson }}
{{ d|tojson(indent=2) }}
{{ {"b": {"z": [], "y": {}}, "a": [1, [2, {"k": none}]]}|tojson(indent=4, sort_keys=true) }}
{{ {"k": [1, 2], "é": "😀\x7f"}|tojson(separators=(",", ":")) }}|{{ "é😀\x7f\x1f/<>&'"|tojson(ensure_ascii=true) }}|{{ "é"|tojson(true) }}|{{ [1]|tojson(indent="\t") }}|{{ [1,[2]]|tojson(indent=0) }}|{{ [1]|tojson(indent=-1) }}
{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}|{{ {"b": 1, "a": 2}|tojson(sort_keys=true) }}|{{ "\b\f\n\r\t\"\\\u2028"|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ missing|tojson }}
{{ l|select|tojson }}
{{ d|tojson(2, 3, 4, 5, 6) }}
{{ [1e16, 1e-5, -0.0, 0.1, 100.0]|tojson }}|{{ -0.0 }}
{{ n is number }}|{{ t is number }}|{{ f is float }}|{{ n is integer }}|{{ t is integer }}|{{ t is boolean }}|{{ s is string }}|{{ d is mapping }}|{{ l is mapping }}
{{ s is sequence }}|{{ d is sequence }}|{{ l is sequence }}|{{ n is sequence }}|{{ missing is sequence }}|{{ d.items() is sequence }}|{{ range(3) is sequence }}
{{ s is iterable }}|{{ d is iterable }}|{{ n is iterable }}|{{ nil is iterable }}|{{ missing is iterable }}|{{ namespace() is iterable }}
{{ nil is none }}|{{ n is not none }}|{{ t is true }}|{{ 1 is true }}|{{ no is false }}|{{ n is odd }}|{{ n is even }}|{{ n is divisibleby(7) }}|{{ n is divisibleby 2 }}
{{ n is eq 7 }}|{{ n is equalto(7) }}|{{ n is ne 7 }}|{{ n is gt 3 }}|{{ n is lessthan 3 }}|{{ n is ge 7 }}|{{ n is in [7] }}|{{ n is in([1]) }}|{{ "a" is lower }}|{{ "A" is upper }}|{{ "1" is upper }}
{{ nil is sameas none }}|{{ t is sameas true }}|{{ n is callable }}|{{ range is callable }}|{{ missing is callable }}|{{ "upper" is filter }}|{{ "nope" is filter }}|{{ "odd" is test }}|{{ "a"|safe is escaped }}
{{ "a" is odd }}
{{ n is nope }}
{{ n|nope }}
{% if no %}{{ n|nope }}{% endif %}ok
{% if t %}{{ n|nope }}{% endif %}
{% if no %}{% for q in l %}{{ n|nope }}{% endfor %}{% endif %}ok
{{ (n|nope) if no else "ok" }}
{{ n is defined and n > 3 and n is not string }}|{{ not n is defined }}|{{ n is not defined or e }}
{{ n is string is string }}
{{ range(3)|list }}|{{ range(1, 4)|list }}|{{ range(5, 0, -2)|list }}|{{ range(3) }}|{{ range(0, 6, 2) }}|{{ range(3)[1] }}|{{ range(3)[-1] }}|{{ range(3)|last }}|{{ range(3)|length }}
{{ range(100001) }}
{{ range(1, 2, 0) }}
{{ dict(a=1, b=2) }}|{{ dict({"x": 1}, y=2) }}|{{ dict([(1, 2)]) }}|{{ dict() }}
{{ strftime_now("%Y-%m-%d %H:%M:%S %B %b %A %a %j %y %p %I %e %-d %%") }}
{{ raise_exception("no") }}
{{ joiner is callable }}{% set j = joiner("; ") %}{{ j() }}a{{ j() }}b{{ j() }}
{% set c = cycler("a", "b") %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.current }}
{% for i in l %}{{ i }}{% endfor %}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }};{% endfor %}
{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% if loop.previtem and loop.previtem > i %}down{% endif %}{% endfor %}
{% for i in l %}{{ loop.cycle("a", "b") }}{{ loop.changed(i > 1) }}{% endfor %}
{% for i in l if i > 1 %}{{ i }}:{{ loop.index }}/{{ loop.length }}{{ loop.last }};{% endfor %}
{% for k, v in d.items() if k != "b" %}{{ k }}={{ v }}{{ loop.previtem }};{% endfor %}
{% for k, v in d|items %}{{ k }}{{ loop.last }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}|{% for i in l %}x{% else %}empty{% endfor %}
{% for i in l %}{% continue %}{% else %}quirk{% endfor %}
{% for i in l %}{% if loop.index == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}|{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{% break %}
{% for i in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% for i in l %}{% for j in [] %}{% else %}{% break %}{% endfor %}x{% endfor %}done
{% for i in 5 %}{% endfor %}
{% for i in missing %}x{% else %}none{% endfor %}
{% for a, b in [(1, 2), [3, 4], "ab"] %}{{ a }}{{ b }};{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for c in "añ😀" %}{{ c }},{% endfor %}
{% for n in tree recursive %}{{ n.v }}@{{ loop.depth }}{% if n.kids %}({{ loop(n.kids) }}){% endif %}{% endfor %}
{% for i in l %}{{ loop(l) }}{% endfor %}
{% for i in l %}{{ loop }}{% endfor %}
{% for loop in l %}{% endfor %}
{% for i in l %}{% set loop = 1 %}{% endfor %}
{{ loop }}|{{ loop is defined }}
{% for i in l %}{% for j in [1] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for i in l %}{% set q = i %}{{ q }}{% endfor %}{{ q }}
{% set q = 1 %}{% for i in l %}{{ q }}{% set q = i %}{{ q }};{% endfor %}{{ q }}
{% for i in l %}{{ x }}{% set x = i %}{{ x }};{% endfor %}{{ x }}
{% for i in [1] %}{{ x }}{% endfor %}{% set x = 5 %}{{ x }}
{{ x }}{% for i in [1] %}{{ x }}{% endfor %}{% set x = 5 %}{{ x }}
{% if no %}{% set x = 1 %}{% endif %}{{ x }}|{% if t %}{% set x = 2 %}{% endif %}{{ x }}
{% if no %}{% set y = 1 %}{% elif t %}{% set y = 2 %}{% else %}{% set y = 3 %}{% endif %}{{ y }}
{% for i in l %}{% if i == 1 %}{% set z = "set" %}{% endif %}{{ z }},{% endfor %}{{ z }}
{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% set x = "late" %}{{ m() }}
{% set ns = namespace(n=0, l=[]) %}{% for i in l %}{% set ns.n = ns.n + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }}{{ ns.l }}{{ ns.missing }}|{{ ns }}
{% set ns = namespace({"a": 1}, b=2) %}{{ ns.a }}{{ ns["b"] }}{{ ns.c is defined }}{% set ns.c = 1 %}{{ ns.c is defined }}
{% set ns = namespace(_a=1) %}
{% set ns = namespace() %}{% set ns._a = 1 %}
{% set d.x = 1 %}
{% set nope.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set (p, q) = "xy" %}{{ p }}{{ q }}
{% set ns = namespace() %}{% set ns.a, k = [1, 2] %}{{ ns.a }}{{ k }}
{% set a, b = 1 %}
{% set t3 = 1, %}{{ t3 }}{% set true = 1 %}
{% set b %}  body {{ n }} {% endset %}[{{ b }}]{% set b2 | trim | upper %} x {% endset %}[{{ b2 }}]
{% set a %}{% set inner = 1 %}{% endset %}{{ inner }}|{{ a is string }}
{% filter upper %}abc {{ n }}{% endfilter %}|{% filter replace("a", "b")|upper %}aa{% endfilter %}
{% filter length %}abc{% endfilter %}
{% with a = 1, b = n %}{{ a }}{{ b }}{% set a = 2 %}{{ a }}{% endwith %}{{ a }}
{% with x = x ~ "!" %}{{ x }}{% endwith %}{{ x }}|{% with %}{{ n }}{% endwith %}
{% print 1, "a" %}
{% macro m(a, b=2, c="x") %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c="y") }}{{ m(a=5) }}{{ m() }}
{% macro m(a, b=a) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }}{{ m() }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(q=2) }}
{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k="v") }}{{ m() }}
{% macro m(a, a) %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% macro m() %}{{ m2() }}{% endmacro %}{% macro m2() %}two{% endmacro %}{{ m() }}
{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro m() %}{{ caller("x") }}{% endmacro %}{% call(v) m() %}[{{ v }}{{ n }}]{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}
{% macro m() %}{% endmacro %}{% call m() %}x{% endcall %}
{% macro m(a) %}{% set x = a %}{{ x }}{% endmacro %}{{ m("in") }}{{ x }}
{% macro m() %} a {% endmacro %}{{ m()|trim }}|{{ m() ~ "b" }}|{{ m() is string }}|{{ m }}|{{ m.name2 }}
{% set args = [1, 2] %}{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*args) }}{{ m(**{"a": 3, "b": 4}) }}{{ m(1, **{"b": 5}) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}
{{ m() }}{% macro m() %}early{% endmacro %}
{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}
{% macro m(q) %}{% for i in q %}{{ loop.index }}{% if i is iterable %}{{ m(i) }}{% endif %}{% endfor %}{% endmacro %}{{ m([1, [2, 3], 4]) }}
{% generation %}out {{ n }}{% endgeneration %}|{% for i in l %}{% generation %}{{ i }}{{ loop.index }}{% set k = i %}{% endgeneration %}{{ k }}{% endfor %}
{% for i in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% raw %}{{ not }} {% if %}{# c #}{% endraw %}|{%- raw -%}  a  {%- endraw -%}  b
a {# comment {{ x }} #} b{#- trim -#}  c
a {#- unterminated

{{ "}}" }}{{ {"a": {"b": 1}} }}{{ "{%" }}{% if "%}" %}y{% endif %}{{ '{{' }}
{{ }}
{{ n
{% if n %}{% endfor %}
{% nope %}
{% if %}x{% endif %}
{{ n n }}
{{ n. }}
{{ (1, 2 }}
{{ [1, 2) }}
{{ 1 + }}
{{ not }}
{{ f(x=1, 2) }}
{{ dict(a=1, a=2) }}
{{ @ }}
{% for x l %}{% endfor %}
{% set 1 = 2 %}
{% set x.y.z = 2 %}
{% set x = %}
{% for x.y in l %}{% endfor %}
{% macro 1() %}{% endmacro %}
{% if a = 1 %}{% endif %}
{% else %}
{%if n%}{{n}}{%endif%}{{-n-}}{{n|string|length}}
{% if n: %}colon{% endif %}{% for i in l: %}{{ i }}{% endfor %}
{{ n if n > 3 else "x" if e else "y" }}|{{ [i] if i is defined else [0] }}
{{ "a" if true }}{{ ("a" if false) is defined }}
{% if no %}1{% elif e %}2{% elif n %}3{% else %}4{% endif %}
{{ d.a[0] }}{{ d["a"][3] }}{{ people[0].tags[0] }}{{ people[-1]["name"] }}
{{ people[0].name.upper().lower()[0] }}
{{ n|string|upper|replace("7", "x") ~ "y" }}|{{ -5|abs }}|{{ 2 * 3|string }}
{{ "a" ~ 1 + 2 }}
{{ "a" ~ 1 + "2" }}|{{ 1 ~ 2 * 3 }}|{{ "a" ~ "b" == "ab" }}
{{ 10 - 3 - 2 }}|{{ 100 / 10 / 2 }}|{{ 2 * (3 + 4) }}|{{ 7 - -2 }}
{{ not 1 == 2 }}|{{ not (n and e) }}|{{ 1 in [1] and 2 not in [1] }}|{{ not 1 in [2] }}
{{ "".join(["a"] * 3) ~ "|".join(("x", "y")) }}|{{ ["a", "b"] == ["a", "b"] }}|{{ {"a": 1} == {"a": 1.0} }}|{{ (1,) == [1] }}
{{ e.x }}|{{ e[0] }}|{{ e[:1] }}|{{ nil["a"] }}
{{ messages[0].role }}
{{ u.upper() }}|{{ u|length }}|{{ u.split(" ")[0] }}|{{ u|tojson }}|{{ [u] }}
{{ [1, [2, [3, {"a": (4,)}]]] | string | length }}|{{ [[], [[]]] }}
{{ words | map("length") | sum }}|{{ words | join("") | list | sort | unique | join }}
{% set content = "a</think>b" %}{% if "</think>" in content %}{% set content = content.split("</think>")[-1].lstrip("\n") %}{% endif %}{{ content }}
{% for m in people[::-1] %}{% set idx = (people|length - 1) - loop.index0 %}{{ idx }}{{ m.name }}{% endfor %}
{% for m in people %}{% if (m.age == 3) != (loop.index0 % 2 == 0) %}{{ raise_exception("alternate") }}{% endif %}{% endfor %}ok
{% for m in people %}{% if (m.age == 3) == (loop.index0 % 2 == 0) %}{{ raise_exception("alternate") }}{% endif %}{% endfor %}ok
"""

# Templates whose point is the white space between lines.
_BLOCKS = [
    "{% if n %}\n  indented\n{% endif %}\nafter\n",
    "  {% if n %}lstrip{% endif %}  \n  {%+ if n %}kept{% endif %}\n",
    "{{ n }}  \n  {{- n -}}  \n  end\n\n",
    "a\n{%- if n -%}\n  b\n{%- endif -%}\nc",
    "{% if n +%}\nx{% endif %}\n",
    "{% set q = 1 %}\n\ntwo newlines\n    {# c #}  \nx\t{% if n %}tab{% endif %}\n",
    "x {% if n %}\n\ty\n\t{% endif %}z\r\nw\r{{ n }}\r\n",
    "{# a #}\n{#- b -#}\n {# c #} d\n",
    "\n{%- for i in l %}\n  {{ i }},\n{%- endfor %}\n!",
    "  {# c #}{% if n %}same line{% endif %}",
    "  {{ n }}{% if n %}\n{% endif %}",
    "{% raw %}\n  {{ x }}\n  {% endraw %}\n y",
    "{% raw +%}x{% endraw %}",
    "{%- raw %} {%- endraw +%}\nx",
    "a\x1c {%- if n %}\u3000{% endif %}",
    "\u3000{% if n %}x{% endif %}",
    "{{ '''a''' }}",
    "{{ 'a\nb' }}",
    "",
    "\n",
    "\n\n",
    "plain { text } with % and # {",
    "{{ n -}}\n\n  x",
    "{% if n -%}\n\n  x\n {%- endif %}\n\n",
    "{%\n  if n\n%}x{%\n endif %}",
    "{{ {'a': {}}['a'] }}{{ n}}}",
    "{% if n %}{# c %}{{ }} #}x{% endif %}",
    "{#}#}a",
    "{#-#}a",
    "{##}a",
    "{%-%}",
    "{{-}}",
]

SAME = _PLAIN.strip().split("\n") + _BLOCKS

UNSUPPORTED = [
    "{% block a %}{% endblock %}",
    "{% autoescape true %}{{ u }}{% endautoescape %}",
    "{{ 'abc def'|wordcount }}",
    "{{ people|groupby('age') }}",
    "{{ 'a'|attr('upper') is defined }}",
    "{{ l|select }}",
    "{{ s.strip }}",
    "{{ 'a'.encode() }}",
    "{{ 'a'.casefold() }}",
    "{{ '%x' % 255 }}",
    "{{ '{:>5}'.format('a') }}",
    "{{ '\\N{BULLET}' }}",
    "{{ n.real }}",
    "{{ n.__class__ }}",
    "{{ 1e400 }}",
    "{{ 'ΑΣ'.lower() }}",
    "{{ n is sameas 7 }}",
    "{{ dict.fromkeys([1]) }}",
    "{{ '10'|int(base=16) }}",
    "{{ strftime_now('%G') }}",
    "{% set é = 1 %}{{ é }}",
    "{% set ns = namespace() %}{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}"
    "{% set ns.m = m %}{% endfor %}{{ ns.m() }}",
    "{{ d.items }}",
    "{{ lipsum }}x",
    "{{ n.__class__ is defined and false }}",
    "{{ lipsum is defined }}",
    "{{ ('a'|safe).replace('a', 'b') }}",
    "{{ range(9)[1:3] }}",
    "{{ 2.5|round(-1) }}",
]
