"""Trains on real replicas and prints, as JSON, what each of them holds.

    python tests/replicas.py 4 steps            # MirroredStrategy, 4 CPUs
    TF_CONFIG=... python tests/replicas.py 0 steps   # one of the workers

The arguments after the number name the functions that run, those of the
modules `replica_*.py`; `mirrored` and `workers` start such processes.
"""

from __future__ import annotations

import functools
import json
import socket
import sys
from typing import Any

import forked
import numpy as np

ROWS, WIDTH = 16, 8
# Rows in replicas 0, 1, 2 and 3 of four, or 0, 0, 1 and 1 of two.
EACH = (1, 5, 9, 13)
# The largest value of a step, and where it stands.
PEAKS = {0: (15, 16.0), 1: (0, 32.0), 2: (6, 8.0)}
GOOD = ("good", None)
KINDS = [
    *[GOOD] * 3,
    *[("data", row) for row in EACH],
    *[("gradient", row) for row in EACH],
    *[GOOD] * 4,
]


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns inputs, targets and poison of all steps, one after the other.

    Inputs are exact in bfloat16.  Poison is what is added to the gradients of
    the replica that has the row: zero, infinity or NaN.
    """
    generator = np.random.default_rng(0)
    shape = [len(KINDS), ROWS, WIDTH]
    x = (generator.integers(-16, 17, shape) / 8).astype("float32")
    poison = np.zeros([*shape[:2], 1], "float32")
    for step, (row, peak) in PEAKS.items():
        x[step, row, 3] = peak
    y = x.sum(axis=2, keepdims=True)
    for step, (kind, row) in enumerate(KINDS):
        bad = np.nan if row in EACH[::2] else np.inf
        if kind == "data":
            x[step, row, 0] = bad
        elif kind == "gradient":
            poison[step, row] = bad
    return tuple(each.reshape(-1, each.shape[-1]) for each in (x, y, poison))


def _start(arguments: tuple[Any, ...], **variables: str) -> forked.Program:
    path = (forked.ROOT, forked.ROOT / "tests")
    program = "import replicas; replicas.main()"
    return forked.Program(program, *map(str, arguments), path=path, **variables)


def _results(processes: list[forked.Program]) -> list[dict[str, Any]]:
    """Waits for all; what hangs is killed."""
    try:
        ended = [each.wait() for each in processes]
    finally:
        for each in processes:
            each.kill()
    for each in ended:
        if each.returncode:
            raise RuntimeError(each.stderr[-8000:])
    return [json.loads(each.stdout.splitlines()[-1]) for each in ended]


@functools.cache
def mirrored(replicas: int, *names: str) -> dict[str, Any]:
    """Runs functions on the logical CPUs of one process."""
    return _results([_start((replicas, *names))])[0]


@functools.cache
def workers(number: int, *names: str) -> list[dict[str, Any]]:
    """Runs functions in processes that find each other by TF_CONFIG."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    tasks = [{"type": "worker", "index": index} for index in range(number)]
    configs = [json.dumps({"cluster": cluster, "task": t}) for t in tasks]
    return _results([_start((0, *names), TF_CONFIG=c) for c in configs])


def main() -> None:
    """Sets the devices up before anything else touches TensorFlow."""
    import tensorflow as tf

    number, names = int(sys.argv[1]), sys.argv[2:]
    if number:
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * number
        tf.config.set_logical_device_configuration(cpu, parts)
        devices = [f"CPU:{index}" for index in range(number)]
        strategy = tf.distribute.MirroredStrategy(devices)
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import replica_emulation
    import replica_fit
    import replica_limits
    import replica_programs
    import replica_pruning

    modules = (
        replica_programs,
        replica_limits,
        replica_emulation,
        replica_pruning,
        replica_fit,
    )
    known = {k: v for module in modules for k, v in vars(module).items()}
    found = {name: known[name](strategy) for name in names}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
