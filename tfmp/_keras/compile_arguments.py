"""The arguments of `model.compile`, and the specs of a model's inputs.

Keras keeps what a model was compiled with for its files alone.  A conversion
that wraps the optimizer has to change that too, and a loss is read from it.
`tests/test_convert.py` and `tests/test_one_line.py` tell.
"""

from __future__ import annotations

from typing import Any

import keras
from keras.src.export.export_utils import (
    get_input_signature,
    make_tf_tensor_spec,
)


def given(model: keras.Model) -> dict[str, Any] | None:
    """Returns the objects that `model.compile` was given, None if never."""
    config = getattr(model, "_compile_config", None)
    return None if config is None else dict(config.config)


def remember(model: keras.Model, **arguments: Any) -> None:
    """Changes what a file will say that `model.compile` was given."""
    model._compile_config.config.update(arguments)


def input_signature(model: keras.Model, specs: Any = None) -> Any:
    """Returns the specs of a model's inputs, or those given, as tensors'."""
    specs = get_input_signature(model) if specs is None else specs
    return keras.tree.map_structure(make_tf_tensor_spec, specs)
