"""Presets of keras-hub's models, written by converted ones."""

import json

import keras
import keras_hub
import numpy as np
import pytest

import tfmp

X = {
    "token_ids": np.arange(16).reshape(2, 8),
    "segment_ids": np.zeros([2, 8], "int32"),
    "padding_mask": np.ones([2, 8], "int32"),
}


def backbone():
    return keras_hub.models.BertBackbone(
        vocabulary_size=30,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=8,
    )


def task():
    return keras_hub.models.BertTextClassifier(backbone(), num_classes=3)


def same(one, other):
    """Whether both are stock models, or will be, of the same weights."""
    values = one.get_weights(), other.get_weights()
    pairs = zip(*values, strict=True)
    return all(np.array_equal(ours, theirs) for ours, theirs in pairs)


MODELS = {
    "backbone": (backbone, keras_hub.models.Backbone, lambda m: m),
    "task": (task, keras_hub.models.TextClassifier, lambda m: m),
    "backbone of a task": (
        *(task, keras_hub.models.TextClassifier),
        lambda m: m.backbone,
    ),
}
each_model = pytest.mark.parametrize(
    ("make", "base", "part"), MODELS.values(), ids=MODELS
)


@pytest.mark.slow
@each_model
def test_what_is_written_loads(make, base, part, tmp_path):
    model = make()
    tfmp.convert(part(model), filter="all")
    before, kind = (
        tfmp.ConversionReport(model).float8_products,
        type(part(model)),
    )
    model.save_to_preset(tmp_path / "preset")
    assert type(part(model)) is kind
    assert tfmp.ConversionReport(model).float8_products == before > 0

    loaded = base.from_preset(str(tmp_path / "preset"))
    assert type(loaded) is type(make())
    tfmp.revert(model)
    tfmp.revert(loaded)
    assert same(loaded, model)
    loaded(X)


def test_the_preset_is_that_of_a_stock_model(tmp_path):
    stock, model = backbone(), backbone()
    tfmp.convert(model, filter="all")
    for name, each in (("stock", stock), ("converted", model)):
        each.save_to_preset(tmp_path / name)
    configs = [
        json.loads((tmp_path / name / "config.json").read_text())
        for name in ("stock", "converted")
    ]
    for config in configs:
        config["config"].pop("name")
    assert configs[0] == configs[1]


def test_other_models_have_no_such_method():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(8)

    model = Own()
    tfmp.convert(model, filter="all")
    assert not hasattr(model, "save_to_preset")
