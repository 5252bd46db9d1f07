"""What a diagnosis finds, and the search through one tensor after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._keras import call_context

DATA = ("input data", "label", "sample weight")
Named = Iterable[tuple[str, Any]]


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """The first tensor of a training step with a NaN or an infinity.

    Attributes:
        tensor: what it is: `"input data"`, `"label"`, `"sample weight"`;
            `"input"`, `"weight"` or `"activation"` of a layer; `"loss"`,
            `"scaled loss"`; `"gradient of activation"`, `"gradient of
            weight"` or `"gradient of input"`, of the scaled loss; or
            `"observed amax"`, of a product in FP8, which saturates.
        name: path of the weight, or the key among several tensors; else "".
        layer: path of the layer from the model down, or "".
        layer_class: its class, or "".
        shape: of the tensor.
        dtype: of the tensor.
        nans: how many NaN it holds.
        infinities: how many infinities of either sign.
        first: index of the first of these.
        before: largest finite magnitude in what was computed just before,
            such as the layer's input and weights: near the maximum of the
            dtype, the value has overflowed.  Nothing comes before data.
        loss_scale: what the loss was multiplied by, where that went into the
            tensor; else 1.
        by_scale_alone: whether without it all is finite.

    >>> str(NonFinite("loss", "", "", "", (), "float32", 1, 0, (), 2.5))
    'first non-finite value: loss, float32 []: 1 NaN, 0 infinite, first at [];
    largest magnitude just before: 2.5'
    """

    tensor: str
    name: str
    layer: str
    layer_class: str
    shape: tuple[int, ...]
    dtype: str
    nans: int
    infinities: int
    first: tuple[int, ...]
    before: float
    loss_scale: float = 1.0
    by_scale_alone: bool = False

    def __str__(self) -> str:
        """Says it in one sentence."""
        said = (
            f"first non-finite value: {_named(self)}: "
            f"{self.nans} NaN, {self.infinities} infinite, first at "
            f"{[*self.first]}"
        )
        if self.tensor not in DATA:
            said += f"; largest magnitude just before: {self.before:.4g}"
        if self.loss_scale != 1.0:
            without = (
                "all is finite" if self.by_scale_alone else "it is no better"
            )
            said += f"; without the loss scale, {self.loss_scale:g}, {without}"
        return said


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """Gradients that are finite, and so large that the step is skipped.

    Attributes:
        tensor: `"gradient of weight"`.
        name: path of the weight whose gradient is largest.
        layer: path of its layer from the model down.
        layer_class: its class.
        shape: of the gradient.
        dtype: of the gradient.
        largest: its largest magnitude, without the loss scale.
        limit: from which on a `tfmp.optimizers.LossScaleOptimizer` skips.

    >>> print(TooLarge("gradient of weight", "net/head/kernel", "net/head",
    ...     "Dense", (3, 1), "float32", 2e25, 1e19))
    all values are finite, but a gradient is too large: gradient of weight
    'net/head/kernel' of layer 'net/head' (Dense), float32 [3, 1]: largest
    magnitude 2e+25, without the loss scale; from 1e+19 on the step is skipped,
    as the norm of all gradients, or Adam's squares, might not be finite
    """

    tensor: str
    name: str
    layer: str
    layer_class: str
    shape: tuple[int, ...]
    dtype: str
    largest: float
    limit: float

    def __str__(self) -> str:
        """Says it in one sentence."""
        return (
            "all values are finite, but a gradient is too large: "
            f"{_named(self)}: largest magnitude {self.largest:.4g}, without "
            f"the loss scale; from {self.limit:.4g} on the step is skipped, "
            "as the norm of all gradients, or Adam's squares, might not be "
            "finite"
        )


def _named(found: NonFinite | TooLarge) -> str:
    name = f" {found.name!r}" if found.name else ""
    layer = f" of layer {found.layer!r} ({found.layer_class})"
    return (
        f"{found.tensor}{name}{layer if found.layer else ''}, "
        f"{found.dtype} {[*found.shape]}"
    )


class NonFiniteError(FloatingPointError):
    """Training that cannot go on, and the finding that says why.

    Args:
        message: what to say.
        finding: None if the diagnosis found nothing.
        step: the training step, counted from 1, that failed last.

    >>> raise NonFiniteError("50 steps in a row were skipped", None, 1200)
    Traceback (most recent call last):
    tfmp.debug.findings.NonFiniteError: 50 steps in a row were skipped
    """

    def __init__(
        self,
        message: str,
        finding: NonFinite | TooLarge | None = None,
        step: int | None = None,
    ) -> None:
        super().__init__(message)
        self.finding = finding
        self.step = step


class Search:
    """Looks at tensors in turn and keeps the first finding.

    Attributes:
        finding: what was found, None so far.
    """

    def __init__(self) -> None:
        self.finding: NonFinite | TooLarge | None = None
        self._before = 0.0

    def look(
        self,
        what: str,
        tensors: Named,
        layer: str = "",
        layer_class: str = "",
        anew: bool = False,
    ) -> None:
        """Looks at tensors, unless something is found already.

        Args:
            what: they are, as `NonFinite.tensor` says it.
            tensors: each with a name; what is not floating is skipped.
            layer: whose they are.
            layer_class: whose they are.
            anew: whether what comes next is computed from these, and not
                from what was seen before them.
        """
        largest = 0.0 if anew else self._before
        for name, tensor in tensors:
            values = None if self.finding else _floating(tensor)
            if values is None:
                continue
            finite = tf.math.is_finite(values)
            if not bool(tf.reduce_all(finite)):
                where = (what, name, layer, layer_class)
                self.finding = _found(where, tensor, values, self._before)
            elif tf.size(values):
                largest = max(largest, float(tf.reduce_max(tf.abs(values))))
        self._before = largest

    def prefer(
        self, what: str, tensors: Named, layer: str, layer_class: str
    ) -> None:
        """Puts a finding among these tensors, if any, before that of `look`."""
        other = Search()
        other.look(what, tensors, layer, layer_class)
        if isinstance(other.finding, NonFinite):
            if isinstance(self.finding, NonFinite):
                before = self.finding.before
                self.finding = dataclasses.replace(other.finding, before=before)


def _floating(tensor: Any) -> tf.Tensor | None:
    """Returns a tensor's values in a dtype that can be looked at."""
    if isinstance(tensor, keras.Variable):
        with call_context.uncast():
            tensor = tensor.value
    elif isinstance(tensor, tf.RaggedTensor):
        tensor = tensor.flat_values
    elif isinstance(tensor, tf.SparseTensor):
        tensor = tensor.values
    if not isinstance(tensor, tf.Tensor | tf.Variable | tf.IndexedSlices):
        return None
    if not tensor.dtype.is_floating:
        return None
    values = tf.convert_to_tensor(tensor)
    wide = values.dtype in (tf.float32, tf.float64)
    return values if wide else tf.cast(values, tf.float32)


def _found(
    where: tuple[str, str, str, str],
    tensor: Any,
    values: tf.Tensor,
    before: float,
) -> NonFinite:
    array = values.numpy()
    bad = np.flatnonzero(~np.isfinite(array))
    return NonFinite(
        *where,
        tuple(array.shape),
        tf.as_dtype(tensor.dtype).name,
        int(np.isnan(array).sum()),
        int(np.isinf(array).sum()),
        tuple(int(i) for i in np.unravel_index(bad[0], array.shape)),
        before,
    )
