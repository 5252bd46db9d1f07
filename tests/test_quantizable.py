"""Keras' own `quantize` on models that tfmp has converted, or made."""

import keras
import numpy as np
import pytest
from keras import layers

import tfmp

MODES = ("int8", "int4", "float8")
KINDS = [layers.EinsumDense, layers.LayerNormalization, layers.Dense]
X = np.random.default_rng(0).normal(size=[8, 6, 32]).astype("float32")
Y = np.zeros([8, 6, 8], "float32")
each_mode = pytest.mark.parametrize("mode", MODES)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have a .quantize. method",
    "ignore:Skipping variable loading for optimizer",
)


def network(kind=layers):
    inputs = keras.Input([6, 32])
    x = kind.EinsumDense("abc,cd->abd", (None, 16), name="einsum")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, kind.Dense(8, name="dense")(x))


def converted(filter="all"):
    model = network()
    tfmp.convert(model, filter=filter)
    return model


def under(policy, kind=layers, convert=False):
    tfmp.set_global_policy(policy, convert=convert)
    return network(kind)


MAP = tfmp.PrecisionMap({"norm": "float32"}, "mixed_float8")
MODELS = {
    "converted": converted,
    "converted in part": lambda: converted(lambda layer, _: "d" in layer.name),
    "stock layers": lambda: under("mixed_float8"),
    "stock layers, converted": lambda: under("mixed_float8", convert="all"),
    "layers of tfmp": lambda: under("mixed_float8", tfmp.layers),
    "stock layers, a map": lambda: under(MAP),
    "layers of tfmp, a map": lambda: under(MAP, tfmp.layers),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def kinds(model):
    return [type(layer) for layer in model.layers[1:]]


def trained(make):
    model = make()
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    return model


@pytest.mark.slow_but("[layers of tfmp-float8]")
@each_mode
@each_model
def test_a_trained_model_is_quantized_as_keras_would(make, mode, tmp_path):
    model = trained(make)
    weights = model.get_layer("dense").get_weights()[:2]
    model.quantize(mode)
    assert kinds(model) == KINDS
    dense, einsum = model.get_layer("dense"), model.get_layer("einsum")
    for layer in (dense, einsum):
        assert layer.quantization_mode == mode
        assert layer.dtype_policy.name.endswith("_from_mixed_bfloat16")

    with tfmp.policy_scope("float32"):
        plain = layers.Dense(8, dtype="mixed_bfloat16")
        plain.build([None, None, 16])
        plain.set_weights(weights)
        plain.quantize(mode)
    for ours, theirs in zip(dense.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    model.evaluate(X, Y, verbose=0)
    before = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    tfmp.set_global_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("dense").quantization_mode == mode
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), before)


def test_the_map_of_a_global_policy_is_left_alone():
    before = repr(MAP)
    under(MAP).quantize("int8")
    assert repr(MAP) == before


@pytest.mark.slow
def test_training_goes_on_with_what_is_left():
    model = trained(converted)
    model.quantize("int8")
    bias = model.get_layer("dense").bias.numpy()
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"][0])
    assert np.any(model.get_layer("dense").bias.numpy() != bias)


def test_one_layer_can_be_chosen():
    model = converted()
    model.quantize("int8", filters="^dense$")
    assert model.get_layer("dense").quantization_mode == "int8"
    assert isinstance(model.get_layer("einsum"), tfmp.layers.EinsumDense)
    assert model.get_layer("einsum").amax is not None
    assert np.isfinite(model.predict(X, verbose=0)).all()


@pytest.mark.slow_but("[float8]")
@each_mode
def test_attention_is_quantized_and_loads(mode, tmp_path):
    inputs = keras.Input([6, 32])
    attention = layers.MultiHeadAttention(2, 16, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    tfmp.convert(model, filter="all")
    model.quantize(mode)
    assert attention.query_dense.quantization_mode == mode
    before = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), before)


class Doubled(layers.Dense):
    pass


