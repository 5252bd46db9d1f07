"""tfmp.ops.conv, held against exact convolutions of the same FP8 values."""

import functools
import re

import conv_oracle
import keras
import ml_dtypes
import numpy as np
import oracles
import pytest
import tensorflow as tf
from conv_oracle import Case
from modes import MODES, each_mode

from tfmp import ops
from tfmp.ops import geometry
from tfmp.recipes import PRESETS, CurrentScaling, DelayedScaling

DTYPES = {
    "float32": np.dtype("float32"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("float16"),
}
NO_AMAX = np.zeros(3, "float32")
KEPT = DelayedScaling(high_precision=("kernel_grad",))


def normal(seed, *shape, dtype="float32"):
    values = np.random.default_rng(seed).standard_normal(shape)
    return values.astype(DTYPES[dtype])


def integers(seed, *shape):
    """Whole numbers that E4M3 holds exactly, at any scale."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype("float32")


def tensors_of(case, make=integers, batch=2):
    """Returns inputs, kernel and the result's gradient, by role."""
    shapes = case.inputs_shape, lambda _: case.kernel_shape, case.grads_shape
    return {
        role: make(seed, *shape(batch))
        for seed, (role, shape) in enumerate(
            zip(oracles.ROLES, shapes, strict=True)
        )
    }


def gradients(case, tensors, amax=NO_AMAX, **kwargs):
    """Returns the result, both gradients and the observed amax."""
    training = kwargs.pop("training", True)
    kwargs = case.arguments | kwargs
    return oracles.gradients(
        lambda x, w, amax: ops.conv(
            x, w, amax=ops.Pass(amax, training), **kwargs
        ),
        (tensors["inputs"], tensors["kernel"], amax),
        tensors["grads"],
    )


def reasons(case):
    given = geometry.convolution(
        case.inputs_shape(None), case.kernel_shape, **case.arguments
    )
    return given.float8_products(case.lengths)


# The oracle itself.


@pytest.mark.parametrize(
    "case",
    [
        Case((6, 5), 3, 2, 1, "same", channels=4, filters=3),
        Case((6, 7), 2, 1, 2, "same", 2, channels=4, filters=6),
        Case((7,), 3, 1, 2, "causal", channels=2, filters=3),
        Case((4, 5, 6), 2, 2, 1, "valid", channels=2, filters=3),
    ],
)
def test_oracle(case):
    tensors = tensors_of(case)
    kwargs = case.arguments
    ends = [[0, 0], [case.reach, 0], [0, 0]]
    if case.padding == "causal":
        kwargs["padding"] = "valid"

    def reference(x, w):
        x = tf.pad(x, ends) if case.padding == "causal" else x
        return keras.ops.conv(x, w, **kwargs)

    expected = oracles.gradients(
        reference, (tensors["inputs"], tensors["kernel"]), tensors["grads"]
    )
    actual = conv_oracle.convolve(case, *tensors.values())
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# Geometries, on whole numbers: exact, so without a tolerance.

CASES = [
    # channels that have FP8 kernels
    Case((7,), 1),
    Case((7,), 3, 1, 1, "same"),
    Case((8,), 3, 3, 1, "causal"),
    Case((7,), 3, 1, 2, "causal", 2, channels=32, filters=32),
    Case((8, 7), 1, 2, 1, "same"),
    Case((8, 7), 3, 2, 1, "same"),
    Case((8, 7), 2, 1, 3),
    Case((5, 6), 2, 1, 1, "valid", 3, channels=48, filters=6),
    Case((4, 5, 4), 2, 2),
    Case((4, 5, 4), 2, 1, 2, "valid", 2, channels=32, filters=32),
    # channels that have none
    Case((8, 7), 3, 1, 1, "same", channels=3),
    Case((8, 7), 3, 1, 1, "same", 4, channels=4, filters=8),
    Case((8, 7), 2, 3, 1, "same", 2, channels=6, filters=4),
    Case((4, 5, 4), 2, 2, 1, "same", channels=2),
    # kernels that exceed the image
    Case((2, 2), 3, 1, 1, "same"),
    Case((4, 4), 4),
]


@pytest.mark.slow_but("[1]", "[2]")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_exact(rank):
    """All of a rank in one program."""
    cases = [case for case in CASES if case.rank == rank]
    tensors = [tensors_of(case) for case in cases]

    def step(tensors):
        pairs = zip(cases, tensors, strict=True)
        return [gradients(case, t, recipe="current") for case, t in pairs]

    results = MODES["xla"](step)(tensors)
    for case, given, actual in zip(cases, tensors, results, strict=True):
        expected = conv_oracle.convolve(case, *given.values())
        for one, other in zip(actual, expected, strict=False):
            assert one.dtype == tf.float32
            np.testing.assert_array_equal(one, other, str(case))


def test_cases_hold_every_combination():
    found = {tuple(map(bool, reasons(case).values())) for case in CASES}
    no, yes = True, False
    assert found == {
        (yes, yes, yes),
        (yes, no, yes),
        (no, yes, no),
        (no, no, no),
    }


def test_channels_first():
    case = Case((6, 5), 3, 1, 1, "same")
    tensors = tensors_of(case)
    moved = {
        role: x if role == "kernel" else np.moveaxis(x, -1, 1)
        for role, x in tensors.items()
    }
    y, dx, dw, _ = gradients(
        case, moved, data_format="channels_first", recipe="current"
    )
    moved_back = [np.moveaxis(t, 1, -1) for t in (y, dx)]
    expected = conv_oracle.convolve(case, *tensors.values())
    for one, other in zip([*moved_back, dw], expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_data_format_of_keras(monkeypatch):
    monkeypatch.setattr(
        keras.config, "image_data_format", lambda: "channels_first"
    )
    y = ops.conv(tf.ones([1, 16, 5, 6]), tf.ones([2, 2, 16, 3]))
    assert y.shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    ("padding", "strides", "jit_compile"),
    [
        ("same", (1, 3), False),
        ("causal", (2,), True),
    ],
)
def test_unknown_lengths(padding, strides, jit_compile):
    """One function, not retraced, for each batch and length."""

    def convolve(x, w, *upstream):
        results = []
        for stride, u in zip(strides, upstream, strict=True):
            call = functools.partial(ops.conv, strides=stride, padding=padding)
            results += oracles.gradients(call, (x, w), u)
        return results

    specs = [tf.TensorSpec([None, None, 16])] * (1 + len(strides))
    specs.insert(1, tf.TensorSpec([3, 16, 16]))
    function = tf.function(
        convolve,
        input_signature=specs,
        autograph=False,
        jit_compile=jit_compile,
    )
    for batch, length in ((1, 5), (2, 9)):
        cases = [Case((length,), 3, s, 1, padding) for s in strides]
        tensors = [tensors_of(case, batch=batch) for case in cases]
        upstream = [t["grads"] for t in tensors]
        actual = function(tensors[0]["inputs"], tensors[0]["kernel"], *upstream)
        expected = []
        for case, t in zip(cases, tensors, strict=True):
            expected += conv_oracle.convolve(case, *t.values())
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_unknown_lengths_in_one_graph_of_two_axes():
    """Only the strided axes are cut; known ones stay known."""
    case = Case((8, 7), 3, 2, 1, "same")
    tensors = tensors_of(case)
    function = tf.function(
        functools.partial(ops.conv, **case.arguments), autograph=False
    ).get_concrete_function(
        tf.TensorSpec([None, None, 7, 16]), tf.TensorSpec([3, 3, 16, 16])
    )
    assert function.output_shapes.as_list() == [None, None, 4, 16]
    y = function(*map(tf.constant, (tensors["inputs"], tensors["kernel"])))
    expected, *_ = conv_oracle.convolve(case, *tensors.values())
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    case = Case((5, 4), 3, 1, 1, "same")
    tensors = tensors_of(case, batch=batch)
    y, dx, dw, amax = gradients(case, tensors)
    for t, role in ((dx, "inputs"), (dw, "kernel"), (y, "grads")):
        assert t.shape == tensors[role].shape
    assert np.all(np.isfinite(dw))
    assert (amax.numpy() == 0).tolist() == [batch == 0, False, batch == 0]


# Both oracles, for each recipe and dtype.

RECIPES = {
    **PRESETS,
    "delayed_margin_1": DelayedScaling(margin=1, current=("grads",)),
    "current_wide_output": CurrentScaling(high_precision=("output",)),
    "current_wide_input_grad": CurrentScaling(high_precision=("input_grad",)),
    "current_wide_all": CurrentScaling(
        high_precision=("output", "input_grad", "kernel_grad")
    ),
}
NUMERIC = Case((6, 5), 3, 1, 1, "same", channels=32, filters=16)


def check(case, dtype, name):
    """Holds all that a convolution gives against both oracles.

    Returns the observed amax.
    """
    recipe = RECIPES[name]
    make = functools.partial(normal, dtype=dtype)
    tensors = tensors_of(case, make)
    tensors["kernel"] = tensors["kernel"].astype("float32") / 8
    amax = None
    if isinstance(recipe, DelayedScaling):
        # Small for the inputs, so that some values are clipped.
        amax = np.float32([2.0, 0.5, 6.0])
    actual = gradients(
        case, tensors, NO_AMAX if amax is None else amax, recipe=recipe
    )
    wide = {n for n, reason in reasons(case).items() if reason}
    wide |= set(recipe.high_precision)
    expected = conv_oracle.products(
        case, tensors, recipe.in_one_format(), wide, amax
    )
    assert [t.dtype.name for t in actual[:3]] == [dtype, dtype, "float32"]
    expected.check(*actual[:3])
    assert actual[3].numpy().tolist() == expected.amax
    if amax is None:
        exact = conv_oracle.convolve(
            case, *(x.astype("float64") for x in tensors.values())
        )
        for one, other in zip(exact, actual, strict=False):
            assert oracles.decibels(one, other) > 20
    return actual[3].numpy()


@pytest.mark.slow_but(
    "-delayed]", "-current]", "projections", "high_precision_output"
)
@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("float32", "delayed"),
        ("bfloat16", "delayed"),
        ("bfloat16", "current"),
        ("float16", "current"),
        # These run what the two above do.
        ("bfloat16", "delayed_e4m3"),
        ("float16", "current_e4m3"),
        ("float16", "delayed_high_precision_kernel_grad"),
        ("float32", "current_high_precision_kernel_grad"),
        ("bfloat16", "delayed_e4m3_high_precision_output"),
        ("float16", "delayed_high_precision_projections"),
        ("float32", "current_high_precision_projections"),
        ("bfloat16", "static"),
        ("float16", "static_e4m3"),
        ("bfloat16", "delayed_margin_1"),
        ("float32", "current_wide_output"),
        ("bfloat16", "current_wide_input_grad"),
        ("float16", "current_wide_all"),
    ],
)
def test_numerics(dtype, name):
    check(NUMERIC, dtype, name)


