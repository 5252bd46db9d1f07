"""Writes convolutions, each with its gradients, as StableHLO for a GPU.

    python benchmarks/export_convolutions.py FOLDER

No GPU is needed.  `compile_for_gpu.py` then compiles the files for a Hopper
GPU and counts the FP8 convolutions, to hold against what
`Convolution.float8_products` says of the geometry.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import tensorflow as tf

from tfmp import ops
from tfmp.ops import geometry

SAME = {"padding": "same"}
PROGRAMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((32, 16, 16, 64), (3, 3, 64, 128), SAME),
    "1x1": ((32, 16, 16, 64), (1, 1, 64, 128), SAME),
    "1x1_strided": ((32, 16, 16, 64), (1, 1, 64, 128), {**SAME, "strides": 2}),
    "strided": ((32, 16, 16, 64), (3, 3, 64, 128), {**SAME, "strides": 2}),
    "dilated": (
        (20, 16, 16, 64),
        (3, 3, 64, 128),
        {**SAME, "dilation_rate": 2},
    ),
    "grouped": ((32, 16, 16, 64), (3, 3, 16, 64), SAME),
    "depthwise": ((32, 16, 16, 64), (3, 3, 1, 64), SAME),
    "3_channels": ((32, 16, 16, 3), (3, 3, 3, 64), SAME),
    "10_filters": ((32, 16, 16, 64), (3, 3, 64, 10), SAME),
    "1d": ((32, 64, 64), (3, 64, 128), SAME),
    "3d": ((32, 8, 8, 8, 64), (3, 3, 3, 64, 128), SAME),
    "2x2_image": ((20, 2, 2, 64), (3, 3, 64, 128), SAME),
}
DEFAULTS = {
    "strides": 1,
    "padding": "valid",
    "data_format": "channels_last",
    "dilation_rate": 1,
}


def reasons(name: str) -> dict[str, str | None]:
    """Returns why a program's products are not in FP8."""
    inputs, kernel, arguments = PROGRAMS[name]
    given = geometry.convolution(inputs, kernel, **(DEFAULTS | arguments))
    return given.float8_products(inputs[1:-1])


def export(name: str) -> str:
    """Returns the StableHLO text of a program: result and all gradients."""
    inputs, kernel, arguments = PROGRAMS[name]

    def step(*tensors: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            x, w, amax = tensors
            y = ops.conv(x, w, amax=amax, **arguments)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
        return [loss, *tape.gradient(loss, tensors)]

    compiled = tf.function(step, jit_compile=True, autograph=False)
    x = tf.zeros(inputs, tf.bfloat16)
    write = compiled.experimental_get_compiler_ir(
        x, tf.zeros(kernel), tf.zeros([3])
    )
    return write(stage="stablehlo", platform_name="GPU")


def main() -> None:
    """Exports all programs, and prints what stays in the compute dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where to write the programs")
    folder = pathlib.Path(parser.parse_args().folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        (folder / f"{name}.mlir").write_text(export(name))
        for product, reason in reasons(name).items():
            if reason:
                print(f"{name}: {product}: {reason}")


if __name__ == "__main__":
    main()
