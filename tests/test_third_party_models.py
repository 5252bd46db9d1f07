"""tfmp.convert on the models of keras-hub, keras.applications and keras-rs.

They are built small, with random weights: nothing is downloaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np
import pytest
import third_party
from third_party import HEADS, HIDDEN, MODELS, TOKENS, WIDTH

import tfmp

CONTRACTIONS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
)
TEXT = ("bert", "gpt2", "llama", "gemma")
LENGTHS = {"vit": 5}  # four patches and the class token
FP8_PRODUCTS = {"Dense": 3, "EinsumDense": 3, "Conv2D": 2, "DepthwiseConv2D": 0}
# The others have no kind of layer that none of these has; the example of a
# converted model trains a ViT.
TRAINED = ("bert", "gemma", "resnet", "ranking", "EfficientNetB0")


def convert(name, model):
    length = LENGTHS.get(name, TOKENS)
    return tfmp.convert(model, filter="all", length=length)


def below(layer):
    """Returns a layer and all in it, each once, by Keras' own account."""
    found = {id(each): each for each in layer._flatten_layers()}
    return list(found.values())


def contractions(model):
    return [x for x in below(model) if isinstance(x, CONTRACTIONS)]


def kernels(model):
    """Every weight but the FP8 state, which no Keras layer has."""
    return [v.numpy() for v in model.variables if "float8" not in v.path]


def nature(model):
    return [(x.path, type(x), x.dtype_policy) for x in below(model)]


def kinds(report):
    """Without paths: some layers of keras-rs have a new name each time."""
    return [(r.type, r.precision, r.products, r.float8) for r in report.rows]


def check_equal(before, after):
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def call(model, x):
    return np.float32(model(x, training=False))


