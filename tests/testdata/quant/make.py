"""Writes the quantised-block oracles: NAME.json, one per GGUF block type.

    python make.py            # rewrites every file in this directory
    python make.py --check    # fails when a committed file would change

requirements: gguf==0.19.0 numpy==2.4.6

Each file holds
    type          GGUF's name of the type, and type_id, its number in a tensor header
    block_weights weights in a block, and block_bytes, the bytes they take
    note          which fields of the block were set by hand
    dequantize    bytes (base64) of a row of blocks -> values (base64, float32 little-endian)
    quantize      values -> bytes, and `back`, those bytes read again; only for the types that the
                  gguf package can quantize

The bytes to dequantize are random but for the scale fields, which are finite by construction. The
first blocks are extremes: every bit of the codes clear, every bit set, for Q8_0 a block of -128,
negative scale, zero scale, and a subnormal half-precision scale.
"""

import argparse
import base64
import json
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

SEED = 20240611
RANDOM_BLOCKS = 6

# Where the half-precision scales of a block lie; MXFP4 has an exponent byte instead.
HALF_SCALES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0],
}
CAN_QUANTIZE = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"]
TYPES = ["F16", "BF16", *HALF_SCALES, "MXFP4"]


def b64(array, dtype):
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


def put_half(block, offset, value):
    block[offset:offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def blocks_of(name, rng):
    """Returns (blocks, note): a uint8 matrix, one block a row."""
    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    if name in ("F16", "BF16"):
        return plain_blocks(name, rng)
    fixed = {  # label -> (fill byte or None for random, scale)
        "codes all zero": (0x00, 0.0123),
        "codes all ones": (0xFF, 0.0123),
        "negative scale": (None, -0.25),
        "zero scale": (None, 0.0),
        "subnormal scale": (None, 2.0**-20),
    }
    if name == "Q8_0":
        fixed["codes -128"] = (0x80, 0.0123)
    rows = []
    for fill, scale in list(fixed.values()) + [(None, None)] * RANDOM_BLOCKS:
        block = rng.integers(0, 256, size, dtype=np.uint8)
        if fill is not None:
            block[:] = fill
        for i, offset in enumerate(HALF_SCALES.get(name, [])):
            value = rng.normal() * 0.1 if scale is None else scale * (1 + i)
            put_half(block, offset, value)
        if name == "MXFP4":
            block[0] = mxfp4_exponent(scale, rng)
        rows.append(block)
    labels = list(fixed) + [f"random x {RANDOM_BLOCKS}"]
    return np.stack(rows), ", ".join(labels)


def mxfp4_exponent(scale, rng):
    """The E8M0 byte nearest to the wanted scale; 0 and 1 are the format's own special cases."""
    if scale is None:
        return rng.integers(110, 140)
    return {0.0: 0, -0.25: 1, 2.0**-20: 2}.get(scale, 127)


def plain_blocks(name, rng):
    """F16 and BF16: 64 random finite values, then the corners of the format."""
    if name == "F16":
        special = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF,
                   0x7C00, 0xFC00, 0x3555]
        values = (rng.normal(size=64) * 3).astype(np.float16).view(np.uint16)
    else:
        special = [0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x3F80, 0x7F7F, 0xFF7F,
                   0x7F80, 0xFF80, 0x3EAB]
        values = ((rng.normal(size=64) * 3).astype(np.float32).view(np.uint32) >> 16)
    words = np.concatenate([values.astype("<u2"), np.array(special, "<u2")])
    note = "64 random, then +0 -0, subnormals, least normal, 1, largest, infinities, 1/3"
    return words.view(np.uint8).reshape(-1, 2), note


def rows_to_quantize(name, rng):
    """Two rows: plain normal values; and extremes (a zero block, one huge weight, ties)."""
    weights, _ = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    width = 128 if weights == 1 else 4 * weights
    plain = (rng.normal(size=width) * 0.05).astype(np.float32)
    edge = np.zeros(width, np.float32)
    quarter = width // 4
    edge[quarter:2 * quarter] = np.linspace(-1, 1, quarter, dtype=np.float32)
    edge[2 * quarter:3 * quarter] = rng.normal(size=quarter) * 1e-3
    edge[2 * quarter + 1] = -7.5
    edge[3 * quarter:] = (np.arange(quarter) % 5 - 2) * 0.5
    return np.stack([plain, edge])


def make(name):
    qtype = GGMLQuantizationType[name]
    weights, size = GGML_QUANT_SIZES[qtype]
    rng = np.random.default_rng([SEED, int(qtype)])
    blocks, note = blocks_of(name, rng)
    with np.errstate(over="ignore"):
        values = quants.dequantize(blocks.reshape(1, -1), qtype)
    if name not in ("F16", "BF16"):
        assert np.isfinite(values).all(), name
    out = {
        "type": name, "type_id": int(qtype), "block_weights": weights, "block_bytes": size,
        "note": note,
        "dequantize": {"bytes": b64(blocks, np.uint8), "values": b64(values, "<f4")},
    }
    if name in CAN_QUANTIZE:
        rows = rows_to_quantize(name, rng)
        packed = quants.quantize(rows, qtype)
        back = quants.dequantize(packed, qtype)
        out["quantize"] = {
            "rows": rows.shape[0], "row_weights": rows.shape[1],
            "values": b64(rows, "<f4"),
            "bytes": b64(packed.view(np.uint8), np.uint8), "back": b64(back, "<f4"),
        }
    return json.dumps(out, indent=1) + "\n"


def main():
    args = argparse.ArgumentParser(description="Write the quantised-block oracles.")
    args.add_argument("--check", action="store_true", help="compare, write nothing")
    check = args.parse_args().check
    here = pathlib.Path(__file__).parent
    stale = []
    for name in TYPES:
        text, path = make(name), here / f"{name.lower()}.json"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit("differs: " + ", ".join(stale))


if __name__ == "__main__":
    main()
