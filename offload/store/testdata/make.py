"""Writes the small files that the tests of this package read, with the listing that the reference
packages give of them. Run in this directory: python make.py

Requirements: gguf==0.19.0 safetensors==0.8.0 numpy
"""

import json
import os
import shutil
import struct
import zlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as K
from safetensors.numpy import load_file, save_file

SCALARS = [  # every type, at its limits
    ("t.uint8", 255, K.UINT8), ("t.int8", -128, K.INT8), ("t.uint16", 65535, K.UINT16),
    ("t.int16", -32768, K.INT16), ("t.uint32", 2**32 - 1, K.UINT32),
    ("t.int32", -(2**31), K.INT32), ("t.uint64", 2**64 - 1, K.UINT64),
    ("t.int64", -(2**63), K.INT64), ("t.float32", 1.5, K.FLOAT32),
    ("t.float64", 1e-300, K.FLOAT64), ("t.true", True, K.BOOL), ("t.false", False, K.BOOL),
    ("t.string", "déjà vu 你好\n", K.STRING), ("t.empty", "", K.STRING),
]
ARRAYS = [
    ("a.uint8", [1, 2, 255], K.UINT8), ("a.int8", [-1, 2], K.INT8),
    ("a.uint16", [1, 65535], K.UINT16), ("a.int16", [-1], K.INT16),
    ("a.uint32", [7], K.UINT32), ("a.int32", [3, 2, -1], K.INT32),
    ("a.uint64", [2**64 - 1], K.UINT64), ("a.int64", [-(2**63), 0], K.INT64),
    ("a.float32", [0.5, -2.5], K.FLOAT32), ("a.float64", [0.25], K.FLOAT64),
    ("a.bool", [True, False], K.BOOL), ("a.string", ["<s>", "", "▁a"], K.STRING),
]
NESTED = ("a.nested", [[1, 2], [3]])


def text(value, kind):
    """The value as the test prints it."""
    if kind == K.BOOL:
        return "true" if value else "false"
    return value if kind == K.STRING else str(value)


def tensors(rng):
    """Name, data, type. Shapes have the outermost dim first."""
    f32 = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    quantised = lambda kind, *shape: (gguf.quants.quantize(f32(*shape), kind), kind)
    bf16 = gguf.quants.quantize(f32(3, 5), Q.BF16)
    blocks = lambda rows, bytes_: rng.integers(0, 256, (rows, bytes_), dtype=np.uint8)
    return [
        ("token_embd.weight", f32(5, 32), None),
        ("blk.0.ffn_gate_exps.weight", *quantised(Q.Q8_0, 4, 3, 64)),
        ("blk.0.attn_q.weight", *quantised(Q.Q4_0, 2, 32)),
        ("blk.0.attn_k.weight", blocks(2, 144), Q.Q4_K),
        ("blk.0.attn_v.weight", blocks(2, 176 * 2), Q.Q5_K),
        ("output.weight", blocks(1, 210), Q.Q6_K),
        ("odd.iq2_xxs", blocks(1, 66), Q.IQ2_XXS),
        ("norm.f16", f32(7).astype(np.float16), None),
        ("norm.bf16", bf16.view(np.uint8), Q.BF16),
        ("ids", rng.integers(-9, 9, (2, 3), dtype=np.int32), None),
        ("four.dims", f32(2, 3, 1, 4), None),
    ]


