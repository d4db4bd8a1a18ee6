"""Writes moering/_capi.py, the ctypes layer, from capi/moering.h.

    python3 generate.py           # writes
    python3 generate.py --check   # fails if what is there is not what would be written

The header is written in a few forms only, and what is not understood is an error.
"""

import argparse
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
HEADER = HERE.parent.parent / "capi" / "moering.h"
OUTPUT = HERE / "moering" / "_capi.py"

SCALARS = {
    "int32_t": "c_int32",
    "uint32_t": "c_uint32",
    "int64_t": "c_int64",
    "uint64_t": "c_uint64",
    "size_t": "c_size_t",
    "float": "c_float",
    "mr_status": "c_int32",
}


class Header:
    def __init__(self, text: str) -> None:
        self.version = re.findall(r"#define MR_API_VERSION MR_VERSION\((\d+), (\d+)\)", text)[0]
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        text = re.sub(r"#define (?:[^\n]*\\\n)*[^\n]*\n", "\n", text)
        self.handles = re.findall(r"typedef struct (\w+) \1;", text)
        self.callbacks = re.findall(r"typedef (\w+) \(\*(\w+)\)\(([^)]*)\);", text)
        self.structs = re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", text, flags=re.DOTALL)
        self.enums = re.findall(r"enum \{(.*?)\};", text, flags=re.DOTALL)
        self.functions = re.findall(r"MR_API ([\w ]+?[ *]+)(\w+)\(([^)]*)\);", text)
        if text.count("MR_API ") != len(self.functions):
            sys.exit("generate.py: a declaration with MR_API is not understood")
        if len(re.findall(r"typedef struct \w+ \{", text)) != len(self.structs):
            sys.exit("generate.py: a struct is not understood")
        self.struct_names = {name for name, _ in self.structs}
        self.callback_names = {name for _, name, _ in self.callbacks}

    def ctype(self, declared: str, sized: bool = False) -> str:
        """The ctypes expression of a C type. A sized string is not cut at a NUL."""
        t = " ".join(declared.replace("*", " * ").split())
        plain = t.replace("const ", "").replace(" const", "")
        base, stars = plain.replace(" *", ""), plain.count("*")
        if base in self.handles and base not in self.struct_names:
            base, stars = "void", stars  # handles are numbers
        if base == "void":
            if stars == 0:
                return "None"
            inner, stars = "c_void_p", stars - 1
        elif base == "char":
            if stars == 0:
                return "c_char"
            const = t.startswith("const ")
            text = const and not sized and t != "const char * *"
            inner, stars = ("c_char_p" if text else "c_void_p"), stars - 1
        elif base in self.struct_names or base in self.callback_names:
            inner = base
        elif base in SCALARS:
            inner = SCALARS[base]
        else:
            sys.exit(f"generate.py: the type {declared!r} is not understood")
        for _ in range(stars):
            inner = f"POINTER({inner})"
        return inner

    def fields(self, body: str) -> list[tuple[str, str]]:
        out: list[tuple[str, str, str]] = []
        for line in body.split(";"):
            line = line.strip()
            if not line:
                continue
            match = re.fullmatch(r"([\w ]+?[ *]+(?:const \*)?)(\w+)(?:\[(\d+)\])?", line)
            if match is None:
                sys.exit(f"generate.py: the field {line!r} is not understood")
            out.append((match[2], match[1], match[3] or ""))
        names = {name for name, _, _ in out}
        return [
            (
                name,
                f"{self.ctype(t)} * {count}" if count else self.ctype(t, name + "_size" in names),
            )
            for name, t, count in out
        ]

    def arguments(self, text: str) -> list[str]:
        if text.strip() in ("void", ""):
            return []
        out = []
        for part in text.split(","):
            match = re.fullmatch(r"(.*?[ *])(\w+)", " ".join(part.split()))
            if match is None:
                sys.exit(f"generate.py: the argument {part!r} is not understood")
            out.append(self.ctype(match[1]))
        return out


