"""What layers of keras-hub cannot do in 16 bits: what conversion does then."""

from __future__ import annotations

import importlib

import keras
import keras_hub
import numpy as np
import pytest
import sweep_models
import tensorflow as tf
from third_party import HIDDEN, TEXT, WIDTH, grouped, text

import tfmp
from tfmp.conversion import hub_layers

EXPERTS = {"num_experts": 4, "top_k": 2}
MOE = {"moe_intermediate_dim": 16, "norm_top_k_prob": True}
BLOCKS = {
    "mixtral.mixtral_decoder.MixtralSparseMoeBlock": {"intermediate_dim": 16},
    "qwen_moe.qwen_moe_decoder.QwenSparseMoeBlock": {
        **MOE,
        "shared_expert_intermediate_dim": 16,
    },
    "qwen3_moe.qwen3_moe_decoder.Qwen3SparseMoeBlock": MOE,
    "qwen3_5_moe.qwen3_5_moe_decoder.Qwen3_5MoeSparseMoeBlock": {
        "moe_intermediate_dim": 16,
        "shared_expert_intermediate_size": 16,
    },
}
OWN = {"__module__": "own"}  # as a class in a program of a user
NARROW = ("mixed_bfloat16", "mixed_float16", "mixed_float8")


def block(name, **more):
    module, _, cls = name.rpartition(".")
    where = importlib.import_module(f"keras_hub.src.models.{module}")
    layer = getattr(where, cls)(WIDTH, **BLOCKS[name], **EXPERTS, **more)
    layer.build([None, None, WIDTH])
    return layer


def train(layer):
    """Returns the loss that a block adds, and all gradients."""
    x = np.random.default_rng(0).normal(size=[2, 4, WIDTH]).astype("float32")
    mask = np.array([[True, True, True, False]] * 2)
    if "Mixtral" not in type(layer).__name__:
        mask = np.tril(np.ones([4, 4], bool)) & mask[:, None]
    with tf.GradientTape() as tape:
        y, _ = layer(x, attention_mask=mask, training=True)
        loss = layer.losses[0]
        total = tf.reduce_sum(tf.cast(y, tf.float32)) + loss
    return loss, tape.gradient(total, layer.trainable_variables)


@pytest.mark.slow_but("mixtral")
@pytest.mark.parametrize("policy", NARROW)
@pytest.mark.parametrize("name", BLOCKS)
def test_experts_train_in_16_bits_with_a_padding_mask(name, policy):
    keras.utils.set_random_seed(0)
    layer = block(name)
    expected, _ = train(layer)
    report = tfmp.convert(layer, policy, filter="all")
    loss, gradients = train(layer)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, expected, rtol=0.02)
    assert all(np.isfinite(each.numpy()).all() for each in gradients)
    rows = [r for r in report.rows if r.reason == hub_layers.ROUTER.reason]
    assert [row.precision for row in rows] == ["float32"]
    others = {row.precision for row in report.rows} - {"float32"}
    assert others  # the experts are still in 16 bits, what is dense in FP8
    assert rows[0].reason in str(report)


def test_a_block_that_extends_one_has_a_router_too():
    name = "mixtral.mixtral_decoder.MixtralSparseMoeBlock"
    layer = block(name)
    layer.__class__ = type("OwnMixtral", (type(layer),), OWN)
    report = tfmp.convert(layer, "mixed_bfloat16")
    assert "float32" in {row.precision for row in report.rows}
    loss, _ = train(layer)
    assert np.isfinite(loss)


def test_a_changed_precision_leaves_the_router_alone():
    layer = block("qwen_moe.qwen_moe_decoder.QwenSparseMoeBlock")
    tfmp.convert(layer, "mixed_float8", filter="all")
    tfmp.set_precision(layer, {".*dense": "mixed_bfloat16"})
    loss, _ = train(layer)
    assert np.isfinite(loss)
    tfmp.revert(layer)
    below = layer._flatten_layers()
    assert {each.compute_dtype for each in below} == {"float32"}


@pytest.mark.parametrize("name", BLOCKS)
def test_keras_alone_still_fails(name):
    """If it no longer does, `hub_layers.ROUTER` has nothing to do."""
    layer = block(name, dtype="mixed_bfloat16")
    with pytest.raises((TypeError, tf.errors.InvalidArgumentError)):
        train(layer)


def test_a_model_of_experts_trains_and_is_saved(tmp_path):
    sizes = grouped() | EXPERTS
    backbone = keras_hub.models.MixtralBackbone(**sizes)
    model = keras_hub.models.MixtralCausalLM(backbone)
    tfmp.convert(model, "mixed_bfloat16")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    x = text()
    assert np.isfinite(model.train_on_batch(x, x["token_ids"])).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        np.float32(loaded(x, training=False)),
        np.float32(model(x, training=False)),
    )
    assert np.isfinite(loaded.train_on_batch(x, x["token_ids"])).all()


def t5():
    return keras_hub.models.T5Backbone(**TEXT)


def t5_gemma(name="T5GemmaBackbone"):
    return getattr(keras_hub.models, name)(**sweep_models.T5GEMMA)


def rwkv7():
    loras = dict.fromkeys(("gate", "mv", "aaa", "decay"), 8)
    return keras_hub.models.RWKV7Backbone(
        WIDTH, 16, 1, 32, HIDDEN, **{f"{k}_lora": v for k, v in loras.items()}
    )


OVERFLOWING = {
    "T5MultiHeadAttention": t5,
    "T5GemmaEncoderLayer": t5_gemma,
    "T5GemmaDecoderLayer": t5_gemma,
    "T5Gemma2EncoderLayer": lambda: t5_gemma("T5Gemma2Backbone"),
    "T5Gemma2DecoderLayer": lambda: t5_gemma("T5Gemma2Backbone"),
    "RWKV7TimeMix": rwkv7,
}


def is_finite(model):
    tokens = np.random.default_rng(0).integers(1, 32, [2, 16])
    mask = np.ones_like(tokens)
    mask[:, -2:] = 0
    x = {
        each.name: mask if "mask" in each.name else tokens
        for each in model.inputs
    }
    outputs = keras.tree.flatten(model(x, training=False))
    return all(np.isfinite(np.float32(each)).all() for each in outputs)


@pytest.mark.slow_but("[T5GemmaDecoderLayer]")
@pytest.mark.parametrize("name", hub_layers.OVERFLOWS)
def test_what_overflows_in_float16_is_said(name):
    model = OVERFLOWING[name]()
    text = f"{name} in float16, with Keras alone too: NaN"
    assert text not in str(tfmp.convert(model, "mixed_bfloat16"))
    assert is_finite(model)
    report = tfmp.convert(model, "mixed_float16")
    assert text in str(report) and text in str(report.to_dict()["notes"])
    assert not is_finite(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [x for x in dict.fromkeys(OVERFLOWING.values()) if x is not t5_gemma],
)
def test_keras_alone_overflows_too(make):
    keras.config.set_dtype_policy("mixed_float16")
    assert not is_finite(make())