def write_gguf(path, alignment=None, split=0):
    w = gguf.GGUFWriter(path, "test", split_max_tensors=split)
    if alignment:
        w.add_custom_alignment(alignment)
    for key, value, kind in SCALARS:
        w.add_key_value(key, value, kind)
    for key, value, kind in ARRAYS:
        w.add_key_value(key, value, K.ARRAY, sub_type=kind)
    w.add_key_value(NESTED[0], NESTED[1], K.ARRAY, sub_type=K.ARRAY)
    for name, data, kind in tensors(np.random.default_rng(1)):
        w.add_tensor(name, data, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def listing(paths):
    """Tensors as gguf.GGUFReader finds them, in order of file and offset."""
    out = []
    for number, path in enumerate(paths):
        for t in gguf.GGUFReader(path).tensors:
            out.append({
                "name": t.name, "dtype": t.tensor_type.name,
                "shape": [int(n) for n in reversed(t.shape)], "file": number,
                "offset": int(t.data_offset), "size": int(t.n_bytes),
                "crc32": zlib.crc32(t.data.tobytes()),
            })
    return sorted(out, key=lambda t: (t["file"], t["offset"]))


def metadata(extra):
    out = {"general.architecture": {"kind": "string", "value": "test"}}
    for key, value, kind in SCALARS + extra:
        out[key] = {"kind": kind.name.lower(), "value": text(value, kind)}
    for key, values, kind in ARRAYS:
        out[key] = {"kind": "array", "elem": kind.name.lower(),
                    "values": [text(v, kind) for v in values]}
    out[NESTED[0]] = {"kind": "array", "elem": "array", "values": [str(v) for v in NESTED[1]]}
    return out


def patch_version(source, target, version, order="<"):
    data = bytearray(open(source, "rb").read())
    data[4:8] = struct.pack(order + "I", version)
    open(target, "wb").write(data)


def make_gguf():
    write_gguf("v3.gguf")
    patch_version("v3.gguf", "v2.gguf", 2)  # the layouts of 2 and 3 are the same
    write_gguf("aligned.gguf", alignment=64)
    write_gguf("split.gguf", split=4)
    if os.path.exists("split.gguf"):
        os.remove("split.gguf")
    shards = [f"split-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    split = [("split.no", 0, K.UINT16), ("split.count", 3, K.UINT16),
             ("split.tensors.count", 11, K.INT32)]
    alignment = [("general.alignment", 64, K.UINT32)]
    expected = {
        "v3.gguf": {"files": ["v3.gguf"], "metadata": metadata([])},
        "v2.gguf": {"files": ["v2.gguf"], "metadata": metadata([])},
        "aligned.gguf": {"files": ["aligned.gguf"], "metadata": metadata(alignment)},
        shards[1]: {"files": shards, "metadata": metadata(split)},
    }
    for entry in expected.values():
        entry["tensors"] = listing(entry["files"])
    return expected


def safetensors_listing(paths):
    """Tensors as the header has them, each checked against what the reference package loads."""
    out = []
    for number, path in enumerate(paths):
        data = open(path, "rb").read()
        length = struct.unpack("<Q", data[:8])[0]
        loaded = load_file(path)
        for name, info in json.loads(data[8:8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + n for n in info["data_offsets"])
            assert loaded[name].tobytes() == data[begin:end]
            assert list(loaded[name].shape) == info["shape"]
            out.append({"name": name, "dtype": info["dtype"], "shape": info["shape"],
                        "file": number, "offset": begin, "size": end - begin,
                        "crc32": zlib.crc32(data[begin:end])})
    return sorted(out, key=lambda t: (t["file"], t["offset"]))


def make_safetensors():
    rng = np.random.default_rng(2)
    kinds = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8,
             np.bool_]
    all_ = {f"t.{np.dtype(k).name}": (rng.standard_normal((2, 3)) * 9).astype(k) for k in kinds}
    all_["scalar"] = np.array(1.5, dtype=np.float32)
    for directory in ("hf-single", "hf-sharded"):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        open(f"{directory}/config.json", "w").write('{"model_type": "test"}\n')
    save_file(all_, "hf-single/model.safetensors", metadata={"format": "pt"})
    names = sorted(all_)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: shards[i % 2] for i, name in enumerate(names)}
    for shard in shards:
        save_file({n: all_[n] for n in names if weight_map[n] == shard}, f"hf-sharded/{shard}")
    index = {"metadata": {"total_size": sum(t.nbytes for t in all_.values())},
             "weight_map": weight_map}
    with open("hf-sharded/model.safetensors.index.json", "w") as f:
        json.dump(index, f, indent=1)
    expected = {"hf-single": {"files": ["hf-single/model.safetensors"]},
                "hf-sharded": {"files": [f"hf-sharded/{s}" for s in shards]}}
    for entry in expected.values():
        entry["tensors"] = safetensors_listing(entry["files"])
    return expected


if __name__ == "__main__":
    expected = make_gguf() | make_safetensors()
    with open("expected.json", "w") as f:
        json.dump(expected, f, indent=1, ensure_ascii=False, sort_keys=True)
        f.write("\n")
