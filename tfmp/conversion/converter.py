"""`convert`, `revert` and `set_precision`: models changed in place."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfmp import policies
from tfmp._keras import global_notes
from tfmp._support import checks
from tfmp.conversion import training_update
from tfmp.conversion.conversion_report import ConversionReport
from tfmp.conversion.converted_layers import undo
from tfmp.conversion.defaults import PRODUCT, default_of
from tfmp.conversion.hub_layers import overflows
from tfmp.conversion.layer_choice import ENDS, Choice, choice
from tfmp.conversion.plan import Conversion
from tfmp.conversion.records import flatten, record_of
from tfmp.conversion.sizes import Sizes
from tfmp.policies.precision_map import PrecisionMap


def convert(
    model: keras.Layer,
    policy: Any = "mixed_float8",
    filter: Any = None,
    *,
    target: Any = None,
    skip: tuple[str, ...] = (),
    batch_size: int = 32,
    length: int = 512,
    inputs: Any = None,
) -> ConversionReport:
    """Converts a Keras model in place, so that it trains in FP8.

    Every `Dense`, `EinsumDense`, `Conv1D`, `Conv2D` and `Conv3D` inside that
    is chosen contracts on FP8 operands; every other layer computes in the
    policy's compute dtype, or in float32, as `tfmp.conversion.DEFAULTS` says.
    The layers stay the same objects with the same weights, names and paths.
    What is not built yet is converted when it is.

    A layer that was made with `dtype="float32"` stays, unless a key of a map
    names it.  Keras forgets that of a `Lambda`, of a layer with objects among
    its arguments, and of one of a file or a clone: name those in a map.

    A compiled model goes on training: its optimizer's state is kept.  If a
    Keras optimizer is built already, which then takes no new variables, it is
    put inside a `tfmp.optimizers.LossScaleOptimizer`.

    Args:
        model: any Keras model or layer, also trained or compiled.
        policy: a policy, its name, or a `PrecisionMap`.
        filter: which layers go to FP8: `"all"` that can; `"auto"`, those where
            `tfmp.cost_model` predicts a gain; a pattern of paths, or a list
            of them, read as in `PrecisionMap`; or a function of layer and
            path that returns True or False.  None is "auto" if there is a
            target, `target` or this machine's GPU, else "all".
        target: for `"auto"`: a name of `tfmp.cost_model.TARGETS`, or a
            `Target`; by default this machine's GPU, else "h200".
        skip: `"first"`, `"last"`, or both: of the layers that could, these
            stay in 16 bits.
        batch_size: what to assume for an open first length.
        length: what to assume for any other open length.
        inputs: what the model is called on, arrays or specs, for the sizes of
            its products; None is what it says that it takes.  It is called on
            symbols, which computes nothing.

    Returns:
        A `ConversionReport`: of each layer its precision, products, share of
        the FLOPs, and the reason.

    Raises:
        TypeError, ValueError: if an argument is not allowed, such as a model
            that is frozen.  The model is then as it was.

    >>> model = keras.Sequential(
    ...     [keras.Input([64]), keras.layers.Dense(32), keras.layers.Dense(8)]
    ... )
    >>> report = convert(model, filter="all", skip=("last",))
    >>> [row.precision for row in report.rows]
    ['float8', 'bfloat16']
    """
    _check_model(model)
    sizes = Sizes(batch_size, length)
    chosen = choice(filter, target, sizes)
    before = ConversionReport(model, sizes=sizes, inputs=inputs)
    if chosen.needs_shapes:
        chosen = choice(filter, target, sizes, before.trace)
    plan = Conversion(
        _as_map("policy", policy),
        _skipping(chosen, model, checks.names("skip", skip, ENDS)),
        keep_float32=_is_narrow(model),
    )
    notes = _change(model, plan)
    return before.after(plan.choice.rule, tuple(notes))


def set_precision(model: keras.Layer, precision: Any) -> ConversionReport:
    """Changes the precision of some layers of a model, between epochs.

    A layer that no key names stays as it is.  Weights, optimizer and FP8
    state are kept; a compiled step is traced once more.

    Args:
        model: any Keras model or layer.
        precision: a `PrecisionMap`, or its dictionary of paths or patterns to
            policies; or one policy for all layers.

    Returns:
        A `ConversionReport`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.  The model is
            then as it was.

    >>> model = keras.Sequential([keras.Input([8]), keras.layers.Dense(4)])
    >>> set_precision(model, {"dense.*": "mixed_bfloat16"}).rows[0].precision
    'bfloat16'
    """
    _check_model(model)
    plan = plan_of(precision)
    return ConversionReport(model, "", notes=tuple(_change(model, plan)))


def plan_of(precision: Any, name: str = "precision") -> Conversion:
    """Reads the argument of `set_precision`.

    Args:
        precision: as there.
        name: of the argument, for errors.

    Raises:
        TypeError, ValueError: if it is not allowed.
    """
    everything = choice("all", None, Sizes())
    only = isinstance(precision, Mapping)
    return Conversion(_as_map(name, precision), everything, only_matched=only)


def revert(model: keras.Layer) -> None:
    """Gives back the Keras layers that a conversion changed, in place.

    Weights are kept, bit for bit, and each layer gets the policy back that it
    had; where that is not known, as in a model loaded from a file, the mixed
    policy of its compute dtype.

    Args:
        model: any Keras model or layer.

    Raises:
        TypeError: if `model` is something else.
        ValueError: if it is frozen.

    >>> model = keras.Sequential([keras.Input([8]), keras.layers.Dense(4)])
    >>> report = convert(model, filter="all")
    >>> revert(model)
    >>> type(model.layers[0]) is keras.layers.Dense
    True
    """
    _check_model(model)
    for layer in flatten(model).values():
        undo(layer)
    training_update.follow(model)


def _change(model: keras.Layer, plan: Conversion) -> list[str]:
    global_notes.conversion_known()
    strategy = getattr(
        model, "distribute_strategy", tf.distribute.get_strategy()
    )
    with strategy.scope():
        plan.run(model, model.name)
        notes = [*training_update.follow(model), *overflows(model)]
    layers = flatten(model)
    notes += plan.notes(layers)
    paths = [*layers, *(x.path or "" for x in layers.values())]
    for given in (plan.policy, plan.choice.patterns):
        if unknown := given.unmatched(paths):
            notes.append(f"no layer has a path like {', '.join(unknown)}")
            warnings.warn(f"tfmp: {notes[-1]}", stacklevel=3)
    return notes


def _check_model(model: Any) -> None:
    checks.instance("model", model, keras.Layer, "a Keras model or layer")
    for path, layer in flatten(model).items():
        if isinstance(policies.of_layer(layer), policies.FrozenPolicy):
            raise ValueError(
                "`model` must not be frozen: `tfmp.thaw` gives one that can "
                f"change its precision. Received: {path!r}, which is frozen"
            )


def _as_map(name: str, policy: Any) -> PrecisionMap:
    if isinstance(policy, PrecisionMap):
        return policy
    try:
        if isinstance(policy, Mapping):
            return PrecisionMap(policy)
        return PrecisionMap(default=policies.checked(policy))
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`{name}` must be a policy, its name, a PrecisionMap or its "
            f"dictionary ({error}). Received: {policy!r}"
        ) from error


def _skipping(
    chosen: Choice, model: keras.Layer, skip: tuple[Any, ...]
) -> Choice:
    """Leaves out the first or the last of the layers that can run in FP8."""
    able = [x for x in flatten(model).values() if default_of(x) is PRODUCT]
    ends = {ENDS[0]: able[:1], ENDS[1]: able[-1:]}
    kept = {id(layer): end for end in skip for layer in ends[end]}

    def refusal(
        layer: keras.Layer, path: str, parent: keras.Layer | None
    ) -> str | None:
        if id(layer) in kept:
            return f"the {kept[id(layer)]} layer, left out by `skip`"
        return chosen.refusal(layer, path, parent)

    return dataclasses.replace(chosen, refusal=refusal) if kept else chosen


def _is_narrow(model: keras.Layer) -> bool:
    """Whether the model computes in 16 bits unless a layer was told."""
    record = record_of(model)
    policy = record.policy if record else model.dtype_policy
    return policy is None or policy.compute_dtype != "float32"
