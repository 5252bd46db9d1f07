"""The programs for a real GPU, at sizes that one is used for.

A program is made in several precisions; the first is what the others are
compared with.  The names that begin with "tiny" are for a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras

from benchmarks import workloads
from benchmarks.gpu import variants

TRAINED = ("mixed_bfloat16", "tfmp delayed", "tfmp current")
MULTIPLIED = ("bfloat16", "tfmp delayed", "tfmp current")
TINY = "tiny"


class Program(NamedTuple):
    """What is run in several precisions.

    Attributes:
        make: makes the variant of a precision.
        precisions: their names.
        product: size and number of the matrix products, if these are all, so
            that a library can do the same.
    """

    make: Callable[[str], variants.Variant]
    precisions: tuple[str, ...]
    product: tuple[int, int] | None = None


def layer(length: int, width: int, heads: int) -> keras.Model:
    """One Transformer layer; its outputs are taken for logits."""
    start = keras.Input([length, width])
    x = workloads.block(start, width, heads, causal=True)
    return keras.Model(start, x, name="layer")


def resnet50(size: int, classes: int) -> keras.Model:
    """ResNet-50, with logits."""
    return keras.applications.ResNet50(
        weights=None,
        input_shape=(size, size, 3),
        classes=classes,
        classifier_activation=None,
    )


def _trained(workload: workloads.Workload) -> Program:
    return Program(functools.partial(variants.training, workload), TRAINED)


def _products(size: int, copies: int) -> dict[str, Program]:
    forward = functools.partial(variants.forward, size, copies)
    both = functools.partial(variants.with_gradients, size, copies)
    alone = (*MULTIPLIED, "float8 alone")
    return {
        f"product-{size}": Program(forward, alone, (size, copies)),
        f"gradients-{size}": Program(both, MULTIPLIED),
    }


PROGRAMS: dict[str, Program] = {
    **_products(2048, copies=16),
    **_products(4096, copies=4),
    **_products(8192, copies=1),
    **_products(16384, copies=1),
    "layer": _trained(
        workloads.Workload(
            functools.partial(layer, 2048, 4096, 32), (2048, 4096), 4096, 8
        )
    ),
    "resnet50": _trained(
        workloads.Workload(
            functools.partial(resnet50, 224, 1000), (224, 224, 3), 1000, 128
        )
    ),
    # The widths and depths of GPT-2; its words, up to a multiple of 128.
    "gpt-124m": _trained(workloads.text(1024, 768, 12, 12, 50304, batch=8)),
    "gpt-774m": _trained(workloads.text(1024, 1280, 36, 20, 50304, batch=4)),
    "tiny-gpt": _trained(workloads.text(16, 32, 1, 2, 48, batch=2)),
    "tiny-mlp": _trained(
        workloads.Workload(
            functools.partial(workloads.mlp, 32, 32, 1, 16), (32,), 16, 16
        )
    ),
    "tiny-layer": _trained(
        workloads.Workload(functools.partial(layer, 16, 32, 2), (16, 32), 32, 2)
    ),
    "tiny-resnet": _trained(
        workloads.Workload(
            functools.partial(workloads.resnet, 8, (16,), 10), (8, 8, 3), 10, 4
        )
    ),
    **{f"tiny-{k}": v for k, v in _products(32, copies=2).items()},
}
