"""tfmp._core.contractions: what runs, what is kept, and where it may stand."""

import functools
import logging
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import oracles
import pytest
import tensorflow as tf
from modes import MODES, each_mode

from tfmp import ops
from tfmp._core import contractions, equations
from tfmp.recipes import CurrentScaling, DelayedScaling, get

DTYPES = {
    "float32": np.dtype("float32"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("float16"),
}
AMAX = np.float32([4.0, 3.0, 0.0])


def normal(seed, *shape, dtype="float32"):
    values = np.random.default_rng(seed).standard_normal(shape)
    return values.astype(DTYPES[dtype])


def integers(seed, *shape):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype("float32")


def step(x, w, amax, recipe=None):
    """Returns the product, both gradients and the observed amax."""
    product = functools.partial(ops.matmul, recipe=recipe)
    return oracles.gradients(
        lambda x, w, amax: product(x, w, amax=amax), (x, w, amax)
    )


# One result, however it is run.


@pytest.mark.slow_but("bfloat16")
@pytest.mark.parametrize(
    ("dtype", "recipe"),
    [("float32", "delayed"), ("bfloat16", "current"), ("float16", "delayed")],
)
def test_same_bits_in_each_mode(dtype, recipe):
    tensors = normal(0, 5, 7, dtype=dtype), normal(1, 7, 3), AMAX
    function = functools.partial(step, recipe=recipe)
    eager, graph, xla = (run(function)(*tensors) for run in MODES.values())
    assert oracles.same_bits(eager, graph)
    assert oracles.same_bits(eager, xla)
    assert oracles.same_bits(eager, function(*tensors))


RUNS = [  # dtype, batch, whether XLA compiles the function around
    ("float32", 6, False),
    ("bfloat16", 1, False),
    ("float16", 6, True),
]
SAVED = f"""
import sys
import numpy as np
import tensorflow as tf

loaded = tf.saved_model.load("model")
assert not [name for name in sys.modules if name.split(".")[0] == "tfmp"]
for number, (dtype, batch, jit) in enumerate({RUNS}):
    x = tf.cast(np.load("x.npy")[:batch], dtype)
    step = tf.function(loaded.step, jit_compile=jit, autograph=False)
    results = step(x, loaded.w, loaded.amax)
    results = [tf.cast(t, tf.float32) for t in results]
    np.savez(f"{{number}}.npz", *results)
with tf.GradientTape() as tape:
    y = loaded.forward(tf.constant(np.load("x.npy")))
gradients = tape.gradient(y, [loaded.w, loaded.amax])
np.savez("tape.npz", *gradients)
"""


def saved_model(folder):
    """Writes a model of unknown batch: a whole step, and the product."""
    module = tf.Module()
    module.w = tf.Variable(normal(1, 7, 3))
    module.amax = tf.Variable(AMAX)
    module.step = tf.function(step, autograph=False)
    for dtype in DTYPES:
        module.step.get_concrete_function(
            tf.TensorSpec([None, 7], dtype),
            tf.TensorSpec([7, 3]),
            tf.TensorSpec([3]),
        )
    module.forward = tf.function(
        lambda x: ops.matmul(x, module.w, amax=module.amax),
        input_signature=[tf.TensorSpec([None, 7])],
        autograph=False,
    )
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, f"{folder}/model", options=options)


@pytest.mark.slow
def test_saved_model_without_tfmp(tmp_path):
    """Saved with an unknown batch, loaded by TensorFlow alone."""
    x, w = normal(0, 6, 7), normal(1, 7, 3)
    np.save(tmp_path / "x.npy", x)
    saved_model(tmp_path)
    command = [sys.executable, "-c", SAVED]
    subprocess.run(command, check=True, cwd=tmp_path)
    for number, (dtype, batch, _) in enumerate(RUNS):
        results = step(x[:batch].astype(DTYPES[dtype]), w, AMAX)
        here = [tf.cast(t, tf.float32) for t in results]
        there = np.load(tmp_path / f"{number}.npz")
        assert oracles.same_bits(here, list(there.values()))
    there = np.load(tmp_path / "tape.npz")
    assert oracles.same_bits(step(x, w, AMAX)[2:], list(there.values()))


# What the backward pass keeps.


