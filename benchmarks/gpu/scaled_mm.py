"""The same products by PyTorch: `torch._scaled_mm`, and in bfloat16.

    python scaled_mm.py SIZE COPIES BLOCKS SECONDS

It is a process of its own, as PyTorch and JAX each bring their own CUDA.  It
prints JSON: milliseconds of each block's step, where a step is `COPIES`
products of `SIZE` x `SIZE` matrices, each of its own operands.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable

import torch


def steps(size: int, copies: int) -> dict[str, Callable[[], None]]:
    """Returns what is timed, by name."""
    shape = (copies, size, size)
    wide = [
        torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    ]
    low = [w.to(torch.float8_e4m3fn) for w in wide]
    scale = torch.ones((), device="cuda")

    def scaled() -> None:
        for x, w in zip(*low, strict=True):
            torch._scaled_mm(
                x,
                w.t(),  # its second factor has to lie by columns
                scale_a=scale,
                scale_b=scale,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )

    def plain() -> None:
        for x, w in zip(*wide, strict=True):
            torch.matmul(x, w)

    return {"torch._scaled_mm": scaled, "torch bfloat16": plain}


def seconds_of(step: Callable[[], None], times: int) -> float:
    """Returns how long so many steps take, the last one done."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measures in turns, and prints."""
    size, copies, blocks = map(int, sys.argv[1:4])
    found = steps(size, copies)
    lengths = {}
    for name, step in found.items():
        seconds_of(step, 3)
        once = seconds_of(step, 1)
        lengths[name] = math.ceil(float(sys.argv[4]) / once)
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(blocks):
        for name, step in found.items():
            length = lengths[name]
            times[name].append(1e3 * seconds_of(step, length) / length)
    print(json.dumps({"torch": torch.__version__, "milliseconds": times}))


if __name__ == "__main__":
    main()
