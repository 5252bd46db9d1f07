"""`convert`, `revert` and `set_precision`: models changed in place."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfmp import checks, internals, policies
from tfmp.conversion import training
from tfmp.conversion.choosing import ENDS, Choice, checked_sizes, choice
from tfmp.conversion.converted import apply, undo
from tfmp.conversion.defaults import (
    DEFAULTS,
    PRECISIONS,
    PRODUCT,
    default_of,
)
from tfmp.conversion.products import Sizes, not_in_float8
from tfmp.conversion.records import flatten, record_of, stock_class
from tfmp.conversion.report import Report
from tfmp.layers import classes
from tfmp.precision_map import PrecisionMap

PENDING = "decided when it is built"


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Everything that a conversion was asked for.

    Attributes:
        policy: of each layer, by path.
        choice: among the layers that can run in FP8.
        overrides: precisions of kinds of layers, before the defaults.
        only_matched: whether layers that no key of `policy` names stay.
        keep_float32: whether a layer that computes in float32 was told to.
    """

    policy: PrecisionMap
    choice: Choice
    overrides: Mapping[type, str]
    only_matched: bool = False
    keep_float32: bool = False

    def run(self, top: keras.Layer, path: str) -> None:
        """Converts a layer and all below it, also what is built later."""
        layers = flatten(top, path)
        for name, layer in layers.items():
            self.convert_one(layer, name, _parent(layers, name))

    def run_again(self, top: keras.Layer, path: str) -> None:
        """Converts what a layer's `build` made, and decides what it could."""
        record = record_of(top)
        if record is None:
            return
        layers = flatten(top, path)
        for name, layer in layers.items():
            known, parent = record_of(layer), _parent(layers, name)
            if known is None or known.reason == PENDING:
                self.convert_one(layer, name, parent, record.policy)

    def convert_one(
        self,
        layer: keras.Layer,
        path: str,
        parent: keras.Layer | None,
        before: keras.DTypePolicy | None = None,
    ) -> None:
        """Decides about one layer and changes it.

        Args:
            layer: built or not.
            path: of the layer.
            parent: the layer that it is in, if known.
            before: the policy to go back to, if not the present one.
        """
        key = self.policy.match(path, layer.path or path)
        if not _has_precision(layer) or (self.only_matched and key is None):
            return
        if not layer.built:
            again = functools.partial(self.run_again, layer, path)
            internals.after_build(layer, again)
        policy = self.policy[path if key is None else key]
        if policies.recipe_of(policy) is None:
            apply(layer, policy, "asked for", before)
        else:
            decision = self.decide(layer, path, parent, policy)
            apply(layer, *decision, before)

    def decide(
        self,
        layer: keras.Layer,
        path: str,
        parent: keras.Layer | None,
        policy: keras.DTypePolicy,
    ) -> tuple[keras.DTypePolicy, str]:
        """Returns the policy of a layer that was asked to go to FP8."""
        if self.keep_float32 and layer.compute_dtype == "float32":
            return layer.dtype_policy, "its own dtype is float32"
        precision, reason = self.default(layer)
        if precision == "float32" and _is_open(parent):
            return policies.Policy("float32"), reason
        if precision == "float32":
            return policy, "what is around it may need one dtype"
        if precision == "compute":
            return policy, reason
        wide = policies.Policy(f"mixed_{policy.compute_dtype}")
        stock = stock_class(layer)
        if own := classes.overridden(stock):
            return wide, f"{stock.__name__} has its own {', '.join(own)}"
        if not layer.built and (self.choice.needs_shapes or _is_conv(layer)):
            return wide, PENDING
        lost = not_in_float8(layer)
        if "output" in lost and "input_grad" in lost:
            return wide, lost["output"]
        refusal = self.choice.refusal(layer, path, parent)
        return (wide, refusal) if refusal else (policy, "")

    def default(self, layer: keras.Layer) -> tuple[str, str]:
        """Returns the precision of a layer's kind, and why."""
        for kind, precision in self.overrides.items():
            if isinstance(layer, kind):
                return precision, "asked for by `overrides`"
        found = default_of(layer)
        return found.precision, found.reason


def convert(
    model: keras.Layer,
    policy: Any = "mixed_float8",
    filter: Any = None,
    *,
    target: Any = None,
    skip: tuple[str, ...] = (),
    overrides: Mapping[type, str] | None = None,
    batch_size: int = 32,
    length: int = 512,
) -> Report:
    """Converts a Keras model in place, so that it trains in FP8.

    Every `Dense`, `EinsumDense`, `Conv1D`, `Conv2D` and `Conv3D` inside that
    is chosen contracts on FP8 operands; every other layer computes in the
    policy's compute dtype, or in float32, as `tfmp.conversion.DEFAULTS` says.
    The layers stay the same objects with the same weights, names and paths.
    What is not built yet is converted when it is.

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
        overrides: precisions by class of layer, `"float8"`, `"compute"` or
            `"float32"`, before `tfmp.conversion.DEFAULTS`.
        batch_size: what to assume for an open first length.
        length: what to assume for any other open length.

    Returns:
        A `Report`: of each layer its precision, products, share of the FLOPs,
        and the reason.

    Raises:
        TypeError, ValueError: if an argument is not allowed.  The model is
            then as it was.

    >>> model = keras.Sequential(
    ...     [keras.Input([64]), keras.layers.Dense(32), keras.layers.Dense(8)]
    ... )
    >>> report = convert(model, filter="all", skip=("last",))
    >>> [row.precision for row in report.rows]
    ['float8', 'bfloat16']
    """
    _check_model(model)
    sizes = checked_sizes(batch_size, length)
    chosen = choice(filter, target, sizes)
    plan = Conversion(
        _as_map(policy),
        _skipping(chosen, model, checks.names("skip", skip, ENDS)),
        _checked_overrides(overrides or {}),
        keep_float32=_is_narrow(model),
    )
    notes = _change(model, plan)
    return Report(model, plan.choice.rule, sizes, tuple(notes))