def test_numerics_run_every_recipe():
    marks = {mark.name: mark for mark in test_numerics.pytestmark}
    cases = marks["parametrize"].args[1]
    assert {name for _, name in cases} == set(RECIPES)


@pytest.mark.parametrize(
    ("changes", "dtype", "observed"),
    [
        ({"stride": 2}, "float16", [1, 1, 1]),
        ({"filters": 3}, "bfloat16", [1, 1, 1]),
        ({"channels": 3}, "bfloat16", [0, 1, 1]),
        ({"channels": 3, "filters": 5}, "float32", [0, 0, 0]),
    ],
)
def test_numerics_of_products_that_stay_wide(changes, dtype, observed):
    """And a role of which no product is FP8 is not observed."""
    amax = check(NUMERIC._replace(**changes), dtype, "current")
    assert np.sign(amax).tolist() == observed


def test_oracle_can_fail():
    """A product in the compute dtype is not one of FP8, nor the reverse."""
    make = functools.partial(normal, dtype="bfloat16")
    tensors = tensors_of(NUMERIC, make)
    tensors["kernel"] = tensors["kernel"].astype("float32")
    recipe = CurrentScaling(fp8_format="E4M3")
    results = gradients(NUMERIC, tensors, recipe=recipe)[:3]
    for wide in ("output", "input_grad", "kernel_grad"):
        expected = conv_oracle.products(NUMERIC, tensors, recipe, {wide})
        with pytest.raises(AssertionError, match="outside"):
            expected.check(*results)