@pytest.mark.parametrize(
    ("recipe", "wide"),
    [
        ("delayed", set()),
        ("current_e4m3", set()),
        ("delayed_high_precision_kernel_grad", {"inputs"}),
        (CurrentScaling(high_precision=("input_grad",)), {"kernel"}),
        (
            CurrentScaling(high_precision=("kernel_grad", "input_grad")),
            {"inputs", "kernel"},
        ),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_keeps_one_byte_a_value(recipe, wide, dtype):
    """In a graph, all that reaches the backward pass are its arguments."""
    shapes = {"inputs": (5, 7), "kernel": (7, 2), "upstream": (5, 2)}
    graph = (
        MODES["graph"](functools.partial(step, recipe=recipe))
        .get_concrete_function(
            tf.TensorSpec(shapes["inputs"], dtype),
            tf.TensorSpec(shapes["kernel"], dtype),
            tf.TensorSpec([3]),
        )
        .graph
    )
    calls = [
        op
        for op in graph.get_operations()
        if op.type.endswith("PartitionedCall")
    ]
    forward, backward = calls
    bytes_of = {
        name: [t.dtype.size for t in backward.inputs if t.shape == shape]
        for name, shape in shapes.items()
    }
    wide_size = tf.as_dtype(dtype).size
    assert bytes_of == {
        "inputs": [wide_size if "inputs" in wide else 1],
        "kernel": [wide_size if "kernel" in wide else 1],
        "upstream": [wide_size],
    }
    others = [t for t in backward.inputs if t.shape not in shapes.values()]
    assert all(t.shape in ((), (3,)) for t in others)
    assert len(forward.inputs) == 3


# The tape.


def test_one_gradient_only():
    tensors = [tf.constant(t) for t in (normal(0, 5, 7), normal(1, 7, 3), AMAX)]
    _, *expected = step(*tensors)
    for tensor, gradient in zip(tensors, expected, strict=True):
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            y = ops.matmul(*tensors[:2], amax=tensors[2])
        assert oracles.same_bits(tape.gradient(y, tensor), gradient)


def test_persistent_tape():
    x, w, amax = (
        tf.constant(t) for t in (normal(0, 5, 7), normal(1, 7, 3), AMAX)
    )
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, w, amax])
        y = ops.matmul(x, w, amax=amax)
    first = tape.gradient(y, [x, w, amax])
    assert oracles.same_bits(first, tape.gradient(y, [x, w, amax]))
    assert oracles.same_bits(first[1], tape.gradient(y, w))


@each_mode
def test_two_calls_add_their_observations(run):
    def twice(x, w, amax):
        y = ops.matmul(x, w, amax=amax)
        return 3 * ops.matmul(2 * x, w, amax=amax) - y

    x, w = integers(0, 5, 7), integers(1, 7, 3)
    *_, observed = run(lambda *t: oracles.gradients(twice, t))(x, w, AMAX)
    expected = [3 * np.abs(x).max(), 2 * np.abs(w).max(), 3 + 1]
    assert observed.numpy().tolist() == expected


def test_variables():
    x = tf.constant(normal(0, 5, 7))
    w, amax = tf.Variable(normal(1, 7, 3)), tf.Variable(AMAX)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.matmul(x, w, amax=amax)
    gradients = tape.gradient(y, [x, w, amax])
    assert oracles.same_bits([y, *gradients], step(x, w, AMAX))


def second_order(x):
    with tf.GradientTape() as outer:
        outer.watch(x)
        loss, slope = oracles.gradients(
            lambda x: tf.reduce_sum(ops.matmul(x, x) ** 2), [x]
        )
        penalty = loss + tf.reduce_sum(slope**2)
    return outer.gradient(penalty, x)


def forward_mode(x):
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        y = ops.matmul(x, x)
    return accumulator.jvp(y)


@each_mode
@pytest.mark.parametrize("derivative", [second_order, forward_mode])
def test_other_derivatives_raise(run, derivative):
    """Without an error they would be silently zero."""
    with pytest.raises(Exception, match="second-order gradient"):
        run(derivative)(tf.constant(normal(0, 4, 4)))


# Inside of other operators.

STEPS = 3


def looped(x, w):
    def body(i, h):
        return i + 1, ops.matmul(h, w)

    return tf.while_loop(
        lambda i, h: i < STEPS, body, (0, x), maximum_iterations=STEPS
    )[1]


