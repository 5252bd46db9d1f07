"""Writes the training step of cpu_step.py as a StableHLO program for a GPU.

    python benchmarks/export_step.py step.mlir [--variant NAME]

No GPU is needed.  `compile_for_gpu.py` then compiles the file for a Hopper
GPU and counts its FP8 products and kernels.
"""

from __future__ import annotations

import argparse
import pathlib

import cpu_step
import tensorflow as tf


def export(variant: str) -> str:
    """Returns the StableHLO text of a variant: loss and all gradients."""
    model = cpu_step.make_model(variant)
    step = cpu_step.make_step(model)
    values = [tf.convert_to_tensor(v) for v in cpu_step.variables(model)]
    x = tf.zeros([cpu_step.BATCH, cpu_step.WIDTH])
    compiler_ir = step.experimental_get_compiler_ir(values, x, x)
    return compiler_ir(stage="stablehlo", platform_name="GPU")


def main() -> None:
    """Exports one variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="where to write the program")
    parser.add_argument(
        "--variant",
        choices=list(cpu_step.VARIANTS),
        default=next(iter(cpu_step.VARIANTS)),
    )
    args = parser.parse_args()
    pathlib.Path(args.path).write_text(export(args.variant))


if __name__ == "__main__":
    main()