def test_float16_has_room():
    """Products of values near E4M3's maximum exceed 65504 before the scale."""
    x = tf.fill([1, 4, 4, 64], tf.constant(1.0, tf.float16))
    tensors = {"inputs": x, "kernel": np.ones([3, 3, 64, 16], "float32")}
    tensors["grads"] = np.ones([1, 2, 2, 16], "float16")
    y, dx, dw, _ = gradients(Case((4, 4), 3, channels=64), tensors)
    assert np.all(y == 9 * 64)
    assert np.all(dw == 4)
    assert np.max(dx) == 4 * 16


def test_without_training():
    """Without priors: all is scaled by its own amax."""
    case = Case((6, 5), 3, padding="same")
    tensors = tensors_of(case, normal)
    one = gradients(case, tensors, training=False)
    other = gradients(case, tensors, recipe=CurrentScaling())
    assert oracles.same_bits(one[:3], other[:3])


# One result, however it is run.


def test_same_bits_in_each_mode():
    make = functools.partial(normal, dtype="bfloat16")
    tensors = tensors_of(NUMERIC, make)
    tensors["kernel"] = tensors["kernel"].astype("float32")
    upstream = tensors.pop("grads")

    def step(inputs, kernel, amax):
        both = {"inputs": inputs, "kernel": kernel, "grads": upstream}
        return gradients(NUMERIC, both, amax)

    eager, graph, xla = (
        run(step)(*tensors.values(), np.float32([4, 2, 4]))
        for run in MODES.values()
    )
    assert oracles.same_bits(eager, graph)
    assert oracles.same_bits(eager, xla)


