"""Times several executions in turns, so that all see the same machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.execution import Execution

WARM_UP = 3  # steps
BLOCKS = 10


def measure(
    executions: Sequence[Execution], steps: int, seconds: float
) -> list[list[float]]:
    """Returns the milliseconds of a step, for each execution and block.

    A block is a number of steps that are begun one after the other; the clock
    stops when the last is done.

    Args:
        executions: started.
        steps: how many at least, in all blocks together.
        seconds: how long a block takes at least.
    """
    lengths = [_block_length(each, steps, seconds) for each in executions]
    times: list[list[float]] = [[] for _ in executions]
    for _ in range(BLOCKS):
        for each, length, found in zip(executions, lengths, times, strict=True):
            found.append(1e3 * _seconds(each, length) / length)
    return times


def _block_length(execution: Execution, steps: int, seconds: float) -> int:
    """Warms up, and returns how many steps make a block."""
    _seconds(execution, WARM_UP)
    once = _seconds(execution, 1)
    return max(math.ceil(steps / BLOCKS), math.ceil(seconds / once))


def _seconds(execution: Execution, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        execution.step()
    execution.wait()
    return time.perf_counter() - start


def groups(
    executions: Sequence[Execution], limit: int | None
) -> list[list[Execution]]:
    """Returns who takes turns: all if their arrays fit, else each alone.

    Args:
        executions: not started.
        limit: bytes of the device, None if it does not say.
    """
    resident = sum(each.memory["arguments"] for each in executions)
    most = max(each.memory["temporary"] for each in executions)
    # A batch of images, and results, come on top.
    if limit is None or 1.1 * (resident + most) < limit:
        return [list(executions)]
    return [[each] for each in executions]


def speed(flops: int, milliseconds: Sequence[float]) -> dict[str, float]:
    """Returns what the times of the blocks say."""
    median = statistics.median(milliseconds)
    return {
        "milliseconds": median,
        "fastest_block_milliseconds": min(milliseconds),
        "slowest_block_milliseconds": max(milliseconds),
        "tflops_per_second": flops / median / 1e9,
    }


def summary(
    execution: Execution, milliseconds: Sequence[float]
) -> dict[str, Any]:
    """Returns what is reported of an execution."""
    return {
        **speed(execution.manifest["flops"], milliseconds),
        "peak_bytes": execution.memory["peak"],
        "temporary_bytes": execution.memory["temporary"],
        "argument_bytes": execution.memory["arguments"],
        "compile_seconds": execution.compile_seconds,
        "losses": [float(loss) for loss in execution.losses],
    }
