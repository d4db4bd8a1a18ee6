"""Builds the wheel: the package with the shared library in it. Needs Python and readelf alone.

    python3 wheel.py LIBRARY DIRECTORY

The wheel works with any Python 3.9 or later (py3-none). Its platform tag is made from the newest
glibc symbol that the library needs, so that pip installs it exactly where it can be loaded. Files
have a fixed date: the same inputs give the same bytes.
"""

import base64
import hashlib
import pathlib
import platform
import re
import subprocess
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAME = "moering"
DATE = (2020, 1, 1, 0, 0, 0)

METADATA = """Metadata-Version: 2.1
Name: moering
Version: {version}
Summary: Runs language models that do not fit in memory
License: Apache-2.0
Requires-Python: >=3.9
Provides-Extra: numpy
Requires-Dist: numpy; extra == "numpy"
Provides-Extra: progress
Requires-Dist: tqdm; extra == "progress"
Provides-Extra: ray
Requires-Dist: ray[data]; extra == "ray"
Description-Content-Type: text/markdown

{readme}"""

WHEEL = """Wheel-Version: 1.0
Generator: moering
Root-Is-Purelib: false
Tag: {tag}
"""


def glibc_needed(library: pathlib.Path) -> tuple[int, int]:
    """The newest version of glibc that the library's symbols ask for."""
    out = subprocess.run(
        ["readelf", "--wide", "--version-info", str(library)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    versions = [(int(a), int(b)) for a, b in re.findall(r"\bGLIBC_(\d+)\.(\d+)", out)]
    if not versions:
        sys.exit(f"wheel.py: {library} asks for no version of glibc")
    return max(versions)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    library, directory = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    version = (ROOT / "capi" / "VERSION").read_text().strip()
    packaged = (HERE / "moering" / "_version.py").read_text()
    if f'__version__ = "{version}"' not in packaged:
        sys.exit(f"wheel.py: _version.py does not say {version}, as capi/VERSION does")
    major, minor = glibc_needed(library)
    tag = f"py3-none-manylinux_{major}_{minor}_{platform.machine()}"
    info = f"{NAME}-{version}.dist-info"
    files: dict[str, bytes] = {}
    for path in sorted((HERE / "moering").iterdir()):
        if path.suffix == ".py" or path.name == "py.typed":
            files[f"{NAME}/{path.name}"] = path.read_bytes()
    files[f"{NAME}/libmoering.so"] = library.read_bytes()
    files[f"{info}/METADATA"] = METADATA.format(
        version=version, readme=(HERE / "README.md").read_text()
    ).encode()
    files[f"{info}/WHEEL"] = WHEEL.format(tag=tag).encode()
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    record = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{NAME}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, DATE)
            entry.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, data)
    print(wheel)


if __name__ == "__main__":
    main()
