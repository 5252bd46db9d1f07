"""Compiles StableHLO programs for an H200, without one, and counts products.

    pip install 'jax[cuda12]==0.10.2'     # in an environment of its own
    python benchmarks/compile_for_gpu.py step.mlir [--json report.json]

XLA's GPU compiler works from a description of its target.  On a real GPU it
times its own Triton kernels against cuBLASLt's and keeps the faster; without
one there is no timing, so the program is compiled once for each.  Nothing is
executed: this tells what would run in FP8, not how fast.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import time

TARGET = pathlib.Path(__file__).with_name("h200.textproto")
SHAPE = re.compile(r"(\w+)\[[\d,]*\]")
DEFINITION = re.compile(r"^\s*(?:ROOT )?(%[\w.\-]+) = (?:\()?(\w+)\[")
PARAMETER = re.compile(r"([\w.\-]+): (\w+)\[")
PRODUCT = re.compile(
    r' dot\(|custom_call_target="__cu(?:blas[^"]*(?:matmul|gemm)|dnn\$conv)'
)
KERNEL = re.compile(r" (?:fusion|custom-call|copy|copy-start)\(")


def compile_module(text: str) -> tuple[str, int]:
    """Returns the optimised program, and its temporary memory in bytes."""
    import numpy as np
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax
    from jax._src.lib.mlir import ir
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(
        topology_name="hopper",
        platform="cuda",
        target_config=TARGET.read_text(),
        topology="1x1x1",
    )
    device = topology.devices[0]
    options = compiler.get_compile_options(
        num_replicas=1, num_partitions=1, device_assignment=np.array([[0]])
    )
    with mlir.make_ir_context():
        executable = device.client.compile(
            ir.Module.parse(text),
            executable_devices=_jax.DeviceList((device,)),
            compile_options=options,
        )
    stats = executable.get_compiled_memory_stats()
    return executable.hlo_modules()[0].to_string(), stats.temp_size_in_bytes


def element_types(program: str) -> dict[str, str]:
    """Maps the name of every value in a program to its element type."""
    types = {}
    for line in program.splitlines():
        defined = DEFINITION.match(line)
        if defined:
            types[defined.group(1)] = defined.group(2)
        for name, kind in PARAMETER.findall(line):
            types.setdefault(f"%{name}", kind)
    return types


def product_operands(program: str) -> list[tuple[str, str]]:
    """Lists the element types of both factors of every product.

    A product is a matrix product or a convolution.
    """
    types, found = element_types(program), []
    for line in program.splitlines():
        if PRODUCT.search(line):
            call = re.split(r" (?:dot|custom-call)\(", line, maxsplit=1)[1]
            names = re.findall(r"%[\w.\-]+", call)[:2]
            found.append(tuple(types.get(name, "?") for name in names))
    return found


def report(text: str) -> dict[str, object]:
    """Compiles a program and says what is left of it."""
    program, temporary = compile_module(text)
    products = product_operands(program)
    entry = program[program.index("\nENTRY ") :]
    return {
        "products": [" x ".join(pair) for pair in products],
        "products_fp8": sum(
            all(kind.startswith("f8") for kind in pair) for pair in products
        ),
        "kernels": len(KERNEL.findall(entry)),
        "temporary_mib": round(temporary / 2**20, 1),
    }


def in_mode(path: str, triton: bool) -> dict[str, object]:
    """Reports on a file from a process that is set to one mode."""
    flags = f"--xla_gpu_enable_triton_gemm={str(triton).lower()}"
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, __file__, path, "--one"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{path} did not compile:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Prints a line a program and mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="+", help="StableHLO text files")
    parser.add_argument("--json", help="also write the reports here")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        text = pathlib.Path(args.programs[0]).read_text()
        print(json.dumps(report(text)))
        return
    reports = {}
    for path in args.programs:
        for mode, triton in (("triton", True), ("cublaslt", False)):
            row = reports[f"{path} ({mode})"] = in_mode(path, triton)
            print(
                f"{path} ({mode}): {row['products_fp8']} of "
                f"{len(row['products'])} products in FP8, {row['kernels']} "
                f"kernels, {row['temporary_mib']} MiB temporary"
            )
    if args.json:
        result = {
            "target": TARGET.stem,
            "executed": False,
            "jax": importlib.metadata.version("jax"),
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["python", *sys.argv]),
            "programs": reports,
        }
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
