"""One exported program on a device: compiled, started, and run step by step.

Needs JAX; all that is private to it is in `_load`.  Written for 0.10.2.
"""

from __future__ import annotations

import gzip
import itertools
import json
import pathlib
import time
from typing import Any

import jax

from benchmarks.gpu import arrays

jax.config.update("jax_enable_x64", True)  # Keras counts steps in int64


class Execution:
    """A program and its state.

    Each step takes the next batch.  Results that are the state of the next
    step never leave the device, and take the place of the old ones there.

    Args:
        manifest: the path of what `export.py` wrote.
        device: one of `jax.devices()`.

    Attributes:
        manifest: what it says.
        compile_seconds: how long the compilation took.
        memory: what XLA plans for the program, in bytes: `arguments`,
            `temporary`, and `peak`, which is both and the results that do not
            take the place of an argument.
        losses: of each step, on the device; empty without a loss.
    """

    def __init__(self, manifest: pathlib.Path, device: jax.Device) -> None:
        self.manifest: dict[str, Any] = json.loads(manifest.read_text())
        packed = manifest.with_name(self.manifest["text"])
        text = gzip.decompress(packed.read_bytes()).decode()
        start = time.perf_counter()
        self._executable = _load(text, device)
        self.compile_seconds = time.perf_counter() - start
        stats = self._executable.get_compiled_memory_stats()
        self.memory = {
            "arguments": stats.argument_size_in_bytes,
            "temporary": stats.temp_size_in_bytes,
            "peak": stats.argument_size_in_bytes
            + stats.output_size_in_bytes
            - stats.alias_size_in_bytes
            + stats.temp_size_in_bytes,
        }
        self.losses: list[jax.Array] = []
        self._device = device
        self._arguments: list[jax.Array] = []
        self._batches: dict[int, itertools.cycle[jax.Array]] = {}
        self._results: list[list[jax.Array]] = []

    def start(self) -> None:
        """Makes all arrays, those of all batches too."""
        self._arguments.clear()
        for index, each in enumerate(self.manifest["inputs"]):
            how, shape, dtype = each["how"], each["shape"], each["dtype"]
            made = [
                jax.device_put(
                    arrays.make(how, shape, dtype, number), self._device
                )
                for number in range(each["batches"])
            ]
            self._arguments.append(made[0])
            if len(made) > 1:
                self._batches[index] = itertools.cycle(made)

    def step(self) -> None:
        """Begins one step, and does not wait for it."""
        for index, batch in self._batches.items():
            self._arguments[index] = next(batch)
        outputs = self._executable.execute_sharded(self._arguments)
        self._results = outputs.disassemble_into_single_device_arrays()
        for result, argument in self.manifest["feedback"]:
            self._arguments[argument] = self._results[result][0]
        if self.manifest["loss"] is not None:
            self.losses.append(self._results[self.manifest["loss"]][0])

    def wait(self) -> None:
        """Waits for all steps that were begun."""
        jax.block_until_ready(self._results)

    def state(self) -> dict[str, jax.Array]:
        """Returns all arguments by name, as they are after the last step."""
        names = (each["name"] for each in self.manifest["inputs"])
        return dict(zip(names, self._arguments, strict=True))

    def release(self) -> None:
        """Frees the arrays; only the losses stay."""
        self._arguments, self._results, self._batches = [], [], {}


def _load(text: str, device: jax.Device) -> Any:
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jaxlib import _jax
    from jaxlib.mlir import ir

    options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
    with mlir.make_ir_context():
        return device.client.compile_and_load(
            ir.Module.parse(text), _jax.DeviceList((device,)), options
        )
