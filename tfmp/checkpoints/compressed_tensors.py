"""FP8 weights as servers of language models read them: compressed-tensors.

A folder holds `model.safetensors` and `config.json`.  Of a linear layer NAME:

    NAME.weight         F8_E4M3 [out, in]
    NAME.weight_scale   float32 [1], or [out, 1]; weight * weight_scale is the
                        kernel
    NAME.input_scale    float32 [1], if inputs are quantized by a fixed scale
    NAME.bias           [out]

of one that is not quantized weight and bias, and of anything else
`NAME.variable` as Keras has it.  A name is a path of Keras with dots, without
that of the model.  `config.json` says how, in the words of the
presets "FP8" and "FP8_DYNAMIC".

Source: https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfmp._keras import layer_parts
from tfmp._support import checks
from tfmp.checkpoints import safetensors_files

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}


@dataclasses.dataclass(frozen=True)
class Linear:
    """One product of inputs and a kernel, as a server sees it.

    Attributes:
        weight: `[out, in]`, E4M3 if there is a scale.
        weight_scale: float32 `[1]` or `[out, 1]`; None if not quantized.
        input_scale: float32 `[1]`; None to be found from the inputs.
    """

    weight: np.ndarray
    weight_scale: np.ndarray | None = None
    input_scale: np.ndarray | None = None

    def kernel(self) -> np.ndarray:
        """Returns the kernel, float32 `[in, out]`."""
        wide = self.weight.astype(np.float32)
        scale = 1.0 if self.weight_scale is None else self.weight_scale
        found: np.ndarray = (wide * scale).T
        return found

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """Returns what stands in the file."""
        parts = dataclasses.asdict(self)
        return {f"{name}.{k}": v for k, v in parts.items() if v is not None}


def write(
    folder: pathlib.Path,
    linears: Mapping[str, Linear],
    others: Mapping[str, np.ndarray],
) -> None:
    """Writes a folder.

    Args:
        folder: made if it is not there.
        linears: by name.
        others: all other tensors, by name.
    """
    folder.mkdir(exist_ok=True)
    tensors = dict(others)
    for name, linear in linears.items():
        tensors |= linear.tensors(name)
    safetensors_files.write(folder / WEIGHTS, tensors)
    text = json.dumps(_config(linears), indent=2)
    (folder / CONFIG).write_text(f"{text}\n", encoding="utf-8")


def _config(linears: Mapping[str, Linear]) -> dict[str, Any]:
    scales = {n: x.weight_scale for n, x in linears.items()}
    by_channel = any(s is not None and s.ndim > 1 for s in scales.values())
    low = [x for x in linears.values() if x.weight_scale is not None]
    fixed = all(each.input_scale is not None for each in low)
    inputs = {
        **FLOAT8,
        "strategy": "tensor" if fixed else "token",
        "dynamic": not fixed,
    }
    weights = {
        **FLOAT8,
        "strategy": "channel" if by_channel else "tensor",
        "dynamic": False,
    }
    return {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": weights,
                    "input_activations": inputs,
                }
            },
            "ignore": [name for name, s in scales.items() if s is None],
        }
    }


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a folder, each linear's kernel in its place.

    `NAME.kernel`, float32 `[in, out]`, stands for the weight and its scales.
    """
    tensors = safetensors_files.read(folder / WEIGHTS)
    for name in [n[:-7] for n in tensors if n.endswith(".weight")]:
        weight = tensors.pop(f"{name}.weight")
        scale = tensors.pop(f"{name}.weight_scale", None)
        tensors.pop(f"{name}.input_scale", None)
        tensors[f"{name}.kernel"] = Linear(weight, scale).kernel()
    return tensors


def variables_by_name(model: keras.Layer) -> dict[str, keras.Variable]:
    """Returns a model's weights by the names that a file has for them."""
    weights = {id(variable) for variable in model.weights}
    return {
        f"{name}.{variable.name}".lstrip("."): variable
        for name, layer in layers_by_name(model).items()
        for variable in layer_parts.own_weights(layer)
        if id(variable) in weights
    }


def layers_by_name(model: keras.Layer) -> dict[str, keras.Layer]:
    """Returns a model's layers by their paths below it, with dots.

    Of two with one path, the second gets a number.
    """
    found: dict[str, keras.Layer] = {}
    seen: set[int] = set()

    def visit(layer: keras.Layer, path: str) -> None:
        """Notes a layer and all below it."""
        if id(layer) in seen:
            return
        seen.add(id(layer))
        free, number = path, 1
        while free in found:
            free, number = f"{path}_{number}", number + 1
        found[free] = layer
        for child in layer_parts.children(layer):
            visit(child, f"{free}.{child.name}".lstrip("."))

    visit(model, "")
    return found


def load_safetensors(
    model: keras.Layer, folder: str | os.PathLike[str]
) -> None:
    """Loads what `tfmp.export(model, folder, "safetensors")` wrote.

    Kernels get the values that the file has in FP8, in the model's precision.
    All fit and are assigned, or none is.

    Args:
        model: built, with layers of the same names.
        folder: that holds `model.safetensors`.

    Raises:
        OSError: if the file cannot be read.
        TypeError: if `model` is no Keras model.
        ValueError: if it is damaged, or its names or shapes are not the
            model's.

    >>> import tempfile, tfmp
    >>> layer = keras.layers.Dense(16, name="head")
    >>> model = keras.Sequential([keras.Input([32]), layer])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = tfmp.export(model, f"{folder}/fp8", "safetensors")
    ...     load_safetensors(model, f"{folder}/fp8")
    """
    checks.instance("model", model, keras.Layer, "a Keras model or layer")
    tensors = read(checks.path("folder", folder))
    variables = variables_by_name(model)
    if any(v.dtype == "uint8" for v in variables.values()):
        raise ValueError(
            "`model` must not be frozen; `tfmp.thaw` gives one that loads. "
            f"Received: {model!r}"
        )
    if lost := variables.keys() ^ tensors.keys():
        raise ValueError(
            "`folder` must hold the model's weights by the names of its "
            f"layers. Received: {str(folder)!r}, which differs in "
            f"{', '.join(sorted(lost)[:6])}"
        )
    sizes = {n: int(np.prod(v.shape)) for n, v in variables.items()}
    for name, tensor in tensors.items():
        if tensor.size != sizes[name]:
            raise ValueError(
                f"`folder` must hold {sizes[name]} numbers for {name!r}, of "
                f"shape {tuple(variables[name].shape)}. Received: shape "
                f"{tensor.shape}"
            )
    for name, tensor in tensors.items():
        variables[name].assign(tensor.reshape(variables[name].shape))