def mapped(x, w):
    return tf.map_fn(lambda row: ops.matmul(row[tf.newaxis], w), x)


def chosen(x, w):
    return tf.cond(tf.reduce_sum(x) < 1e9, lambda: ops.matmul(x, w), lambda: x)


def recomputed(x, w):
    return tf.recompute_grad(ops.matmul)(x, w)


def power(x, w):
    return functools.reduce(tf.matmul, [w] * STEPS, x)


INSIDE = [
    (looped, power),
    (mapped, lambda x, w: tf.matmul(x, w)[:, tf.newaxis]),
    (chosen, tf.matmul),
    (recomputed, tf.matmul),
]


@pytest.mark.slow_but("[graph]", "[xla]")
@each_mode
def test_inside_of(run):
    """On whole numbers, and a kernel that permutes them: exact."""
    x, w = integers(0, 5, 4), np.eye(4, dtype="float32")[[2, 0, 3, 1]]
    upstreams = [integers(1, *f(x, w).shape) for _, f in INSIDE]

    def results(functions, x, w):
        pairs = zip(functions, upstreams, strict=True)
        return [oracles.gradients(f, (x, w), u) for f, u in pairs]

    functions, references = zip(*INSIDE, strict=True)
    expected = results(references, x, w)
    actual = run(functools.partial(results, functions))(x, w)
    for function, found, exact in zip(functions, actual, expected, strict=True):
        for one, other in zip(found, exact, strict=True):
            np.testing.assert_array_equal(one, other, function.__name__)


@each_mode
def test_recompute_keeps_the_observations(run):
    def recomputed(x, w, amax):
        call = tf.recompute_grad(lambda x, w, amax: ops.matmul(x, w, amax=amax))
        return oracles.gradients(call, (x, w, amax))

    tensors = normal(0, 5, 7), normal(1, 7, 3), AMAX
    assert oracles.same_bits(run(recomputed)(*tensors), step(*tensors))


def test_vectorized_map_compiled_by_xla():
    x, w = integers(0, 3, 5, 7), integers(1, 7, 3)

    def function(x):
        return tf.vectorized_map(lambda one: ops.matmul(one, w), x)

    np.testing.assert_array_equal(MODES["xla"](function)(x), x @ w)


def test_jacobian_by_a_loop():
    x, w = tf.constant(integers(0, 5, 7)), integers(1, 7, 3)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = ops.matmul(x, w)
    jacobian = tape.jacobian(y, x, experimental_use_pfor=False)
    expected = np.einsum("ik,lj->ijkl", np.eye(5), w)
    np.testing.assert_array_equal(jacobian, expected)


# Compiled once.