class Own(tfmp.layers.Dense):
    pass


def test_what_keras_cannot_quantize_stays_as_it_is():
    inputs = keras.Input([6, 32])
    x = layers.Conv1D(16, 3, padding="same", name="conv")(inputs)
    x = Doubled(16, name="doubled")(x)
    x = Own(16, dtype="mixed_float8", name="own")(x)
    model = keras.Model(inputs, layers.Dense(8, name="dense")(x))
    tfmp.convert(model, filter="all")
    before = kinds(model)
    with pytest.warns(UserWarning, match="'doubled' stays") as caught:
        model.quantize("int8")
    assert any("'own' stays" in str(each.message) for each in caught)
    assert kinds(model) == [*before[:-1], layers.Dense]
    assert all(model.get_layer(n).amax is not None for n in ("conv", "own"))
    assert np.isfinite(model.predict(X, verbose=0)).all()
    with pytest.raises(NotImplementedError, match=r"`tfmp\.revert`"):
        model.get_layer("doubled").quantize("int8", type_check=False)


@pytest.mark.parametrize(
    "arguments", [{"mode": "int9"}, {"mode": "gptq"}, {"config": 3}]
)
def test_a_refusal_touches_nothing(arguments):
    model = converted()
    before = kinds(model)
    with pytest.raises(ValueError):
        model.quantize(**arguments)
    assert kinds(model) == before
    assert model.get_layer("dense").amax is not None


def test_float16_is_refused_before_the_layer_has_changed():
    model = network()
    tfmp.convert(model, "mixed_float16")
    before = kinds(model)
    with pytest.raises(ValueError, match="float16"):
        model.quantize("int8")
    assert kinds(model) == before


def test_gptq(tmp_path):
    ids = np.arange(6)[None] % 4
    embedding, dense = layers.Embedding(4, 32), layers.Dense(32, name="dense")
    model = keras.Sequential([keras.Input([6], dtype="int32")])
    for layer in (embedding, dense, layers.Dense(8, name="head")):
        model.add(layer)
    tfmp.convert(model, filter="all")
    blocks = [keras.Sequential([dense])]
    config = keras.quantizers.GPTQConfig(
        dataset=[ids],
        tokenizer=lambda x: x,
        num_samples=1,
        sequence_length=6,
        quantization_layer_structure={
            "pre_block_layers": [embedding],
            "sequential_blocks": blocks,
        },
    )
    model.quantize(config=config, filters="dense")
    assert dense.quantization_mode == "gptq" and dense.is_gptq_calibrated
    assert model.layers[-1].amax is not None
    assert np.isfinite(model.predict(ids, verbose=0)).all()


def test_a_quantized_layer_is_not_converted():
    model = network()
    model.quantize("int8", filters="^dense$")
    dense = model.get_layer("dense")
    policy, kernel = dense.dtype_policy, dense.kernel.numpy()
    report = tfmp.convert(model, filter="all")
    rows = {row.path.rpartition("/")[2]: row for row in report.rows}
    assert rows["dense"].reason == "Keras has quantized it: int8"
    assert rows["einsum"].precision == "float8"
    tfmp.set_precision(model, "mixed_float8")
    tfmp.revert(model)
    assert type(dense) is layers.Dense and dense.dtype_policy == policy
    np.testing.assert_array_equal(dense.kernel, kernel)


def test_revert_keeps_what_was_quantized_since():
    inputs = keras.Input([6], dtype="int32")
    x = layers.Embedding(10, 16, name="embedding")(inputs)
    model = keras.Model(inputs, layers.Dense(8, name="dense")(x))
    tfmp.convert(model, filter="all")
    model.quantize("int8")
    ids = np.arange(6)[None]
    before = model.predict(ids, verbose=0)
    tfmp.revert(model)
    assert model.get_layer("embedding").quantization_mode == "int8"
    np.testing.assert_array_equal(model.predict(ids, verbose=0), before)
