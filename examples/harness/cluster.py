"""Workers on this machine: processes that train one model together.

If one is killed the others cannot go on, so all are ended and started again,
as the manager of a cluster does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Sequence

POLL = 0.1  # seconds
PATIENCE = 60.0  # seconds that the others are given to end by themselves


def run(command: Sequence[str], workers: int, restarts: int) -> int:
    """Runs a command as all workers until all of them end well.

    They are started again if a signal has ended one; not for an error.

    Args:
        command: what each runs; its place is in the variable `TF_CONFIG`.
        workers: how many.
        restarts: how often all are started again at most.

    Returns:
        How often they were.

    Raises:
        RuntimeError: if they fail for an error, or once more than that.
    """
    for restart in range(restarts + 1):
        codes = once(command, workers)
        if not any(codes):
            return restart
        print(f"workers ended with {codes}", flush=True)
        if min(codes) >= 0:
            break
    raise RuntimeError(f"workers failed: {' '.join(command)}")


def once(command: Sequence[str], workers: int) -> list[int]:
    """Runs all workers once; returns how each has ended."""
    processes = [
        subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config})
        for config in configs(workers)
    ]
    try:
        return _ended(processes)
    finally:
        for each in processes:
            each.kill()
            each.wait()


def configs(workers: int) -> list[str]:
    """Returns `TF_CONFIG` of each worker, at ports that are free now."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    places = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    tasks = [{"type": "worker", "index": index} for index in range(workers)]
    return [
        json.dumps({"cluster": {"worker": places}, "task": t}) for t in tasks
    ]


def _ended(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Waits for all; after one has failed, no longer than `PATIENCE`."""
    until = float("inf")
    while time.monotonic() < until:
        codes = [each.poll() for each in processes]
        if None not in codes:
            break
        if until == float("inf") and any(codes):
            until = time.monotonic() + PATIENCE
        time.sleep(POLL)
    for each in processes:
        each.kill()
    return [each.wait() for each in processes]
