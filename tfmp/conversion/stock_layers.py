"""What happens to Keras layers that are made under a policy of 16 bits or FP8.

While the global policy is one of 16 bits, a new layer without a `dtype` that
`tfmp.conversion.DEFAULTS` keeps in float32 computes in it, and a model that
only holds layers keeps its inputs, as by `tfmp.convert`.

Under `mixed_float8` a stock layer computes in bfloat16, and nothing in Keras
says so.  So while the global policy is one of FP8, every new layer is looked
at when it is built, and one that could contract in FP8

    warns           once, and names the line to add
    is converted    in place, as by `tfmp.convert`

`keras.Layer.__new__` is replaced for as long, and given back afterwards.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import keras

from tfmp import policies
from tfmp._keras import (
    call_context,
    class_and_policy,
    global_notes,
    layer_builds,
    layer_calls,
    layer_kinds,
)
from tfmp.conversion import input_casts
from tfmp.conversion.defaults import DEFAULTS, PRODUCT, default_of
from tfmp.conversion.layer_choice import Choice, choice
from tfmp.conversion.plan import Conversion
from tfmp.conversion.records import flatten, record_of
from tfmp.conversion.sizes import Sizes
from tfmp.layers import classes
from tfmp.layers.contraction import Float8Layer
from tfmp.layers.float32_inside import Float32Inside
from tfmp.policies.precision_map import PrecisionMap

CONVERT = (None, True, False, "auto", "all")
NARROW = ("bfloat16", "float16")
WARNING = (
    "tfmp: '{name}' is a stock Keras {kind}; under mixed_float8 it computes "
    "in {dtype}, not in FP8. For FP8 add the line `tfmp.convert(model)` "
    "before training, or `convert=True` where the policy is set: "
    "`tfmp.configure(convert=True)`. `convert=False` means that this is as "
    "it should be."
)

STAYS = (
    "tfmp: '{name}' stays in {dtype}: {reason}. "
    "`print(tfmp.ConversionReport(model))` lists every layer; "
    "`convert='all'` converts whatever can be."
)


class NewLayers:
    """Stands for `keras.Layer.__new__`, and sees to what it makes.

    Args:
        choice: which layers are converted; None for none.
        warns: whether a layer that is not converted warns, the first time.
    """

    def __init__(self, choice: Choice | None, warns: bool) -> None:
        self.stock = _stock()
        self.choice = choice
        self.warned = not warns

    def __call__(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        """Makes a layer, as Keras does."""
        layer = self.stock.__func__(cls, *args, **kwargs)
        layer_builds.after_build(layer, functools.partial(self.built, layer))
        if kwargs.get("dtype") is None and _may_be_float32(cls):
            made = functools.partial(self.made, layer)
            layer_calls.after_init(layer, made)
        return layer

    def made(self, layer: keras.Layer) -> None:
        """Gives a layer that was just made the precision of its kind."""
        policy = policies.policy_at(layer.dtype_policy, layer.name)
        narrow = policy.compute_dtype in NARROW
        if not narrow or not isinstance(policy, policies.Policy):
            return
        if default_of(layer, policy.compute_dtype).precision != "float32":
            return
        inside = class_and_policy.extended(layer, Float32Inside)
        class_and_policy.assign(layer, policies.Policy("float32"), inside)

    def built(self, layer: keras.Layer) -> None:
        """Converts a layer that was just built, or warns.

        One under a policy of Keras' own is left as Keras has it.
        """
        policy = policies.of_layer(layer)
        if not isinstance(policy, policies.Policy):
            return
        input_casts.keep(layer, call_context.is_called_by_user(layer))
        recipe = policies.recipe_of_layer(layer)
        if recipe is None:
            return
        if self.choice is not None:
            self.convert(layer, self.choice)
        elif not self.warned and not global_notes.conversion_is_known():
            self.warn(layer)

    def convert(self, layer: keras.Layer, choice: Choice) -> None:
        """Converts it and what its `build` made, and records what was."""
        path = layer.path or layer.name
        for name, child in reversed(flatten(layer, path).items()):
            recipe = policies.recipe_of_layer(child)
            if record_of(child) is None and recipe is not None:
                self.convert_one(child, name, choice)

    def convert_one(
        self, layer: keras.Layer, path: str, choice: Choice
    ) -> None:
        """Converts a layer that tfmp has a class for, or that holds some."""
        below = list(flatten(layer).values())[1:]
        if classes.ours_for(type(layer)) or any(map(record_of, below)):
            policy = policies.of_layer(layer)
            plan = Conversion(PrecisionMap(default=policy), choice)
            plan.convert_one(layer, path, None)
            self.tell(layer)

    def warn(self, layer: keras.Layer) -> None:
        """Says once that a layer could be in FP8 and is not."""
        if default_of(layer) is PRODUCT and not isinstance(layer, Float8Layer):
            self.say(WARNING, layer)

    def tell(self, layer: keras.Layer) -> None:
        """Says once that a layer stays as it is, and why."""
        low = policies.recipe_of_layer(layer)
        if default_of(layer) is PRODUCT and not low and not self.warned:
            self.say(STAYS, layer)

    def say(self, text: str, layer: keras.Layer) -> None:
        """Warns, for the first and last time."""
        self.warned = True
        record = record_of(layer)
        words = text.format(
            name=layer.path or layer.name,
            kind=type(layer).__name__,
            dtype=layer.compute_dtype,
            reason=record.reason if record else "",
        )
        warnings.warn(words, stacklevel=2)


def follow(policy: keras.DTypePolicy, convert: Any, target: Any = None) -> None:
    """Has new layers treated as the global policy and `convert` say.

    Args:
        policy: the global policy, or map of policies.
        target: where it has to pay; by default on this machine.
        convert: None to warn, False for neither; True to convert where it
            pays, as `tfmp.convert` does by default; `"auto"` or `"all"` as
            its `filter`.

    Raises:
        ValueError: if `convert` is something else.
    """
    if not any(convert is allowed for allowed in CONVERT):
        raise ValueError(
            f"`convert` must be one of {CONVERT}. Received: {convert!r}"
        )
    every = _every(policy)
    if not any(each.compute_dtype in NARROW for each in every):
        keras.Layer.__new__ = _stock()
        return
    low = any(policies.recipe_of(each) is not None for each in every)
    chosen = None
    if low and convert:
        filter = None if convert is True else convert
        target = None if convert == "all" else target
        chosen = choice(filter, target, Sizes())
    warns = low and convert is not False
    keras.Layer.__new__ = NewLayers(chosen, warns)


def present() -> Any:
    """Returns what `give_back` takes."""
    return _present()


def give_back(before: Any) -> None:
    """Treats new layers as when `present` was called."""
    keras.Layer.__new__ = before


def _present() -> Any:
    return keras.Layer.__dict__["__new__"]


def _stock() -> Any:
    found = _present()
    return found.stock if isinstance(found, NewLayers) else found


def _every(policy: keras.DTypePolicy) -> list[keras.DTypePolicy]:
    """Returns a policy, or all those of a map."""
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return [policy.default_policy, *(policy[key] for key in policy)]
    return [policy]


def _may_be_float32(cls: type) -> bool:
    """Whether layers of a class are in float32 by default, some or all."""
    kinds = [c for c, each in DEFAULTS.items() if each.precision == "float32"]
    some = (keras.layers.Activation, keras.layers.UpSampling2D)
    known = issubclass(cls, (*kinds, *some))
    return known or layer_kinds.is_preprocessing_class(cls)
