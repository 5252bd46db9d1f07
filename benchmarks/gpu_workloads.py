"""The training steps that `gpu_steps.py` compiles for a GPU.

Models of `workloads.py` at sizes that an H200 is used for, and one Transformer
layer of the size that others have measured FP8 on.  Shapes are all that is
needed of their data.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import keras
import tensorflow as tf

import tfmp
from benchmarks import workloads

BASE, DELAYED, ATTENTION = "mixed_bfloat16", "tfmp delayed", "tfmp attention"
PRECISIONS = (BASE, DELAYED, "tfmp current", ATTENTION, "Keras float8")


class Program(NamedTuple):
    """A workload at a size that an H200 is used for.

    Attributes:
        about: its sizes in words.
        workload: the model, and the shapes of its data.
        layers: how many its kernels are divided by.
        labels: whether it has a loss of labels; otherwise that is the sum of
            the squares of its outputs.
    """

    about: str
    workload: workloads.Workload
    layers: int
    labels: bool = True

    @property
    def attends(self) -> bool:
        """Whether it has attention layers."""
        return self.workload.make.func in (layer, workloads.transformer)


def layer(width: int, length: int, heads: int, causal: bool) -> keras.Model:
    """One Transformer layer between other layers: bfloat16 in and out."""
    x = keras.Input([length, width], dtype="bfloat16")
    return keras.Model(
        x, workloads.block(x, width, heads, causal), name="layer"
    )


def _layer(causal: bool) -> workloads.Workload:
    make = functools.partial(layer, 4096, 2048, 32, causal)
    return workloads.Workload(make, (2048, 4096), 0, 8)


def _mlp(*sizes: int, batch: int) -> workloads.Workload:
    make = functools.partial(workloads.mlp, *sizes)
    return workloads.Workload(make, sizes[:1], sizes[-1], batch)


def _resnet(size: int, *widths: int, batch: int) -> workloads.Workload:
    make = functools.partial(workloads.resnet, size, widths, 1024)
    return workloads.Workload(make, (size, size, 3), 1024, batch)


def _text(causal: bool) -> workloads.Workload:
    return workloads.text(1024, 768, 2, 12, 16384, batch=8, causal=causal)


SIZES = "hidden 4096, ffn 16384, 32 heads, 2048 x 8 tokens"
TEXT = "2 layers, hidden 768, 12 heads, 1024 x 8 tokens"
PROGRAMS = {
    "dense": Program(
        "two dense layers, 1024 -> 2048 -> 1024, batch 512",
        _mlp(1024, 2048, 1, 1024, batch=512),
        layers=2,
        labels=False,
    ),
    "mlp": Program(
        "MLP, 4 dense layers of 8192, batch 8192",
        _mlp(8192, 8192, 3, 8192, batch=8192),
        layers=4,
    ),
    "resnet": Program(
        "residual network, 4 blocks of 64 to 512 channels, 256 images of 64",
        _resnet(64, 64, 128, 256, 512, batch=256),
        layers=4,
    ),
    "layer": Program(
        f"Transformer layer, {SIZES}", _layer(False), layers=1, labels=False
    ),
    "causal layer": Program(
        f"causal Transformer layer, {SIZES}",
        _layer(True),
        layers=1,
        labels=False,
    ),
    "gpt": Program(f"GPT, {TEXT}", _text(True), layers=2),
    "bert": Program(f"BERT, {TEXT}", _text(False), layers=2),
}


def build(workload: workloads.Workload, precision: str) -> keras.Model:
    """Returns the model in one of `PRECISIONS`, compiled for training."""
    if precision != ATTENTION:
        return workloads.build(workload, precision)
    model = workloads.build(workload, BASE)
    recipe = tfmp.recipes.DelayedScaling(attention=True)
    tfmp.convert(model, tfmp.Policy("mixed_float8", recipe), "all")
    return model


def specs(program: Program) -> list[tf.TensorSpec]:
    """Returns the shapes of inputs and labels."""
    work = program.workload
    shape = [work.batch, *work.shape]
    of_images = tf.float32 if program.labels else tf.bfloat16
    kinds = [tf.TensorSpec(shape, tf.int32 if work.is_text else of_images)]
    if program.labels:
        labels = shape if work.is_text else shape[:1]
        kinds.append(tf.TensorSpec(labels, tf.int32))
    return kinds
