"""Which weights of a kernel are pruned: those of the least magnitude.

A mask is True where a weight stays.  Of equal magnitudes the first go first, so
that a mask follows from the weights alone; weights that were pruned are zero,
and stay among the smallest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
GROUP, KEPT = 4, 2  # of 2:4


@dataclasses.dataclass(frozen=True)
class Masked:
    """The constraint of a pruned kernel, which the optimizer applies.

    Attributes:
        mask: variable, True where a weight stays.
        own: the constraint that the kernel had, or None.
    """

    mask: keras.Variable
    own: Callable[[Any], Any] | None

    def __call__(self, kernel: Any) -> Any:
        """Returns what an update leaves of the kernel."""
        kernel = kernel if self.own is None else self.own(kernel)
        kernel = tf.convert_to_tensor(kernel)
        stays = tf.convert_to_tensor(self.mask)
        return tf.where(stays, kernel, tf.zeros_like(kernel))


def constrain(kernel: keras.Variable) -> bool:
    """Gives a kernel a mask, if it has none; returns whether that is new."""
    if isinstance(kernel.constraint, Masked):
        return False
    mask = keras.Variable(
        tf.ones(kernel.shape, tf.bool),
        dtype="bool",
        trainable=False,
        name="pruning_mask",
    )
    kernel.constraint = Masked(mask, kernel.constraint)
    return True


def smallest(kernels: Sequence[tf.Tensor], sparsity: float) -> list[tf.Tensor]:
    """Returns masks without the smallest of all weights together.

        round(sparsity * n) of the n weights go

    Source: arXiv 1506.02626, section 3.1.

    >>> [mask] = smallest([tf.constant([[3.0, -1.0], [0.5, -4.0]])], 0.5)
    >>> mask.numpy().tolist()
    [[True, False], [False, True]]
    """
    sizes = [kernel.shape.num_elements() for kernel in kernels]
    sizes_of_all = tf.concat([_flat_magnitudes(k) for k in kernels], axis=0)
    count = round(sparsity * sum(sizes))
    first = tf.argsort(sizes_of_all, stable=True)[:count, tf.newaxis]
    stays = tf.tensor_scatter_nd_update(
        tf.ones([sum(sizes)], tf.bool), first, tf.zeros([count], tf.bool)
    )
    parts = tf.split(stays, sizes)
    return [
        tf.reshape(part, kernel.shape)
        for part, kernel in zip(parts, kernels, strict=True)
    ]


def two_of_four(kernel: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Returns the mask of the two largest in each four that are summed over.

    Args:
        kernel: of any shape.
        axes: what a product sums over, together a multiple of 4.

    Source: arXiv 2104.08378, section 3 (the pattern, and pruning to it).

    >>> mask = two_of_four(tf.constant([4.0, 1.0, -3.0, 2.0]), [0])
    >>> mask.numpy().tolist()
    [True, False, True, False]
    """
    rest = [i for i in range(len(kernel.shape)) if i not in axes]
    order = [*rest, *axes]
    turned = tf.transpose(tf.abs(tf.cast(kernel, tf.float32)), order)
    fours = tf.reshape(turned, [-1, GROUP])
    rank = tf.argsort(tf.argsort(fours, stable=True), stable=True)
    stays = tf.reshape(rank >= GROUP - KEPT, turned.shape)
    back = [order.index(axis) for axis in range(len(order))]
    return tf.transpose(stays, back)


def summed_axes(layer: keras.Layer) -> list[int]:
    """Returns the axes of a layer's kernel that its product sums over.

    Of a convolution, those of the channels: a GPU takes its pattern there.
    """
    rank = len(layer.kernel.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        terms, output = layer.equation.replace(" ", "").split("->")
        kernel = terms.split(",")[1]
        return [i for i, axis in enumerate(kernel) if axis not in output]
    if isinstance(layer, TRANSPOSED):
        return [rank - 1]
    return [rank - 2]


def _flat_magnitudes(kernel: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.abs(tf.cast(kernel, tf.float32)), [-1])
