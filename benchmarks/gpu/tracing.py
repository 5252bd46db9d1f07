"""Writes a variant as StableHLO, with all that is needed to run it.

In XLA's program of a TensorFlow function the arguments come first, then the
captured inputs: variables, and tensors that were computed before.  The results
are those of the function, then the new values of variables; which argument
each of these belongs to, the program says by its aliases.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import keras
import numpy as np

from benchmarks.gpu import arrays, variants
from tfmp._core import stablehlo
from tfmp._inspection import hlo, inspected_steps
from tfmp.conversion.sizes import Sizes

CPU = "/CPU:0"
ALIAS = re.compile(
    r"parameter_number = (\d+) : i64\}, output_index = array<i64: (\d+)>"
)
LOCATION = re.compile(
    r' loc\((?:[^()"]|"[^"]*"|\([^()]*\))*\)|^#loc.*\n', re.MULTILINE
)
SIGNATURE = re.compile(r"func\.func (?:public )?@main\((.*)\) -> (.*) \{")
TYPE = re.compile(r"tensor<([^>]*)>")
ELEMENTS = {
    **stablehlo.ELEMENT_TYPES,
    "bool": "i1",
    "int32": "i32",
    "int64": "i64",
}


def trace(
    variant: variants.Variant, platform: str
) -> tuple[str, dict[str, Any]]:
    """Returns the StableHLO text of a variant, and its manifest.

    Its model, if it has one, gets the variables that the manifest describes.

    Args:
        variant: the function and its arguments.
        platform: `"cuda"` or `"cpu"`.
    """
    specs = tuple(each.spec for each in variant.inputs)
    step = inspected_steps.of_function(variant.function, specs, Sizes())
    inputs = [*variant.inputs, *_captured(step, variant.model)]
    multiplied = hlo.Program(step.for_accelerators("hlo")).products()
    if platform == "cpu":
        text = step.text("stablehlo", CPU)
    else:
        text = step.for_accelerators("stablehlo")
    text = LOCATION.sub("", text)
    return text, {
        "platform": platform,
        "inputs": [each._asdict() for each in inputs],
        "feedback": _feedback(text, inputs, variant.feedback),
        "loss": variant.loss,
        "flops": sum(product.flops for product in multiplied),
        "products": len(multiplied),
        "float8_products": sum(product.is_float8 for product in multiplied),
    }


def variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns all that a training step may change, by path."""
    every = [*model.variables, *model.optimizer.variables]
    return {v.path: v for v in [*every, *model.metrics_variables]}


def _captured(
    step: inspected_steps.Step, model: keras.Model | None
) -> list[variants.Input]:
    """Describes what a function reads, and has the variables agree."""
    traced = step.function.get_concrete_function(*step.specs)
    known = variables(model) if model else {}
    handles = {id(v.value.handle): v for v in known.values()}
    inputs = []
    for number, tensor in enumerate(traced.captured_inputs):
        variable = handles.get(id(tensor))
        name = f"constant {number}" if variable is None else variable.path
        value = np.asarray(tensor if variable is None else variable)
        shape, dtype = value.shape, value.dtype.name
        how = arrays.describe(value, seed=zlib.crc32(name.encode()))
        inputs.append(variants.Input(name, shape, dtype, how))
        if variable is not None:
            variable.assign(arrays.make(how, shape, dtype))
    return inputs


def _feedback(
    text: str, inputs: list[variants.Input], known: dict[int, int]
) -> list[tuple[int, int]]:
    """Returns pairs: a result, and the argument that it is for.

    Raises:
        RuntimeError: if the program is not of these inputs.
    """
    signature = SIGNATURE.search(text)
    if signature is None:
        raise RuntimeError("the program has no function `main`")
    given, results = (TYPE.findall(part) for part in signature.groups())
    expected = [
        "x".join([*map(str, each.shape), ELEMENTS[each.dtype]])
        for each in inputs
    ]
    if given != expected:
        raise RuntimeError(f"it takes {given}, not {expected}")
    aliases = {int(result): int(into) for into, result in ALIAS.findall(text)}
    pairs = sorted({**known, **aliases}.items())
    wrong = [pair for pair in pairs if results[pair[0]] != given[pair[1]]]
    if wrong:
        raise RuntimeError(f"results do not fit their arguments: {wrong}")
    return pairs
