#!/usr/bin/env python3
"""Makes and serves what the chat template tests compare with.

    make.py golden [-v] [DIR]   rewrite snippets.json from snippets.py, -v lists those that raise;
                                with DIR, a folder of published templates, also rewrite
                                fixtures.json: the hash of every prompt
    make.py serve               render requests, one JSON object a line, from stdin to stdout

The reference is jinja2 set up as transformers sets it up for chat templates. serve needs jinja2
only. golden, when transformers is importable, also checks that it agrees with its own
render_jinja_template.

requirements: jinja2==3.1.6 (serve, golden), transformers==5.24.0 (optional, golden)
"""

import datetime
import functools
import hashlib
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = pathlib.Path(__file__).resolve().parent
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)
REASONING = ("reasoning_content", "thinking", "reasoning")


class Generation(jinja2.ext.Extension):
    """The generation tag: its body is rendered as a call block and put out."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("render_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def render_body(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    """The namespace global: no attribute may start with an underscore."""

    def __init__(*args, **kwargs):
        self, rest = args[0], args[1:]
        attrs = dict(*rest, **kwargs)
        for name in attrs:
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(self, attrs)

    def __setitem__(self, name, value):
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


class Dict:
    """The dict global, an instance so that the class cannot be reached."""

    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args):
        return dict.fromkeys(*args)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals.update(
        raise_exception=raise_exception,
        strftime_now=NOW.strftime,
        dict=Dict(),
        namespace=Namespace,
    )
    return env


def normalize(messages):
    """What apply_chat_template does to messages before the template sees them."""
    out = []
    for message in messages:
        message = {k: v for k, v in message.items() if v is not None}
        for name in REASONING:
            if name in message:
                value = message[name]
                message = {"thinking": value, **message, "reasoning_content": value}
                break
        out.append(message)
    return out


def chat_variables(chat):
    return {
        **chat.get("tokens", {}),
        **chat.get("extra", {}),
        "messages": normalize(chat["messages"]),
        "tools": chat.get("tools"),
        "documents": chat.get("documents"),
        "add_generation_prompt": chat.get("add_generation_prompt", False),
    }


@functools.lru_cache
def compiled(source):
    return environment().from_string(source)


def render(source, variables):
    """The text, or None where the reference raises."""
    try:
        return compiled(source).render(**variables)
    except Exception:
        return None


def check_transformers(source, chat, got):
    """Fails if transformers itself makes another prompt of a conversation."""
    try:
        from transformers.utils import chat_template_utils as hf
    except ImportError:
        return

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW

    hf.datetime = Clock
    kwargs = {**chat.get("tokens", {}), **chat.get("extra", {})}
    try:
        want = hf.render_jinja_template(
            conversations=[hf._normalize_chat_messages(chat["messages"])],
            tools=chat.get("tools"),
            documents=chat.get("documents"),
            chat_template=source,
            add_generation_prompt=chat.get("add_generation_prompt", False),
            **kwargs,
        )[0][0]
    except Exception:
        want = None
    if want != got:
        sys.exit(f"transformers and this script differ:\n{want!r}\n{got!r}")


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    (HERE / name).write_text(text, encoding="utf-8")


def golden_snippets():
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(HERE))
    import snippets

    out = [{"template": t, "output": render(t, snippets.X)} for t in snippets.SAME]
    failures = [s["template"] for s in out if s["output"] is None]
    for template in snippets.UNSUPPORTED:
        out.append({"template": template, "unsupported": True})
        if render(template, snippets.X) is None:
            sys.exit(f"the reference raises too: {template}")
    write("snippets.json", {"variables": snippets.X, "snippets": out})
    print(f"{len(out)} snippets, {len(failures)} of them raise")
    if "-v" in sys.argv:
        print(*failures, sep="\n")


def golden_fixtures(folder):
    chats = json.loads((HERE / "chats.json").read_text(encoding="utf-8"))
    out = {}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        prompts = {}
        for chat in chats:
            got = render(source, chat_variables(chat))
            check_transformers(source, chat, got)
            prompts[chat["name"]] = got if got is None else digest(got)
        out[path.name] = {"source": digest(source), "prompts": prompts}
    write("fixtures.json", out)
    print(f"{len(out)} templates, {len(chats)} conversations")


def digest(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def serve():
    for line in sys.stdin:
        request = json.loads(line)
        variables = request.get("variables")
        if variables is None:
            variables = chat_variables(request["chat"])
        got = render(request["template"], variables)
        print(json.dumps({"output": got}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["golden"]:
        golden_snippets()
        for folder in (a for a in sys.argv[2:] if a != "-v"):
            golden_fixtures(folder)
    else:
        sys.exit(__doc__)