def fit(model, x, y, eager=True):
    """Returns the loss of each step, all on one batch."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(1e-3),
        loss,
        run_eagerly=eager,
        jit_compile=False,
    )
    history = model.fit(x, y, batch_size=4, epochs=4, verbose=0, shuffle=False)
    return history.history["loss"]


class Seen(NamedTuple):
    """What a model is at a moment."""

    nature: list[Any]
    weights: list[np.ndarray]
    outputs: np.ndarray | None
    contractions: list[keras.Layer]


def look(model, x=None):
    outputs = None if x is None else call(model, x)
    return Seen(nature(model), kernels(model), outputs, contractions(model))


@pytest.fixture(scope="module", params=MODELS)
def there_and_back(request):
    """A model before, while and after it is converted, and what is said."""
    model, x, _ = MODELS[request.param]()
    before = look(model, x)
    report = convert(request.param, model)
    told = f"{model.name}/", report.rows, str(report)  # of what is there now
    converted = look(model)
    tfmp.revert(model)
    return told, before, converted, look(model, x)


@pytest.mark.slow_but("[bert]", "[resnet]", "[ranking]")
def test_reverting_gives_the_model_back(there_and_back):
    _, before, converted, after = there_and_back
    assert converted.nature != before.nature == after.nature
    check_equal(before.weights, converted.weights)
    check_equal(before.weights, after.weights)
    np.testing.assert_array_equal(before.outputs, after.outputs)


def test_every_contraction_is_in_the_report(there_and_back):
    (root, rows, text), before, _, _ = there_and_back
    expected = before.contractions
    by_path = {row.path: row for row in rows}
    assert len(by_path) == len(rows)
    assert any(row.float8 for row in rows)
    listed = [r for r in rows if r.type in FP8_PRODUCTS]
    assert len(listed) == len(expected)
    assert len({layer.path for layer in expected}) == len(expected)
    pointwise = {
        layer.name
        for layer in expected
        if getattr(layer, "kernel_size", None) == (1, 1)
    }
    for row in listed:
        assert row.path.startswith(root)
        assert row.products and row.flops > 0
        one = row.path.split("/")[-1] in pointwise
        assert len(row.float8) <= (3 if one else FP8_PRODUCTS[row.type])
        assert bool(row.float8) == (row.precision == "float8")
        assert row.reason or len(row.float8) == 3
    for row in rows:
        assert row.reason or row.precision == "float8"
        assert row.path in text or not row.products


@pytest.mark.parametrize("name", TEXT)
def test_products_of_transformers_have_their_shapes(name):
    model, _, _ = MODELS[name]()
    rows = convert(name, model).rows
    tokens = 32 * TOKENS
    narrow = WIDTH // (1 if name in ("bert", "gpt2") else HEADS)
    square, wide = f"{tokens} x {WIDTH} x {WIDTH}", HIDDEN
    found = {row.path.split("/")[-1]: row.products for row in rows}
    assert found["query"] == found["attention_output"] == (square,)
    assert found["key"] == found["value"] == (f"{tokens} x {WIDTH} x {narrow}",)
    if name == "gemma":  # its gates take half of what it is given
        wide = HIDDEN // 2
        up, down = found["ffw_gating"], found["ffw_linear"]
    else:
        up = found["feedforward_intermediate_dense"]
        down = found["feedforward_output_dense"]
    assert up == (f"{tokens} x {WIDTH} x {wide}",)
    assert down == (f"{tokens} x {wide} x {WIDTH}",)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_share_of_a_transformer(name):
    """All but attention's scores and values, and an embedding's logits."""
    model, _, _ = MODELS[name]()
    report = convert(name, model)
    block = 4 * WIDTH**2 + 2 * WIDTH * HIDDEN  # a token's, in one block
    head = (WIDTH**2 + WIDTH * 3) / TOKENS if name == "bert" else 0
    attention = 2 * TOKENS * WIDTH
    logits = (
        WIDTH * third_party.TEXT["vocabulary_size"] if name == "gpt2" else 0
    )
    expected = (block + head) / (block + head + attention + logits)
    assert report.float8_share == pytest.approx(expected, abs=1e-6)


AUTO = {"filter": "auto", "target": "h200", "batch_size": 2}


def found_in(model, **options):
    """Returns the rows of a report by the end of their paths."""
    report = tfmp.convert(model, **AUTO, **options)
    tfmp.summary(model, print_fn=str, batch_size=2, **options)
    assert "all products of one symbolic call" in str(report)
    assert report.not_counted == ""
    return {row.path.split("/")[-1]: row for row in report.rows}


def test_attention_that_is_called_otherwise():
    rows = found_in(third_party.xlnet(), length=TOKENS)
    square = f"{2 * TOKENS} x {WIDTH} x {WIDTH}"
    assert rows["query"].products == rows["attention_output"].products
    assert rows["query"].products == (square,)
    assert rows["encoding"].products == (f"{4 * TOKENS} x {WIDTH} x {WIDTH}",)
    heads, depth = 2 * HEADS, WIDTH // HEADS
    scores = f"{heads} of {TOKENS} x {depth} x {TOKENS}"
    assert rows["rel_attn"].products[0] == scores


def test_layers_that_are_built_for_made_up_shapes():
    patches = 2 * 8 * 8
    rows = found_in(third_party.vitdet()).values()
    dense = [row.products[0] for row in rows if row.type == "Dense"]
    assert len(dense) == 8
    assert {int(each.split()[0]) for each in dense} == {patches}


def test_tokens_of_images_are_counted():
    model, _, _ = third_party.vit()
    rows = found_in(model)
    assert rows["query"].products == (f"{2 * 5} x {WIDTH} x {WIDTH}",)


def test_kernels_of_experts_are_counted():
    rows = found_in(third_party.mixtral(), length=TOKENS)
    experts = rows["experts"]
    assert experts.flops == 3 * 2 * 4 * (2 * TOKENS) * WIDTH * HIDDEN
    assert experts.float8 == () and "not in FP8" in experts.reason
    assert rows["self_attention"].products


@pytest.mark.slow
@pytest.mark.parametrize("name", third_party.APPLICATIONS)
def test_whole_applications(name):
    """Most is in convolutions of one pixel, and those are all in FP8."""
    model = third_party.application(name)
    weights, before = kernels(model), nature(model)
    report = tfmp.convert(model, filter="all")
    assert 0.6 < report.float8_share < 0.9
    for row in report.rows:
        if row.type == "Conv2D":
            one = model.get_layer(row.path.split("/")[-1]).kernel_size == (1, 1)
            assert (len(row.float8) == 3) == one, row
    depthwise = [r for r in report.rows if r.type == "DepthwiseConv2D"]
    assert not any(row.float8 for row in depthwise)
    assert bool(depthwise) == (name != "ResNet50")
    listed = sum(row.type in FP8_PRODUCTS for row in report.rows)
    assert listed == len(contractions(model))
    tfmp.revert(model)
    assert nature(model) == before
    check_equal(weights, kernels(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_it_trains_and_is_saved(name, tmp_path):
    """All but one eagerly: there XLA compiles an FP8 product only once."""
    keras.utils.set_random_seed(1)
    model, x, y = MODELS[name]()
    stock = {layer: type(layer) for layer in below(model)}
    report = convert(name, model)
    losses = fit(model, x, y, eager=name != "resnet")
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    amax = [v for v in model.variables if "float8" in v.path]
    float8 = [row for row in report.rows if row.precision == "float8"]
    assert len(amax) == len(float8) > 0

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(call(loaded, x), call(model, x))
    again = tfmp.ConversionReport(loaded, sizes=report.sizes)
    assert kinds(again) == kinds(report)
    weights = kernels(model)
    for each in (model, loaded):
        tfmp.revert(each)
        check_equal(weights, kernels(each))
        assert not any("float8" in v.path for v in each.variables)
    after = {layer: type(layer) for layer in below(model)}
    assert all(kind is stock.get(x, kind) for x, kind in after.items())


@pytest.mark.slow
def test_what_builds_its_layers_itself():
    model, x, y = third_party.unbuilt()
    assert convert("unbuilt", model).rows == []
    losses = fit(model, x, y)
    assert losses[-1] < losses[0]
    report = tfmp.ConversionReport(model)
    assert len(contractions(model)) == 13
    low = [row.path for row in report.rows if row.precision == "float8"]
    assert len(low) == 13
    before = kernels(model)
    tfmp.revert(model)
    check_equal(before, kernels(model))
    assert {type(x) for x in contractions(model)} == {
        keras.layers.Dense,
        keras.layers.EinsumDense,
    }
    assert type(model.layers[1]) is keras_hub.layers.TransformerEncoder


def test_attention_of_its_own_is_left_and_its_projections_are_not():
    model, _, _ = third_party.gpt2()
    report = tfmp.convert(model, tfmp.Policy("mixed_float8"), filter="all")
    rows = {row.path.split("/")[-1]: row for row in report.rows}
    attention = rows["self_attention"]
    assert attention.type == "CachedMultiHeadAttention"
    assert (attention.precision, attention.float8) == ("bfloat16", ())
    assert attention.reason
    assert rows["query"].precision == "float8"


def test_a_task_and_its_backbone_stay_the_same_objects():
    model, _, _ = third_party.gpt2()
    backbone, embedding = model.backbone, model.backbone.token_embedding
    tfmp.convert(model, filter="all")
    assert model.backbone is backbone
    assert backbone.token_embedding is embedding
    assert isinstance(model, keras_hub.models.GPT2CausalLM)
    assert isinstance(backbone, keras_hub.models.GPT2Backbone)
    assert embedding.compute_dtype == "bfloat16"


def test_a_preset_is_saved_of_a_model_that_is_reverted(tmp_path):
    """A preset names its class, which a converted one has to be again."""
    model, x, _ = third_party.gpt2()
    outputs = call(model.backbone, x)
    tfmp.convert(model, filter="all")
    tfmp.revert(model)
    model.backbone.save_to_preset(tmp_path)
    loaded = keras_hub.models.GPT2Backbone.from_preset(str(tmp_path))
    np.testing.assert_array_equal(call(loaded, x), outputs)
