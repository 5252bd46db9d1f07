"""Workers that Ray Train starts, and starts again if one dies."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    workers: int,
    restarts: int,
) -> None:
    """Calls a function in all workers until it returns in all of them.

    Ray sets `TF_CONFIG` for each.

    Args:
        work: what to call.
        arguments: with which.
        workers: how many.
        restarts: how often all are started again at most.

    Raises:
        RuntimeError: if they fail once more than that.
    """
    import ray
    from ray import train
    from ray.train.tensorflow import TensorflowTrainer

    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(runtime_env={"env_vars": {"PYTHONPATH": paths}})
    trainer = TensorflowTrainer(
        lambda: work(*arguments),
        scaling_config=train.ScalingConfig(num_workers=workers),
        run_config=train.RunConfig(
            failure_config=train.FailureConfig(max_failures=restarts)
        ),
    )
    try:
        trainer.fit()
    finally:
        ray.shutdown()
