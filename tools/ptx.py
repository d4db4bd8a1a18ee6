#!/usr/bin/env python3
"""Compiles kernels/cuda/*.cu to PTX with NVRTC, and assembles it with ptxas: ./build.sh ptx --help.

Run by the Python of the virtual environment that holds tools/cuda-requirements.txt.

    ptx.py          write kernels/cuda/ptx/*.ptx
    ptx.py --check  fail where a file is stale or missing, or ptxas refuses it for a target
"""

import concurrent.futures
import ctypes
import glob
import hashlib
import os
import re
import subprocess
import sys
import tempfile

SOURCES = "kernels/cuda"
TARGET = "compute_80"
# GPUs to assemble for: Ampere, Ada, Hopper, Blackwell. None may be missing from the assembler.
ASSEMBLED = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]


def package_file(pattern):
    """The one file of an installed package that the pattern names, below site-packages."""
    for path in sys.path:
        found = glob.glob(os.path.join(path, pattern))
        if found:
            return found[0]
    sys.exit(f"ptx.py: no {pattern}: run it through ./build.sh ptx")


class Compiler:
    """NVRTC, by its C API."""

    def __init__(self):
        self.lib = ctypes.CDLL(package_file("nvidia/cuda_nvrtc/lib/libnvrtc.so.11.2"))
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def text(self, program, size, get):
        length = ctypes.c_size_t()
        size(program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        get(program, buffer)
        return buffer.value.decode()

    def compile(self, path, options):
        with open(path, "rb") as f:
            source = f.read()
        program = ctypes.c_void_p()
        code = self.lib.nvrtcCreateProgram(
            ctypes.byref(program), source, path.encode(), 0, None, None)
        if code != 0:
            sys.exit(f"ptx.py: {path}: {self.lib.nvrtcGetErrorString(code).decode()}")
        options = [o.encode() for o in options]
        code = self.lib.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = self.text(program, self.lib.nvrtcGetProgramLogSize, self.lib.nvrtcGetProgramLog)
        if code != 0 or log.strip():
            sys.exit(f"ptx.py: {path}:\n{log}")
        ptx = self.text(program, self.lib.nvrtcGetPTXSize, self.lib.nvrtcGetPTX)
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx


def modules():
    """(name, source, definitions) of each module: one a source, one a format of the products."""
    for path in sorted(glob.glob(f"{SOURCES}/*.cu")):
        yield os.path.basename(path)[:-3], path, []
    with open(f"{SOURCES}/product_formats.inc") as f:
        for macro, args in re.findall(r"^(MR_\w+)\((.*)\)$", f.read(), re.M):
            name, kind, wp, xp, nt = args.split(", ")
            yield f"product_{name}", f"{SOURCES}/matmul.cu", [
                f"-DMR_FORMAT_MACRO={macro}", f"-DMR_FORMAT_NAME={name}",
                f"-DMR_FORMAT_TYPE={kind}", f"-DMR_FORMAT_WP={wp}", f"-DMR_FORMAT_XP={xp}",
                f"-DMR_FORMAT_NT={nt}"]


def build(module):
    name, path, definitions = module
    ptx = Compiler().compile(path, [
        f"--gpu-architecture={TARGET}", "-std=c++17", "-fmad=false", f"-I{SOURCES}", *definitions])
    head, body = ptx.split(".version", 1)  # the head names the compiler's build
    title = f"// {name}: made by ./build.sh ptx from {path}; do not edit."
    return name, f"{title}\n\n.version{body}".replace("\0", "")


def assemble(job):
    name, ptx, target, verbose = job
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "k.ptx")
        with open(source, "w") as f:
            f.write(ptx)
        command = [package_file("nvidia/cu13/bin/ptxas"), f"-arch={target}", source, "-o",
                   os.path.join(folder, "k.cubin")] + (["-v"] if verbose else [])
        done = subprocess.run(command, capture_output=True, text=True)
    return name, target, done.returncode, done.stdout + done.stderr


def sources():
    """What the modules are made of, with hashes: a test without this compiler compares them."""
    lines = []
    for pattern in ("*.cu", "*.cuh", "*.inc", "args.h"):
        for path in sorted(glob.glob(f"{SOURCES}/{pattern}")):
            with open(path, "rb") as f:
                lines.append(f"{hashlib.sha256(f.read()).hexdigest()}  {os.path.basename(path)}\n")
    return "".join(lines)


def main():
    check, verbose = "--check" in sys.argv[1:], "--verbose" in sys.argv[1:]
    folder = f"{SOURCES}/ptx"
    # A process for each: the compiler numbers some labels through all that a process compiles.
    with concurrent.futures.ProcessPoolExecutor(max_tasks_per_child=1) as pool:
        built = dict(pool.map(build, modules()))
    files = {f"{name}.ptx": ptx for name, ptx in built.items()} | {"sources.txt": sources()}
    present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    bad = 0
    if check:
        for name in sorted(present | set(files)):
            path, text = f"{folder}/{name}", None
            if name in present:
                with open(path) as f:
                    text = f.read()
            if text != files.get(name):
                print(f"ptx.py: {path} is stale: run ./build.sh ptx and commit", file=sys.stderr)
                bad += 1
    else:
        os.makedirs(folder, exist_ok=True)
        for name in present - set(files):
            os.remove(f"{folder}/{name}")
        for name, text in files.items():
            with open(f"{folder}/{name}", "w") as f:
                f.write(text)
    jobs = [(name, ptx, target, verbose) for name, ptx in built.items() for target in ASSEMBLED]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, target, code, log in pool.map(assemble, jobs):
            if code != 0 or verbose:
                print(f"{name}, {target}:\n{log}", file=sys.stderr)
            bad += code != 0
    print(f"{len(built)} modules, {len(ASSEMBLED)} targets, {bad} failures", file=sys.stderr)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
