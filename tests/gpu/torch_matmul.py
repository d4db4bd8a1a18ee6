#!/usr/bin/env python3
"""The rate that PyTorch reaches on this GPU with a square BF16 product, as one JSON line.

Any PyTorch with CUDA does; the line says which. Without one it prints nothing and exits 3.
"""

import json
import statistics
import sys
import time

SIDE = 8192
REPEATS = 7
PRODUCTS = 8  # of a repeat


def main():
    try:
        import torch
    except ImportError:
        return 3
    dry = "--dry-run" in sys.argv[1:]  # any device, a small product
    device, side = ("cpu", 64) if dry else ("cuda", SIDE)
    if not dry and not torch.cuda.is_available():
        return 3
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    b = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    rates = []
    for repeat in range(REPEATS + 1):
        wait()
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            a @ b
        wait()
        if repeat > 0:  # the first one warms up
            rates.append(PRODUCTS * 2 * side**3 / (time.perf_counter() - start) / 1e12)
    print(json.dumps({
        "what": "torch square product", "type": "BF16", "side": side, "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "tflop_per_s": round(statistics.median(rates), 4),
        "tflop_per_s_min_max": [round(min(rates), 4), round(max(rates), 4)]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