@each_mode
@pytest.mark.parametrize("channels", [16, 3])
def test_second_order_raises(run, channels):
    """On FP8 operands and on others."""
    kernel = tf.ones([2, channels, channels])

    def second_order(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            loss, slope = oracles.gradients(
                lambda x: tf.reduce_sum(ops.conv(x, kernel) ** 2), [x]
            )
            penalty = loss + tf.reduce_sum(slope**2)
        return outer.gradient(penalty, x)

    with pytest.raises(Exception, match="second-order gradient"):
        run(second_order)(tf.ones([1, 4, channels]))


@pytest.mark.parametrize(
    ("case", "recipe", "sizes"),
    [
        (NUMERIC, "delayed", (1, 1)),
        (NUMERIC, KEPT, (2, 1)),
        (NUMERIC._replace(stride=2), "delayed", (1, 2)),
        (NUMERIC._replace(channels=3), "delayed", (2, 1)),
    ],
    ids=str,
)
def test_backward_keeps_one_byte_a_value(case, recipe, sizes):
    """In a graph, all that reaches the backward pass are its arguments."""
    shapes = case.inputs_shape(9), case.kernel_shape, case.grads_shape(9)
    call = functools.partial(ops.conv, recipe=recipe, **case.arguments)
    graph = (
        MODES["graph"](
            lambda *t: oracles.gradients(lambda x, w, a: call(x, w, amax=a), t)
        )
        .get_concrete_function(
            tf.TensorSpec(shapes[0], tf.bfloat16),
            tf.TensorSpec(shapes[1], tf.bfloat16),
            tf.TensorSpec([3]),
        )
        .graph
    )
    _, backward = (
        op
        for op in graph.get_operations()
        if op.type.endswith("PartitionedCall")
    )
    kept = [
        [t.dtype.size for t in backward.inputs if t.shape == shape]
        for shape in shapes[:2]
    ]
    assert kept == [[sizes[0]], [sizes[1]]]


# The program that a GPU gets.

CONVOLUTION = re.compile(
    r"stablehlo\.convolution\(([^)]*)\).* window = \{([^}]*)\}.*"
    r": \(tensor<(\S+)>, tensor<(\S+)>\) -> tensor<(\S+)>"
)


def gpu_convolutions(case, dtype="bfloat16"):
    """Returns each convolution's product, operand types, and guards.

    A product is known by the result's shape; a guard is a barrier that an
    operand comes from.
    """
    tensors = tensors_of(case, functools.partial(normal, dtype=dtype))
    shapes = {
        "x".join(map(str, tensors[role].shape)): name
        for role, name in (
            ("grads", "output"),
            ("inputs", "input_grad"),
            ("kernel", "kernel_grad"),
        )
    }
    upstream = tensors.pop("grads")

    def step(inputs, kernel, amax):
        both = {"inputs": inputs, "kernel": kernel, "grads": upstream}
        return gradients(case, both, amax)

    arguments = [tf.constant(t) for t in (*tensors.values(), NO_AMAX)]
    write = MODES["xla"](step).experimental_get_compiler_ir(*arguments)
    text = write(stage="stablehlo", platform_name="GPU")
    found = {}
    for body in text.split("func.func "):
        for names, window, *types in CONVOLUTION.findall(body):
            assert "true" not in window  # no reversal of the window
            shape, _, kind = types[2].rpartition("x")
            operands = [t.rpartition("x")[2] for t in types[:2]]
            guards = sum(
                f"{name} = stablehlo.optimization_barrier" in body
                for name in names.split(", ")
            )
            found[shapes[shape]] = (*operands, kind, guards)
    return found


F8, BF16 = "f8E4M3FN", "bf16"
FLOAT8 = {
    "output": (F8, F8, BF16, 1),
    "input_grad": (F8, F8, BF16, 2),
    "kernel_grad": (BF16, BF16, BF16, 2),
}
WIDE = dict.fromkeys(FLOAT8, (BF16, BF16, BF16, 0))


@pytest.mark.parametrize(
    ("changes", "float8"),
    [
        ({}, ["output", "input_grad", "kernel_grad"]),
        ({"groups": 2, "channels": 64, "filters": 32}, list(FLOAT8)),
        ({"stride": 2}, ["output", "kernel_grad"]),
        ({"channels": 3}, ["input_grad"]),
        ({"channels": 3, "filters": 5}, []),
    ],
)
def test_gpu_program(changes, float8):
    """FP8 where a GPU has it, guarded where XLA would undo it."""
    case = NUMERIC._replace(lengths=(9, 7), **changes)
    expected = {n: (FLOAT8 if n in float8 else WIDE)[n] for n in FLOAT8}
    assert gpu_convolutions(case) == expected


def test_gpu_program_of_float16():
    """Its wide convolutions are 16 bits to 16 bits: others have no kernel."""
    found = gpu_convolutions(NUMERIC._replace(channels=3, filters=5), "float16")
    assert set(found.values()) == {("f16", "f16", "f16", 0)}


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": tf.ones([1, 4, 16], tf.int32)}, TypeError, "`inputs` must"),
        ({"kernel": tf.ones([2, 16, 4], tf.int32)}, TypeError, "`kernel` must"),
        ({"kernel": "k"}, TypeError, "`kernel` must"),
        ({"padding": "full"}, ValueError, "`padding` must"),
        ({"strides": -1}, ValueError, "`strides` must"),
        ({"data_format": "first"}, ValueError, "`data_format` must"),
        ({"recipe": "delayed"}, ValueError, "`amax` must be given"),
        ({"recipe": "late"}, ValueError, "`recipe` must be one of"),
        ({"amax": [1.0]}, ValueError, r"`amax` must have shape \[3\]"),
        ({"inputs": tf.ones([1, 1, 16])}, ValueError, "be long enough"),
    ],
)
def test_errors(arguments, error, message):
    good = {"inputs": tf.ones([1, 4, 16]), "kernel": tf.ones([2, 16, 4])}
    ops.conv(**good)
    with pytest.raises(error, match=message) as raised:
        ops.conv(**(good | arguments))
    assert "Received: " in str(raised.value)


def test_unknown_rank():
    @tf.function(input_signature=[tf.TensorSpec(None)])
    def function(x):
        return ops.conv(x, tf.ones([2, 16, 4]))

    with pytest.raises(ValueError, match="`inputs` must have a known rank"):
        function(tf.ones([1, 4, 16]))


def test_default_recipes():
    """Without `amax` by the tensors; with it by what it assumes."""
    x, w = tf.fill([1, 1, 16], 3.0), tf.ones([1, 16, 1])
    assert ops.conv(x, w).numpy().item() == 48
    clipped = ops.conv(x, w, amax=[1.0, 1.0, 1.0]).numpy().item()
    assert clipped == 16 * 448 / 256
