"""Compiles a StableHLO program for a GPU that is described, with JAX's XLA.

    python jax_compiler.py PROGRAM TARGET RESULT

It runs in a Python that has JAX and its CUDA plug-in, and nothing of tfmp.
`RESULT` is then a JSON file: for each of `MODES` the optimised program, its
temporary memory in bytes, and JAX's version.  Nothing is executed, and no GPU
is needed.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
from typing import Any

import numpy as np

# By whose kernels products get, a setting of XLA.
MODES = {"triton": "True", "cublaslt": "False"}


def compiled(program: str, target: str) -> dict[str, dict[str, Any]]:
    """Returns what XLA's GPU compiler makes of a program, by mode.

    Args:
        program: StableHLO text.
        target: text of a GPU target configuration.
    """
    _module("jax_cuda12_plugin")  # without it, what follows says less
    topologies = _module("jax.experimental.topologies")
    topology = topologies.get_topology_desc(
        topology_name="target",
        platform="cuda",
        target_config=target,
        topology="1x1x1",
    )
    [device] = topology.devices
    return {mode: _in_mode(program, device, mode) for mode in MODES}


def _in_mode(program: str, device: Any, mode: str) -> dict[str, Any]:
    """Returns what one compilation gives."""
    options = _module("jax._src.compiler").get_compile_options(
        num_replicas=1,
        num_partitions=1,
        device_assignment=np.array([[0]]),
        env_options_overrides={"xla_gpu_enable_triton_gemm": MODES[mode]},
    )
    with _module("jax._src.interpreters.mlir").make_ir_context():
        executable = device.client.compile(
            _module("jaxlib.mlir.ir").Module.parse(program),
            executable_devices=_module("jaxlib._jax").DeviceList((device,)),
            compile_options=options,
        )
    memory = executable.get_compiled_memory_stats()
    return {
        "program": executable.hlo_modules()[0].to_string(),
        "temporary_bytes": memory.temp_size_in_bytes,
        "jax": _module("jax").__version__,
    }


def _module(name: str) -> Any:
    """Imports what tfmp itself does without, private parts of JAX too."""
    return importlib.import_module(name)


def main() -> None:
    """Compiles the file that the arguments name."""
    program, target, result = map(pathlib.Path, sys.argv[1:])
    found = compiled(program.read_text(), target.read_text())
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
