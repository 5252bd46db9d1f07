"""XLA's GPU compiler on a machine that has no GPU.

The compiler works from a description of its target.  On a real GPU it times
its own Triton kernels against those of cuBLASLt and keeps the faster; without
one there is no timing, so a program is compiled once for each.  TensorFlow
has no way to ask for it; JAX has, in a process of its own.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from tfmp._inspection import targets

HERE = pathlib.Path(__file__).parent
VARIABLE = "TFMP_JAX_PYTHON"
MISSING = f"""\
compiling for a GPU of another machine needs JAX with its CUDA plug-in (1 GB, no
CUDA), best in an environment of its own:
    python3 -m venv jax-env
    jax-env/bin/pip install jax==0.10.2 jax-cuda12-plugin==0.10.2
    export {VARIABLE}=$PWD/jax-env/bin/python"""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program as compiled for one choice of kernels.

    Attributes:
        program: HLO text.
        temporary_bytes: what it needs of memory beside arguments and results.
        jax: the version of JAX whose XLA compiled it.
    """

    program: str
    temporary_bytes: int
    jax: str


def compile_for(target: str, program: str) -> dict[str, Compiled]:
    """Compiles a StableHLO program, by the kernels that products get.

    Args:
        target: one of `targets.TARGETS`.
        program: StableHLO text.

    Raises:
        ImportError: if JAX with its CUDA plug-in is not installed.
        RuntimeError: if the program does not compile.
    """
    python = jax_python()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "program.mlir")
        path.write_text(program)
        description = path.with_suffix(".textproto")
        description.write_text(targets.TARGETS[target].description())
        result = path.with_suffix(".json")
        _run(python, target, path, description, result)
        found = json.loads(result.read_text())
    return {mode: Compiled(**values) for mode, values in found.items()}


def jax_python() -> str:
    """Returns the Python that has JAX and its CUDA plug-in.

    Raises:
        ImportError: if there is none.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return named
    if importlib.util.find_spec("jax_cuda12_plugin"):
        return sys.executable
    raise ImportError(MISSING)


def _run(python: str, target: str, *files: pathlib.Path) -> None:
    """Compiles in a process of its own."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [python, str(HERE / "jax_compiler.py"), *map(str, files)]
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True
        )
    except OSError as error:
        raise ImportError(
            f"{python} does not run: {error}\n{MISSING}"
        ) from error
    last = ended.stderr.strip().rpartition("\n")[2]
    if last.startswith("ModuleNotFoundError"):
        raise ImportError(f"{python} lacks JAX: {last}\n{MISSING}")
    if ended.returncode:
        raise RuntimeError(
            f"the program did not compile for {target}, by {python}:\n"
            f"{ended.stderr[-2000:]}"
        )
