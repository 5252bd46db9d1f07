"""Convolutions that look at one pixel at a time are products of matrices."""

import functools
import re

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from conv_oracle import Case
from modes import MODES
from test_conv_ops import NUMERIC, check, gradients, normal, tensors_of

import tfmp
from tfmp import ops
from tfmp.conversion import layer_products

POINTWISE = NUMERIC._replace(size=1)


@pytest.mark.parametrize(
    ("changes", "dtype", "name"),
    [
        ({}, "float32", "delayed"),
        ({}, "float16", "current"),
        ({"lengths": (5,)}, "bfloat16", "current_wide_input_grad"),
        ({"channels": 3, "filters": 5}, "bfloat16", "current"),
    ],
)
def test_numerics(changes, dtype, name):
    """Against both oracles; any number of channels is in FP8."""
    check(POINTWISE._replace(**changes), dtype, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lengths", "open_at", "data_format"),
    [
        ((7,), None, "channels_last"),
        ((8, 7), 2, "channels_first"),
        ((4, 5, 4), None, "channels_last"),
    ],
)
def test_strides_take_part_of_the_inputs(lengths, open_at, data_format):
    """Bit for bit: the rest is not looked at, and has no gradient."""
    case = Case(lengths, 1, 2, 1, "same")
    first = data_format == "channels_first"
    tensors = {
        role: x if role == "kernel" or not first else np.moveaxis(x, -1, 1)
        for role, x in tensors_of(case, normal).items()
    }
    every = (slice(None),) * (1 + first) + (slice(None, None, 2),) * case.rank
    part = tensors | {"inputs": tensors["inputs"][every]}
    plain = gradients(case, part, data_format=data_format, strides=1)

    shape = list(tensors["inputs"].shape)
    if open_at is not None:
        shape[open_at] = None

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32)]
    )
    def step(inputs):
        given = tensors | {"inputs": inputs}
        return gradients(case, given, data_format=data_format)

    y, dx, dw, amax = step(tensors["inputs"])
    assert oracles.same_bits((y, dw, amax), (plain[0], *plain[2:]))
    rest = dx.numpy()
    assert oracles.same_bits(rest[every], plain[1])
    rest[every] = 0
    assert not rest.any()


DOT = re.compile(
    r"stablehlo\.dot_general.*: \(tensor<(\S+)>, tensor<(\S+)>\) -> "
)


def test_gpu_program():
    """Three products of FP8 operands, and no convolution."""
    make = functools.partial(normal, dtype="bfloat16")
    tensors = tensors_of(POINTWISE, make)
    upstream = tensors.pop("grads")

    def step(inputs, kernel):
        both = {"inputs": inputs, "kernel": kernel, "grads": upstream}
        return gradients(POINTWISE, both, recipe="current")

    arguments = [tf.constant(t) for t in tensors.values()]
    write = MODES["xla"](step).experimental_get_compiler_ir(*arguments)
    text = write(stage="stablehlo", platform_name="GPU")
    assert "stablehlo.convolution" not in text
    found = [t.rpartition("x")[2] for pair in DOT.findall(text) for t in pair]
    assert found == ["f8E4M3FN"] * 6


def test_a_model_has_all_of_it_in_float8():
    """The rules of conversion count on it, and on strides to skip inputs."""
    layer = keras.layers.Conv2D(8, 1, strides=2)
    layer.build([None, 9, 9, 3])
    assert layer_products.not_in_float8(layer) == {}
    (product,) = layer_products.products_of(
        layer, layer_products.Sizes(batch_size=2)
    )
    assert product.float8 == (True, True, True)
    assert product.inputs == 2 * 5 * 5 * 3
    ours = tfmp.layers.Conv2D(8, 1, dtype="mixed_float8")
    assert set(ours.float8_products([None, 9, 9, 3]).values()) == {None}
    grouped = tfmp.layers.Conv2D(8, 1, groups=2, dtype="mixed_float8")
    assert None not in grouped.float8_products([None, 9, 9, 4]).values()


def test_kernel_gradient_is_in_full_precision():
    """As that of a dense layer, which is the same product."""
    x = normal(0, 4, 8, 32, dtype="bfloat16")
    w, dy = normal(1, 32, 16), normal(2, 4, 8, 16, dtype="bfloat16")
    recipe = tfmp.recipes.CurrentScaling(fp8_format="E4M3")
    dense = oracles.gradients(
        lambda x, w: ops.matmul(x, w, recipe=recipe), (x, w), dy
    )
    conv = oracles.gradients(
        lambda x, w: ops.conv(x, w[None], recipe=recipe), (x, w), dy
    )
    assert oracles.same_bits(dense, conv)