def set_precision(model: keras.Layer, precision: Any) -> Report:
    """Changes the precision of some layers of a model, between epochs.

    A layer that no key names stays as it is.  Weights, optimizer and FP8
    state are kept; a compiled step is traced once more.

    Args:
        model: any Keras model or layer.
        precision: a `PrecisionMap`, or its dictionary of paths or patterns to
            policies; or one policy for all layers.

    Returns:
        A `Report`.

    Raises:
        TypeError, ValueError: if an argument is not allowed.  The model is
            then as it was.

    >>> model = keras.Sequential([keras.Input([8]), keras.layers.Dense(4)])
    >>> set_precision(model, {"dense.*": "mixed_bfloat16"}).rows[0].precision
    'bfloat16'
    """
    _check_model(model)
    everything = choice("all", None, Sizes())
    only = isinstance(precision, Mapping)
    plan = Conversion(_as_map(precision), everything, {}, only_matched=only)
    return Report(model, "", notes=tuple(_change(model, plan)))


def revert(model: keras.Layer) -> None:
    """Gives back the Keras layers that a conversion changed, in place.

    Weights are kept, bit for bit, and each layer gets the policy back that it
    had; where that is not known, as in a model loaded from a file, the mixed
    policy of its compute dtype.

    Args:
        model: any Keras model or layer.

    Raises:
        TypeError: if `model` is something else.

    >>> model = keras.Sequential([keras.Input([8]), keras.layers.Dense(4)])
    >>> report = convert(model, filter="all")
    >>> revert(model)
    >>> type(model.layers[0]) is keras.layers.Dense
    True
    """
    _check_model(model)
    for layer in flatten(model).values():
        undo(layer)
    training.follow(model, None)


def _change(model: keras.Layer, plan: Conversion) -> list[str]:
    internals.conversion_known()
    wrapped = training.follower(model)
    strategy = getattr(
        model, "distribute_strategy", tf.distribute.get_strategy()
    )
    with strategy.scope():
        plan.run(model, model.name)
        notes = training.follow(model, wrapped)
    paths = [*flatten(model), *(x.path or "" for x in flatten(model).values())]
    if unknown := plan.policy.unmatched(paths):
        notes.append(f"no layer has a path like {', '.join(unknown)}")
        warnings.warn(f"tfmp: {notes[-1]}", stacklevel=3)
    return notes


def _check_model(model: object) -> None:
    if not isinstance(model, keras.Layer):
        raise TypeError(
            f"`model` must be a Keras model or layer. Received: {model!r}"
        )


def _as_map(policy: Any) -> PrecisionMap:
    if isinstance(policy, PrecisionMap):
        return policy
    if isinstance(policy, Mapping):
        return PrecisionMap(policy)
    return PrecisionMap(default=policies.checked(policy))


def _checked_overrides(overrides: Mapping[type, str]) -> Mapping[type, str]:
    for kind, precision in overrides.items():
        checks.choice(f"overrides[{kind}]", precision, PRECISIONS)
        if not isinstance(kind, type) or not issubclass(kind, keras.Layer):
            raise TypeError(
                "a key of `overrides` must be a class of layers. "
                f"Received: {kind!r}"
            )
        if precision == "float8" and DEFAULTS.get(kind) is not PRODUCT:
            raise ValueError(
                f"`overrides` must not ask for FP8 of {kind.__name__}, which "
                "tfmp has no FP8 layer for. Received: 'float8'"
            )
    return overrides


def _skipping(chosen: Choice, model: keras.Layer, skip: tuple) -> Choice:
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


def _parent(layers: dict[str, keras.Layer], path: str) -> keras.Layer | None:
    return layers.get(path.rpartition("/")[0])


def _is_open(parent: keras.Layer | None) -> bool:
    """Whether what a sublayer returns goes to layers, which cast it."""
    return parent is None or internals.is_container(parent)


def _is_conv(layer: keras.Layer) -> bool:
    """Whether it depends on the shapes if a GPU can do it in FP8."""
    return isinstance(
        layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    )


def _has_precision(layer: keras.Layer) -> bool:
    """Integer and string layers have none, nor have entries of a model."""
    if isinstance(layer, keras.layers.InputLayer):
        return False
    if getattr(layer, "quantization_mode", None) is not None:
        return False
    return keras.backend.is_float_dtype(layer.compute_dtype)


def _is_narrow(model: keras.Layer) -> bool:
    """Whether the model computes in 16 bits unless a layer was told."""
    record = record_of(model)
    policy = record.policy if record else model.dtype_policy
    return policy is None or policy.compute_dtype != "float32"
