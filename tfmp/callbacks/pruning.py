"""`Pruning`: sets the smallest weights to zero while a model trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._keras.callback_states import Logs
from tfmp._monitoring.step_count import StepCount
from tfmp._support import checks
from tfmp.callbacks import pruning_masks
from tfmp.callbacks.callback_states import Kept
from tfmp.conversion import layer_choice, programs
from tfmp.conversion.records import flatten
from tfmp.conversion.sizes import Sizes

PATTERNS = ("unstructured", "2:4")
SCOPES = ("layer", "model")
MOST = 1 - 2.0**-20  # of a layer: something has to stay


class Pruning(keras.callbacks.Callback, Kept):
    """Sets the smallest weights of kernels to zero while `fit` trains.

        sparsity(t) = s - (s - s0) * (1 - (t - begin) / (end - begin))**3

    is the share of zeros from step `begin` to step `end`, from `s0` to `s`,
    looked at every `every` steps; before that nothing is pruned, afterwards it
    is `s`.  What goes has the least magnitude.  A weight that was pruned stays
    zero: a mask is the constraint of its kernel, which the optimizer applies in
    the step that it compiles, in every precision.

    The zeros are in the kernels, and so in every file of the model.  The mask
    stays with the model in this process, also after `fit`; a model that was
    loaded, and trains on, needs the callback again, which finds the same
    weights.  With `tfmp.callbacks.BackupAndRestore` put it before that one.

    `"2:4"` keeps the two largest of each four weights that a product sums
    over, from step `begin` on, which is what sparse tensor cores take.

    What it gains: zeros are compressed away where a file is zipped, and a
    runtime that has kernels for 2:4 (TensorRT, of an ONNX file) multiplies
    twice as fast at most.  XLA has none: neither training nor a SavedModel
    becomes faster, of no pattern, on no device.

    Args:
        sparsity: `s`, the share of zeros in the end, from 0 to below 1;
            `"2:4"` has 0.5 and no other.
        begin: the first step that prunes, from 0.
        end: the step that reaches `sparsity`; None prunes at `begin` at once.
        every: steps between two looks at the magnitudes.
        initial_sparsity: `s0`, at step `begin`.
        pattern: `"unstructured"` or `"2:4"`.
        scope: `"layer"`, the same share of each kernel, or `"model"`, the
            smallest weights of all kernels together.
        filter: which layers: a pattern of paths, or a list of them, as in
            `tfmp.PrecisionMap`, or a function of layer and path; None for
            every layer with a kernel of two axes or more.

    Attributes:
        skipped: the layers that are not pruned though `filter` has them, each
            with the reason.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is out of range; by `fit`, before its first
            step, if no layer is to be pruned.

    Sources: arXiv 1710.01878, equation 1 (the schedule); arXiv 2104.08378
    (2:4).

    >>> layer = keras.layers.Dense(4, name="head")
    >>> model = keras.Sequential([keras.Input([8]), layer], name="net")
    >>> model.compile("adam", "mse")
    >>> x, y = keras.ops.ones([6, 8]), keras.ops.ones([6, 4])
    >>> pruning = Pruning(0.75)
    >>> history = model.fit(x, y, 2, verbose=0, callbacks=[pruning])
    >>> history.history["sparsity"], pruning.sparsities()
    ([0.75], {'net/head': 0.75})
    """

    def __init__(
        self,
        sparsity: float = 0.5,
        begin: int = 0,
        end: int | None = None,
        every: int = 100,
        *,
        initial_sparsity: float = 0.0,
        pattern: str = "unstructured",
        scope: str = "layer",
        filter: Any = None,
    ) -> None:
        super().__init__()
        self.sparsity = checks.number("sparsity", sparsity, 0.0, MOST)
        self.begin = checks.integer("begin", begin, 0)
        if end is not None:
            checks.integer("end", end, begin + 1)
        self.end = begin if end is None else end
        self.every = checks.integer("every", every, 1)
        self.initial_sparsity = checks.number(
            "initial_sparsity", initial_sparsity, 0.0, self.sparsity
        )
        self.pattern = checks.choice("pattern", pattern, PATTERNS)
        self.scope = checks.choice("scope", scope, SCOPES)
        if pattern == "2:4" and (sparsity != 0.5 or end is not None):
            raise ValueError(
                "`pattern` '2:4' must have sparsity=0.5 and no `end`: half of "
                "the weights go at once. "
                f"Received: sparsity={sparsity}, end={end}"
            )
        self._choice = layer_choice.choice(
            "all" if filter is None else checked_filter(filter), None, Sizes()
        )
        self.skipped: dict[str, str] = {}
        self._kernels: dict[str, keras.Variable] = {}
        self._layers: dict[str, keras.Layer] = {}
        self._count = StepCount(1)
        self._done = -1

    def on_train_begin(self, logs: Logs = None) -> None:
        """Forgets what it knew of the masks: weights may come from a file."""
        self._kernels, self._done = {}, -1

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Counts."""
        batches = (self.params or {}).get("steps")
        self._count.begin_epoch(epoch, self.model.optimizer, batches)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Prunes, if it is time to."""
        self._count.begin_execution(batch, self.model.steps_per_execution)
        if not self._kernels:
            self._find()
        time = self._looked(self._count.step)
        if time is not None and time != self._done:
            self._prune(self.sparsity_at(time))
            self._done = time

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Counts."""
        self._count.end_execution(batch)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Adds the share of zeros to what `fit` logs."""
        if logs is not None:
            sizes = [v.shape.num_elements() for v in self._kernels.values()]
            shares = list(self.sparsities().values())
            logs["sparsity"] = float(np.average(shares, weights=sizes))

    def on_train_end(self, logs: Logs = None) -> None:
        """Prunes what `fit` ends with, such as an average of past weights."""
        for kernel in self._kernels.values():
            kernel.assign(kernel.constraint(kernel))

    def get_state(self) -> dict[str, Any]:
        """Returns what a backup keeps: where it is; masks are in the zeros."""
        return {"count": self._count.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a backup."""
        self._count.set_state(state["count"])

    def sparsity_at(self, step: int) -> float:
        """Returns the share of zeros that the schedule has at a step."""
        if step < self.begin:
            return 0.0
        if step >= self.end:
            return self.sparsity
        left = 1 - (step - self.begin) / (self.end - self.begin)
        return self.sparsity - (self.sparsity - self.initial_sparsity) * left**3

    def sparsities(self) -> dict[str, float]:
        """Returns the share of zeros in each pruned kernel, by its path."""
        return {
            path: float(tf.reduce_mean(tf.cast(_is_zero(kernel), tf.float64)))
            for path, kernel in self._kernels.items()
        }

    def _looked(self, step: int) -> int | None:
        """Returns when the magnitudes were looked at last, None if never."""
        if step < self.begin:
            return None
        if step >= self.end:
            return self.end
        return step - (step - self.begin) % self.every

    def _find(self) -> None:
        """Chooses the kernels, and constrains them."""
        self.skipped, self._layers = {}, {}
        layers = flatten(self.model)
        for path, layer in layers.items():
            kernel = getattr(layer, "kernel", None)
            if kernel is None or self._choice.refusal(layer, path, None):
                continue
            if why := self._refusal(layer, kernel):
                self.skipped[path] = why
            else:
                self._layers[path] = layer
        if not self._layers:
            raise ValueError(
                "`filter` must leave a layer to prune. Received: "
                f"{self._choice.rule}; not pruned: {self.skipped}"
            )
        self._kernels = {p: layer.kernel for p, layer in self._layers.items()}
        with self.model.distribute_strategy.scope():
            news = [
                pruning_masks.constrain(kernel)
                for kernel in self._kernels.values()
            ]
        if any(news):
            programs.drop(self.model)

    def _refusal(self, layer: keras.Layer, kernel: Any) -> str | None:
        """Returns why a layer with a kernel cannot be pruned."""
        if getattr(layer, "lora_enabled", False):
            return "LoRA trains beside it"
        if getattr(layer, "quantization_mode", None) is not None:
            return "Keras has quantized it"
        if not isinstance(kernel, keras.Variable) or len(kernel.shape) < 2:
            return "its kernel is no variable of two axes or more"
        if not kernel.trainable:
            return "it is frozen"
        if self.pattern == "2:4":
            if isinstance(layer, pruning_masks.DEPTHWISE):
                return "its product sums over no channels"
            axes = pruning_masks.summed_axes(layer)
            summed = int(np.prod([kernel.shape[axis] for axis in axes]))
            if summed % pruning_masks.GROUP:
                return f"its product sums over {summed}, no multiple of 4"
        return None

    def _prune(self, sparsity: float) -> None:
        kernels = {
            path: tf.convert_to_tensor(v) for path, v in self._kernels.items()
        }
        if self.pattern == "2:4":
            masks = [
                pruning_masks.two_of_four(
                    kernel, pruning_masks.summed_axes(self._layers[path])
                )
                for path, kernel in kernels.items()
            ]
        elif self.scope == "model":
            masks = pruning_masks.smallest(list(kernels.values()), sparsity)
        else:
            masks = [
                pruning_masks.smallest([kernel], sparsity)[0]
                for kernel in kernels.values()
            ]
        for variable, mask in zip(self._kernels.values(), masks, strict=True):
            variable.constraint.mask.assign(mask)
            variable.assign(variable.constraint(variable))


def _is_zero(kernel: keras.Variable) -> tf.Tensor:
    return tf.equal(tf.convert_to_tensor(kernel), 0)


def checked_filter(filter: Any) -> Any:
    """Returns the argument `filter`, if it says which layers.

    Raises:
        ValueError: if it is `"auto"`, which is a choice of FP8.
    """
    if isinstance(filter, str) and filter == "auto":
        raise ValueError(
            "`filter` must be a pattern of paths or a list of them, a "
            f"function, or None. Received: {filter!r}"
        )
    return filter