def python_type(ctype: str) -> str:
    """What a field of a structure gives when it is read."""
    if ctype.startswith("POINTER") or ctype.startswith("mr_"):
        return "Any"
    if "c_char *" in ctype:
        return "bytes"
    special = {"c_float": "float", "c_char_p": "bytes | None", "c_void_p": "int | None"}
    return special.get(ctype, "int")


def render(h: Header) -> str:
    out = [
        '"""The functions and structs of moering.h. Written by generate.py: do not edit."""',
        "",
        "from __future__ import annotations",
        "",
        "from ctypes import (",
        *(
            f"    {name},"
            for name in (
                "CDLL",
                "CFUNCTYPE",
                "POINTER",
                "Structure",
                "c_char",
                "c_char_p",
                "c_float",
                "c_int32",
                "c_int64",
                "c_size_t",
                "c_uint32",
                "c_uint64",
                "c_void_p",
                "sizeof",
            )
        ),
        ")",
        "from typing import Any, ClassVar",
        "",
    ]
    out.extend([f"API_VERSION = ({h.version[0]}, {h.version[1]})", ""])
    for body in h.enums:
        value = 0
        for item in body.split(","):
            name, _, given = (part.strip() for part in item.partition("="))
            if not name:
                continue
            value = int(given) if given else value
            out.append(f"{name} = {value}")
            value += 1
        out.append("")
    def struct(name: str, body: str) -> None:
        fields = h.fields(body)
        out.extend(["", f"class {name}(Structure):"])
        out.extend(f"    {field}: {python_type(t)}" for field, t in fields)
        out.append("    _fields_: ClassVar[list[tuple[str, Any]]] = [")
        out.extend(f'        ("{field}", {t}),' for field, t in fields)
        out.extend(["    ]", ""])

    pending = list(h.structs)
    callbacks = list(h.callbacks)
    done: set[str] = set()
    while pending or callbacks:  # each after what it mentions
        progress = False
        for item in list(callbacks):
            result, name, arguments = item
            mentioned = {n for n in h.struct_names if re.search(rf"\b{n}\b", arguments)}
            if mentioned <= done:
                types = ", ".join([h.ctype(result), *h.arguments(arguments)])
                out.extend(["", f"{name} = CFUNCTYPE({types})"])
                done.add(name)
                callbacks.remove(item)
                progress = True
        for entry in list(pending):
            name, body = entry
            known = h.struct_names | h.callback_names
            mentioned = {n for n in known if re.search(rf"\b{n}\b", body)}
            if mentioned <= done:
                struct(name, body)
                done.add(name)
                pending.remove(entry)
                progress = True
        if not progress:
            sys.exit("generate.py: structs that mention each other")
    out.extend(
        [
            "",
            "def versioned(kind: type[Any]) -> Any:",
            '    """A struct with struct_size set, as MR_..._INIT makes it in C."""',
            "    value = kind()",
            "    value.struct_size = sizeof(kind)",
            "    return value",
            "",
            "",
            "def bind(library: CDLL) -> None:",
            '    """Declares all functions, so that wrong arguments are errors and not crashes."""',
        ]
    )
    for result, name, arguments in h.functions:
        types = h.arguments(arguments)
        out.append(f"    library.{name}.restype = {h.ctype(result)}")
        line = f"    library.{name}.argtypes = [{', '.join(types)}]"
        if len(line) > 100:
            out.append(f"    library.{name}.argtypes = [")
            out.extend(f"        {t}," for t in types)
            out.append("    ]")
        else:
            out.append(line)
    names = ", ".join(f'"{name}"' for _, name, _ in h.functions)
    out.extend(["", "", "FUNCTIONS = (", *(f"    {n}," for n in names.split(", ")), ")"])
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if the file is not current")
    check = parser.parse_args().check
    text = render(Header(HEADER.read_text()))
    if not check:
        OUTPUT.write_text(text)
    elif not OUTPUT.exists() or OUTPUT.read_text() != text:
        sys.exit(f"{OUTPUT.name} is not what {HEADER.name} says: run generate.py")


if __name__ == "__main__":
    main()
