"""The precision of a model as plain values, for a file of its state.

The FP8 state of a layer is there once the layer was in FP8, so that a file of
a training is for a model with the same layers in FP8, now or earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfmp import policies
from tfmp._switching.switch import Wanted, all_or_nothing, news, switch
from tfmp.conversion.records import flatten, record_of
from tfmp.layers.layer_recipes import has_idle_state

REASON = "as in the file that the training goes on from"


def precision_of(model: keras.Model) -> dict[str, Any]:
    """Returns the policies of the layers that were ever changed.

    Returns:
        `{"policies": [...], "layers": [...]}`, with an entry a layer: None of
        one that was never changed, else the place of its policy in the list,
        and whether it has FP8 state that it does not use now.
    """
    known: list[dict[str, Any]] = []
    layers: list[tuple[int, bool] | None] = []
    for layer in flatten(model).values():
        if record_of(layer) is None:
            layers.append(None)
            continue
        policy = policies.of_layer(layer)
        plain = keras.dtype_policies.serialize(policy)
        if plain not in known:
            known.append(plain)
        layers.append((known.index(plain), has_idle_state(layer)))
    return {"policies": known, "layers": layers}


def put_in_force(model: keras.Model, notes: Mapping[str, Any] | None) -> None:
    """Gives a model the precision that a file was saved in, before a load.

    Args:
        model: built, with its optimizer.
        notes: of `precision_of`, of a model of the same layers; None, and
            those of another model, change nothing.
    """
    layers = flatten(model)
    if notes is None or len(notes["layers"]) != len(layers):
        return
    known = [keras.dtype_policies.get(plain) for plain in notes["policies"]]
    float8 = Wanted(policies.Policy("mixed_float8"), REASON)
    first, then = {}, {}
    for path, entry in zip(layers, notes["layers"], strict=True):
        if entry is None:
            continue
        place, is_idle = entry
        then[path] = Wanted(known[place], REASON)
        if is_idle and getattr(layers[path], "float8", None) is None:
            first[path] = float8
    with all_or_nothing(model):
        for wanted in (first, then):
            changed = news(model, wanted)
            if changed:
                switch(model, changed)
