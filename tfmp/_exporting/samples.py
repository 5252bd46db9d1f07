"""What a model is called with: the specs, and values to check with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmp._keras import compile_arguments
from tfmp.conversion.records import flatten

BATCH, LENGTH, PIXELS = 4, 8, 32  # where a spec leaves them open


def signature(model: keras.Model, given: Any = None) -> list[Any]:
    """Returns the specs of a model's arguments, each with a name of its own.

    Args:
        model: built.
        given: what a user asked for; None for the model's own inputs.

    Raises:
        ValueError: if the model's inputs are not known.
        TypeError: if something in `given` is no spec.
    """
    if given is not None and not isinstance(given, (list, tuple)):
        given = [given]
    try:
        specs = compile_arguments.input_signature(model, given)
    except TypeError as error:
        raise TypeError(
            "`input_signature` must hold specs such as keras.InputSpec. "
            f"Received: {given!r}"
        ) from error
    flat = [
        tf.TensorSpec(spec.shape, _wide(spec.dtype, given), name)
        for spec, name in zip(
            keras.tree.flatten(specs),
            _names(spec.name for spec in keras.tree.flatten(specs)),
            strict=True,
        )
    ]
    found: list[Any] = keras.tree.pack_sequence_as(list(specs), flat)
    return found


def _wide(dtype: tf.DType, given: Any) -> tf.DType:
    """Keras says the compute dtype of a model of its own class; any will do."""
    own = given is None and dtype in (tf.bfloat16, tf.float16)
    return tf.float32 if own else dtype


def _names(wanted: Iterable[str | None]) -> list[str]:
    """Makes names that every runtime takes as they are, all different."""
    names: list[str] = []
    for number, name in enumerate(wanted):
        name = re.sub(r"\W", "_", name or f"input_{number}")
        if not name[0].isalpha():
            name = f"input_{name}"
        names.append(f"{name}_{number}" if name in names else name)
    return names


def values(
    model: keras.Model, signature: list[Any], inputs: Any
) -> list[np.ndarray]:
    """Returns an array for each spec, in the order of `tf.nest.flatten`.

    Args:
        model: whose embeddings limit random indices.
        signature: as `signature` gave it.
        inputs: what a user wants to check with; None for random numbers.

    Raises:
        ValueError: if `inputs` does not fit, or is needed.
    """
    specs = keras.tree.flatten(signature)
    if inputs is None:
        generator = np.random.default_rng(0)
        top = _indices(model)
        return [_random(generator, spec, top) for spec in specs]
    flat = keras.tree.flatten(inputs)
    if len(flat) != len(specs):
        raise ValueError(
            f"`inputs` must hold {len(specs)} arrays, as the signature does. "
            f"Received: {len(flat)} of them"
        )
    arrays = []
    for value, spec in zip(flat, specs, strict=True):
        array = np.asarray(value, spec.dtype.as_numpy_dtype)
        if not spec.shape.is_compatible_with(array.shape):
            raise ValueError(
                f"`inputs` must have shape {spec.shape} for '{spec.name}'. "
                f"Received: shape {array.shape}"
            )
        arrays.append(array)
    return arrays


def _indices(model: keras.Model) -> int:
    """Returns how many indices all embeddings know; two if there is none."""
    known = [
        layer.input_dim
        for layer in flatten(model).values()
        if isinstance(layer, keras.layers.Embedding)
    ]
    return min(known, default=2)


def _random(
    generator: np.random.Generator, spec: tf.TensorSpec, top: int
) -> np.ndarray:
    lengths = spec.shape.as_list()
    other = LENGTH if len(lengths) < 4 else PIXELS
    shape = [n or (other if axis else BATCH) for axis, n in enumerate(lengths)]
    dtype = spec.dtype
    if dtype.is_floating:
        return generator.normal(size=shape).astype(dtype.as_numpy_dtype)
    if dtype.is_integer or dtype.is_bool:
        numbers = generator.integers(2 if dtype.is_bool else top, size=shape)
        return numbers.astype(dtype.as_numpy_dtype)
    raise ValueError(
        f"`inputs` must be given for '{spec.name}': there are no random "
        f"numbers of its dtype. Received: inputs=None, dtype {dtype.name}"
    )
