"""A conversion as a plan: what becomes of each layer, now or once built."""

from __future__ import annotations

import dataclasses
import functools

import keras

from tfmp import policies
from tfmp._keras import call_context, layer_builds, layer_kinds
from tfmp.conversion import input_casts, layer_places
from tfmp.conversion.converted_layers import apply
from tfmp.conversion.defaults import (
    DEFAULTS,
    NO_KERNEL,
    PREPARED_FURTHER,
    PREPARES,
    PRODUCT,
    RESIZES,
    default_of,
)
from tfmp.conversion.hub_layers import ROUTER, is_router
from tfmp.conversion.layer_choice import Choice
from tfmp.conversion.layer_products import not_in_float8
from tfmp.conversion.records import flatten, record_of, stock_class
from tfmp.layers import classes
from tfmp.policies.precision_map import PrecisionMap

PENDING = "decided when it is built"
NARROW = ("bfloat16", "float16")
NO_DEFAULT = "the global policy: no key of the map names it"
FAILING = (RESIZES, NO_KERNEL)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Everything that a conversion was asked for.

    Attributes:
        policy: of each layer, by path.
        choice: among the layers that can run in FP8.
        only_matched: whether layers that no key of `policy` names stay.
        keep_float32: whether a layer that computes in float32 was told to.
    """

    policy: PrecisionMap
    choice: Choice
    only_matched: bool = False
    keep_float32: bool = False

    def run(self, top: keras.Layer, path: str) -> None:
        """Converts a layer and all below it, also what is built later."""
        layers = flatten(top, path)
        told = layer_places.told(layers)
        for name, layer in layers.items():
            parent = layer_places.parent_of(layers, name)
            self.convert_one(layer, name, parent, told=name in told)
        input_casts.keep_below(top, outermost=True)

    def run_again(self, top: keras.Layer, path: str) -> None:
        """Converts what a layer's `build` made, and decides what it could."""
        record = record_of(top)
        if record is None:
            return
        layers = flatten(top, path)
        told = layer_places.told(layers)
        for name, layer in layers.items():
            known, parent = (
                record_of(layer),
                layer_places.parent_of(layers, name),
            )
            if known is None or known.reason == PENDING:
                inherits = layer.dtype_policy == top.dtype_policy
                before = record.policy if inherits else None
                self.convert_one(layer, name, parent, before, name in told)
        input_casts.keep_below(top, call_context.is_called_by_user(top))

    def convert_one(
        self,
        layer: keras.Layer,
        path: str,
        parent: keras.Layer | None,
        before: keras.DTypePolicy | None = None,
        told: bool = False,
    ) -> None:
        """Decides about one layer and changes it.

        Args:
            layer: built or not.
            path: of the layer.
            parent: the layer that it is in, if known.
            before: the policy to go back to, if not the present one.
            told: whether it was made with `dtype="float32"`.
        """
        decision = self.decision(layer, path, parent, told)
        if decision is None:
            return
        if not layer.built:
            again = functools.partial(self.run_again, layer, path)
            layer_builds.after_build(layer, again)
        inside = self.is_inside(layer, path, parent, decision[0], told)
        apply(layer, *decision, before, inside)

    def decision(
        self,
        layer: keras.Layer,
        path: str,
        parent: keras.Layer | None,
        told: bool = False,
    ) -> tuple[keras.DTypePolicy, str] | None:
        """Returns the policy that a layer gets, and why; None if it stays."""
        key = self.policy.match(path, layer.path or path)
        if not layer_places.has_precision(layer) or (
            self.only_matched and key is None
        ):
            return None
        if layer_kinds.is_preprocessing(layer):
            wide = (
                layer.compute_dtype == "float32"
                and not layer_places.is_open(parent)
            )
            return (layer.dtype_policy, PREPARES.reason) if wide else None
        policy = self.policy[path if key is None else key]
        narrow = policy.compute_dtype in NARROW
        if narrow and self.keeps(layer, told and key is None):
            return layer.dtype_policy, "its own dtype is float32"
        if is_router(layer, parent) and narrow:
            return policies.Policy("float32"), ROUTER.reason
        if layer_places.is_attention(parent):
            policy = policies.in_projections(policy, path)
        if policies.recipe_of(policy) is None:
            return self.decide_wide(layer, parent, policy, key is not None)
        return self.decide(layer, path, parent, policy)

    def decisions(
        self, top: keras.Layer, path: str
    ) -> dict[str, tuple[keras.DTypePolicy, str]]:
        """Returns what `run` would make of each layer that does not stay."""
        layers = flatten(top, path)
        told = layer_places.told(layers)
        found = {
            name: self.decision(
                layer, name, layer_places.parent_of(layers, name), name in told
            )
            for name, layer in layers.items()
        }
        return {name: each for name, each in found.items() if each}

    def notes(self, layers: dict[str, keras.Layer]) -> list[str]:
        """Says of each layer that a key ends in why it stays in float32.

        Args:
            layers: that were converted, by path.
        """
        found = []
        for path, layer in layers.items():
            key = self.policy.match(path, layer.path or path)
            if key is None or key.rpartition("/")[2] != layer.name:
                continue
            narrow = self.policy[key].compute_dtype in NARROW
            record = record_of(layer)
            if narrow and record and layer.compute_dtype == "float32":
                found.append(f"{path} stays in float32: {record.reason}")
        return found

    def decide(
        self,
        layer: keras.Layer,
        path: str,
        parent: keras.Layer | None,
        policy: keras.DTypePolicy,
    ) -> tuple[keras.DTypePolicy, str]:
        """Returns the policy of a layer that was asked to go to FP8."""
        precision, reason = self.default(layer, policy)
        if precision == "float32":
            return layer_places.in_float32(reason, policy, parent)
        stock = stock_class(layer)
        wide = policies.Policy(f"mixed_{policy.compute_dtype}")
        own = classes.overridden(stock)
        if own:
            reason = f"{stock.__name__} has its own {', '.join(own)}"
        if precision == "compute":
            could = DEFAULTS.get(stock) is PRODUCT
            return wide if could else policy, reason
        if own:
            return wide, reason
        if not layer.built and (
            self.choice.needs_shapes or layer_places.is_conv(layer)
        ):
            return wide, PENDING
        refusal = self.refusal(layer, path, parent, policy)
        return (wide, refusal) if refusal else (policy, "")

    def decide_wide(
        self,
        layer: keras.Layer,
        parent: keras.Layer | None,
        policy: keras.DTypePolicy,
        named: bool,
    ) -> tuple[keras.DTypePolicy, str]:
        """Returns the policy of a layer that was asked to leave FP8.

        What does not run in 16 bits does not, also by name.
        """
        if policy.compute_dtype in NARROW:
            precision, reason = self.default(layer, policy)
            runs = default_of(layer, policy.compute_dtype) not in FAILING
            if precision == "float32" and not (named and runs):
                return layer_places.in_float32(reason, policy, parent)
        asked = named or self.policy.has_default
        return policy, "asked for" if asked else NO_DEFAULT

    def is_inside(
        self,
        layer: keras.Layer,
        path: str,
        parent: keras.Layer | None,
        given: keras.DTypePolicy,
        told: bool = False,
    ) -> bool:
        """Whether a layer gets float32 in code that it is not meant for."""
        if layer_places.is_open(parent) or given.compute_dtype != "float32":
            return False
        if is_router(layer, parent):
            return False
        key = self.policy.match(path, layer.path or path)
        asked = self.policy[path if key is None else key]
        return asked.compute_dtype in NARROW and not self.keeps(layer, told)

    def keeps(self, layer: keras.Layer, told: bool) -> bool:
        """Whether a layer is in float32, and was told to be."""
        return layer.compute_dtype == "float32" and (self.keep_float32 or told)

    def refusal(
        self,
        layer: keras.Layer,
        path: str,
        parent: keras.Layer | None,
        policy: keras.DTypePolicy,
    ) -> str | None:
        """Returns why a layer that could go to FP8 does not, or None.

        What GPUs lack, and whether FP8 pays, is no question of emulation.
        """
        emulates = policies.emulates(policy)
        lost = {} if emulates else not_in_float8(layer)
        if "output" in lost:
            return lost["output"]
        if emulates and self.choice.needs_shapes:
            return None
        return self.choice.refusal(layer, path, parent)

    def default(
        self, layer: keras.Layer, policy: keras.DTypePolicy
    ) -> tuple[str, str]:
        """Returns the precision of a layer's kind, and why."""
        found = default_of(layer, policy.compute_dtype)
        if found.precision != "float32" and input_casts.feeds_preparation(
            layer
        ):
            found = PREPARED_FURTHER
        return found.precision, found.reason