def test_compiles_once_a_shape():
    contraction = equations.Contraction("pq", "qr", "pr")

    def compiled(batch):
        recipe = DelayedScaling(margin=3, amax_history_len=7)
        shapes = (batch, 5, 5, 2)
        return contractions._compiled(
            *(contraction, recipe, True, tf.float32, shapes),
            measured=False,
            elements=None,
        )

    def call(batch):
        recipe = DelayedScaling(margin=3, amax_history_len=7)
        return oracles.gradients(
            lambda x, w, amax: ops.einsum(
                "pq,qr->pr", x, w, amax=amax, recipe=recipe
            ),
            (normal(batch, batch, 5), normal(1, 5, 2), AMAX),
        )

    for batch in (3, 3, 4, 3, 4):
        call(batch)
        forward, backward = compiled(batch)
        assert forward.experimental_get_tracing_count() == 1
        assert backward.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_many_shapes_are_not_taken_for_one_function_traced_too_often():
    logger, said = logging.getLogger("tensorflow"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    try:
        for rows in range(1, 9):
            ops.matmul(tf.ones([16 * rows, 16]), tf.ones([16, 16]))
    finally:
        logger.removeHandler(handler)
    assert not [each for each in said if "retracing" in each]


def test_equal_recipes_do_not_retrace_a_function():
    traces = []

    @tf.function(autograph=False)
    def function(x, recipe):
        traces.append(recipe)
        return ops.matmul(x, x, recipe=recipe)

    x = tf.constant(normal(0, 4, 4))
    for margin in (1, 1, 2, 1):
        function(x, CurrentScaling(margin=margin))
    assert [recipe.margin for recipe in traces] == [1, 2]


# The program that a GPU gets.

DOT = re.compile(
    r"stablehlo\.dot(?:_general)? [^:]*?(?:precision = \[(\w+), (\w+)\] )?"
    r": \(tensor<(\S+)>, tensor<(\S+)>\) -> tensor<(\S+)>"
)
WIDENED = re.compile(r"stablehlo\.convert .* : \(tensor<\S*f8\w+>\)")


def gpu_program(function, *tensors):
    compiled = MODES["xla"](function)
    write = compiled.experimental_get_compiler_ir(*tensors)
    return write(stage="stablehlo", platform_name="GPU")


def dots(text):
    """Returns precision, types of the operands and of the result, sorted."""
    assert len(DOT.findall(text)) == text.count("stablehlo.dot")
    found = []
    for first, second, *types in DOT.findall(text):
        assert first == second
        found.append((first, *(t.split("x")[-1] for t in types)))
    return sorted(found)


def test_dots_and_widened_find_what_they_should():
    x = tf.ones([4, 4], tf.bfloat16)
    assert dots(gpu_program(lambda x: tf.matmul(x, x), x)) == [
        ("", "bf16", "bf16", "bf16")
    ]

    def round_trip(x):
        low = tf.cast(x, tf.dtypes.experimental.float8_e4m3fn)
        return tf.cast(low, tf.bfloat16)

    assert WIDENED.search(gpu_program(round_trip, x))
    assert not WIDENED.search(gpu_program(lambda x: tf.matmul(x, x), x))


E4M3, E5M2, BF16, F32 = "f8E4M3FN", "f8E5M2", "bf16", "f32"
OUTPUT = ("DEFAULT", E4M3, E4M3, BF16)
INPUT_GRAD = ("HIGHEST", E5M2, E4M3, BF16)
KERNEL_GRAD = ("HIGHEST", E4M3, E5M2, F32)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("delayed", [OUTPUT, INPUT_GRAD, KERNEL_GRAD]),
        ("current", [OUTPUT, INPUT_GRAD, KERNEL_GRAD]),
        (
            "delayed_e4m3",
            [OUTPUT, *(("HIGHEST", E4M3, E4M3, r) for r in (BF16, F32))],
        ),
        (
            "delayed_high_precision_kernel_grad",
            [OUTPUT, INPUT_GRAD, ("HIGHEST", BF16, BF16, F32)],
        ),
        (
            CurrentScaling(fp8_format=("E5M2", "E4M3", "E4M3")),
            [
                ("DEFAULT", E5M2, E4M3, BF16),
                ("HIGHEST", E4M3, E4M3, BF16),
                ("HIGHEST", E5M2, E4M3, F32),
            ],
        ),
    ],
)
def test_gpu_program_has_three_fp8_products(recipe, expected):
    x = tf.constant(normal(0, 32, 64, dtype="bfloat16"))
    tensors = x, tf.constant(normal(1, 64, 16)), tf.constant(AMAX)
    text = gpu_program(lambda *t: step(*t, recipe=get(recipe)), *tensors)
    assert dots(text) == sorted(expected)
    assert not WIDENED.search(text)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [("float32", "f32"), ("bfloat16", "bf16"), ("float16", "f32")],
)
def test_gpu_program_of_an_einsum(dtype, result):
    """Batched, transposed; float16 cannot hold a product before its scale."""
    x = tf.constant(normal(0, 2, 16, 3, 32, dtype=dtype))
    w = tf.constant(normal(1, 3, 8, 32))

    def function(x, w):
        attend = functools.partial(ops.einsum, "bqhd,hkd->bhqk")
        return oracles.gradients(attend, (x, w))

    text = gpu_program(function, x, w)
    assert dots(text) == sorted(
        [*((*one[:3], result) for one in (OUTPUT, INPUT_GRAD)), KERNEL_GRAD]
    )
    assert not WIDENED.search(text)


def test_programs_can_be_forgotten():
    x, w = tf.ones([4, 16]), tf.ones([16, 8])
    before = ops.matmul(x, w)
    assert contractions._compiled.cache_info().currsize > 0
    ops.clear_programs()
    assert contractions._compiled.cache_info().currsize == 0
    np.testing.assert_array_equal(ops.matmul(x, w), before)
