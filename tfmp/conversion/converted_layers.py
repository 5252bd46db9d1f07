"""Converting one layer in place, the way back, and saving what it became.

A layer's policy is the one truth: a layer contracts in FP8 if its policy has a
recipe and it has a class of tfmp.  `apply` makes both so, `undo` unmakes it.

A layer that makes sublayers in its own code is saved as its arguments; loaded,
it makes them anew, without what a conversion changed.  So a converted one is
saved as

    {"layer": what it would have saved, "policies": [...], "table": {...},
     "inside": [...], "keeping": [...]}

where the table gives the policy of each sublayer by its place ("2.0": the
first of the third), and is applied again as soon as the sublayers are there;
`inside` are the places of those that are of float32 inside only, `keeping` of
those that keep their inputs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras

from tfmp import policies
from tfmp._keras import (
    class_and_policy,
    global_notes,
    layer_builds,
    layer_kinds,
)
from tfmp.conversion import input_casts
from tfmp.conversion.records import Record, record_of, stock_class, sublayers
from tfmp.layers import classes
from tfmp.layers.float32_inside import Float32Inside

if TYPE_CHECKING:
    from keras.layers import Layer as Base
else:
    Base = object


@keras.saving.register_keras_serializable("tfmp")
class Converted(Base):
    """Mixin that saves a layer together with its sublayers' policies."""

    tfmp_record: Record

    def get_config(self) -> dict[str, Any]:
        """Returns the layer as it was, and the policies it has now."""
        with _as_before(self):
            layer = keras.saving.serialize_keras_object(self)
        for key in ("build_config", "compile_config", "shared_object_id"):
            layer.pop(key, None)
        serialized: list[dict[str, Any]] = []
        table = {}
        for place, child in _places(self):
            policy = keras.dtype_policies.serialize(child.dtype_policy)
            if policy not in serialized:
                serialized.append(policy)
            table[place] = serialized.index(policy)
        return {
            "layer": layer,
            "policies": serialized,
            "table": table,
            "inside": [p for p, x in _places(self) if _is_inside(x)],
            "keeping": [p for p, x in _places(self) if _keeps_inputs(x)],
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> keras.Layer:
        """Rebuilds the layer, and converts it again."""
        global_notes.conversion_known()
        layer = keras.saving.deserialize_keras_object(
            config["layer"], custom_objects=custom_objects
        )
        known = [keras.dtype_policies.get(p) for p in config["policies"]]
        table = {place: known[i] for place, i in config["table"].items()}
        inside, keeping = config.get("inside", []), config.get("keeping", [])
        _restore(layer, table, inside, keeping)
        return layer


class ConvertedPreset(Converted):
    """The same of a keras-hub model, which also saves itself as a preset."""

    def save_to_preset(self, *args: Any, **kwargs: Any) -> None:
        """Writes the preset of the model as it was, with the weights of now.

        A preset is loaded by the class that it names, which is keras-hub's.
        """
        with _as_before(self):
            stock: Any = stock_class(self)
            stock.save_to_preset(self, *args, **kwargs)


def apply(
    layer: keras.Layer,
    policy: keras.DTypePolicy,
    reason: str = "",
    before: keras.DTypePolicy | None = None,
    inside: bool = False,
) -> None:
    """Gives a layer a policy and the class that goes with it.

    Args:
        layer: any layer; converted already or not, built or not.
        policy: no map.
        reason: for the report.
        before: the policy to go back to, if it is not the present one.
        inside: whether it is of float32 inside only; it then stays so.
    """
    record = record_of(layer)
    inside = inside or isinstance(layer, Float32Inside)
    if record is None:
        before = layer.dtype_policy if before is None else before
        record = layer.tfmp_record = Record(stock_class(layer), before)
    record.reason = reason
    cls = _class_of(layer, record.stock, inside)
    class_and_policy.become(layer, policy, cls)


def undo(layer: keras.Layer) -> None:
    """Gives a layer back the class and the policy that it had."""
    record, stock = record_of(layer), stock_class(layer)
    before = record.policy if record else None
    if layer.quantization_mode is not None:
        before = None  # Keras has quantized it since
    elif before is None:
        before = _of_keras(layer)
    class_and_policy.drop_float8(layer)
    policy = layer.dtype_policy if before is None else before
    class_and_policy.assign(layer, policy, stock)
    if record:
        input_casts.cast_again(layer)
        del layer.tfmp_record


def _of_keras(layer: keras.Layer) -> keras.DTypePolicy | None:
    """Returns the policy of Keras that a layer of a file can have had."""
    own = policies.of_layer(layer)
    if not isinstance(own, policies.Policy):
        return None
    low = own.recipe is not None
    return keras.DTypePolicy(f"mixed_{own.compute_dtype}" if low else own.name)


def _class_of(layer: keras.Layer, stock: type, inside: bool) -> type:
    ours = None if classes.overridden(stock) else classes.ours_for(stock)
    if ours and issubclass(stock, ours):  # somebody's subclass of a tfmp layer
        ours = None
    mixin = Float32Inside if inside else None
    bases = [base for base in (mixin, ours, stock) if base]
    composite = sublayers(layer) and not layer_kinds.is_container(layer)
    if composite or (ours and stock not in classes.OURS):
        preset = hasattr(stock, "save_to_preset")
        mixin = ConvertedPreset if preset else Converted
        return _saved_as_converted(class_and_policy.combined(mixin, *bases))
    return class_and_policy.combined(*bases)


def _saved_as_converted(cls: type) -> type:
    """Keras knows a class by its name, of which only the mixin's is known."""
    register = keras.saving.register_keras_serializable("tfmp", "Converted")
    register(cls)
    register(Converted)
    return cls


@contextlib.contextmanager
def _as_before(layer: keras.Layer) -> Iterator[None]:
    """Lets a layer and all below be, for as long, what they were.

    What a model's own code makes of a policy, such as the dtype of a
    constant, is then the same when it is loaded.
    """
    below = [child for _, child in _places(layer) if record_of(child)]
    with class_and_policy.kept(below):
        for child in below:
            record = record_of(child)
            policy = record.policy if record else None
            policy = child.dtype_policy if policy is None else policy
            class_and_policy.assign(child, policy, stock_class(child))
        yield


def _places(
    layer: keras.Layer, place: tuple[int, ...] = ()
) -> Iterator[tuple[str, keras.Layer]]:
    yield ".".join(map(str, place)), layer
    for number, child in enumerate(sublayers(layer)):
        yield from _places(child, (*place, number))


def _restore(
    layer: keras.Layer,
    table: dict[str, keras.DTypePolicy],
    inside: list[str],
    keeping: list[str],
) -> None:
    """Applies the table to all that is there, and again after each build.

    A sublayer that a build makes has a policy of the table's already, from
    the layer that it is in; to go back to, it has what the whole layer had.
    """
    top = record_of(layer)
    for place, child in list(_places(layer)):
        policy, record = table.get(place), record_of(child)
        if policy is None or (record and child.dtype_policy == policy):
            continue
        if policy.quantization_mode is not None:
            _quantize(child, policy)
            continue
        if not child.built:
            again = functools.partial(_restore, layer, table, inside, keeping)
            layer_builds.after_build(child, again)
        inherited = top is not None and child.dtype_policy in table.values()
        before = top.policy if top and inherited else None
        reason = "as in the file it was loaded from"
        apply(child, policy, reason, before, place in inside)
        if place in keeping:
            input_casts.keep_now(child)


def _quantize(layer: keras.Layer, policy: keras.DTypePolicy) -> None:
    """Has Keras quantize a layer, or build it so, if it has not yet."""
    if layer.dtype_policy != policy:
        layer.dtype_policy = policy


def _is_inside(layer: keras.Layer) -> bool:
    return isinstance(layer, Float32Inside)


def _keeps_inputs(layer: keras.Layer) -> bool:
    record = record_of(layer)
    return record is not None and record.keeps_inputs
