"""tfmp.ops: the products, held against exact ones of the same FP8 values."""

import functools
import itertools
import math
import types

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import oracles
import pytest
import tensorflow as tf
from modes import MODES

from tfmp import ops
from tfmp._core import scaling
from tfmp.recipes import PRESETS, ROLES, CurrentScaling, DelayedScaling

DTYPES = {
    "float32": np.dtype("float32"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("float16"),
}
each_dtype = pytest.mark.parametrize("dtype", DTYPES)

# Each field, and each role and product in it, at least once.
MORE_RECIPES = {
    "delayed_margin_1_current_inputs": DelayedScaling(
        margin=1, current=("inputs",)
    ),
    "delayed_current_kernel_high_precision_output": DelayedScaling(
        current=("kernel",), high_precision=("output",)
    ),
    "delayed_current_grads_high_precision_input_grad": DelayedScaling(
        current=("grads",), high_precision=("input_grad",)
    ),
    "delayed_fp8_output_only": DelayedScaling(
        high_precision=("input_grad", "kernel_grad")
    ),
    "delayed_fp8_kernel_grad_only": DelayedScaling(
        high_precision=("output", "input_grad")
    ),
    "delayed_high_precision_all": DelayedScaling(
        high_precision=("output", "input_grad", "kernel_grad")
    ),
    "current_margin_1_e5m2_inputs": CurrentScaling(
        margin=1, fp8_format=("E5M2", "E4M3", "E4M3")
    ),
    "current_e5m2_kernel": CurrentScaling(fp8_format=("E4M3", "E5M2", "E4M3")),
}
RECIPES = {**PRESETS, **MORE_RECIPES}
OTHER_RECIPES = [name for name in RECIPES if name not in ("delayed", "current")]
SIZES = (33, 65, 17)  # none divides by 16
NO_AMAX = np.zeros(3, "float32")


def normal(seed, *shape, dtype="float32"):
    values = np.random.default_rng(seed).standard_normal(shape)
    return values.astype(DTYPES[dtype])


def squares(dtype):
    """Inputs, kernel and gradient of one shape; the kernel is float32.

    The programs for them are compiled once for all tests of a recipe.
    """
    kinds = dtype, "float32", dtype
    return [normal(i, 6, 6, dtype=kind) for i, kind in enumerate(kinds)]


def integers(seed, *shape):
    """Whole numbers that E4M3 and E5M2 hold exactly, at any scale."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype("float32")


def gradients(x, w, upstream=1.0, amax=NO_AMAX, **kwargs):
    """Returns the product, both gradients and the observed amax."""
    training = kwargs.pop("training", True)
    run = functools.partial(ops.matmul, **kwargs)
    return oracles.gradients(
        lambda x, w, amax: run(x, w, amax=ops.Pass(amax, training)),
        (x, w, amax),
        upstream,
    )


# The oracle itself.


def test_oracle_quantizes():
    x = np.array([0.0, 1.0625, 1.1875, 2.0**-9, 2.0**-10, 500, np.inf, -449])
    expected = [0, 1, 1.25, 2.0**-9, 0, 448, 448, -448]
    assert oracles.quantize(x, "E4M3", 1.0).tolist() == expected
    assert oracles.quantize(x, "E5M2", 1.0)[:6].tolist() == [
        *(0, 1, 1.25, 2.0**-9, 2.0**-10, 512)
    ]
    assert oracles.quantize(x[1:2], "E4M3", 8.0) == 1.0


@pytest.mark.parametrize(
    ("amax", "name", "margin", "scale"),
    [
        (448.0, "E4M3", 0, 1.0),
        (448.0, "E4M3", 2, 0.25),
        (np.nextafter(np.float32(448), np.float32(500)), "E4M3", 0, 0.5),
        (3.0, "E4M3", 0, 128.0),
        (57344.0, "E5M2", 0, 1.0),
        (1e-38, "E5M2", 0, 2.0**126),
        (0.0, "E4M3", 0, 1.0),
        (math.inf, "E4M3", 0, 1.0),
        (math.nan, "E4M3", 0, 1.0),
    ],
)
def test_oracle_scales(amax, name, margin, scale):
    assert oracles.scale_for(float(amax), name, margin) == scale


def one_ulp(x, w):
    x[3, 5] += 2.0**-3 * np.sign(x[3, 5]) * 2 ** np.floor(np.log2(abs(x[3, 5])))


def scaled(x, w):
    x *= 2


def transposed(x, w):
    w[:16] = w[:16].T.copy()


def other_format(x, w):
    w[:] = w.astype(ml_dtypes.float8_e5m2).astype("float64")


def not_a_number(x, w):
    x[0, 0] = np.nan


@each_dtype
@pytest.mark.parametrize(
    "wrong", [one_ulp, scaled, transposed, other_format, not_a_number]
)
def test_oracle_can_fail(dtype, wrong):
    x = oracles.quantize(normal(0, 8, 16), "E4M3", 64.0)
    w = oracles.quantize(normal(1, 16, 16), "E4M3", 64.0)
    expected = oracles.multiply("ab,bc->ac", x, w, dtype)
    expected.check((x @ w).astype(DTYPES[dtype]))
    wrong(x, w)
    with pytest.raises(AssertionError):
        expected.check((x @ w).astype(DTYPES[dtype]))


def test_oracle_sees_accumulation_in_bfloat16():
    x, w = np.full((1, 257), 1.0), np.full((257, 1), 1.0)
    expected = oracles.multiply("ab,bc->ac", x, w, "float32")
    expected.check(np.array([[257.0]]))
    with pytest.raises(AssertionError):
        expected.check(np.array([[256.0]]))


def test_oracle_decibels():
    assert oracles.decibels(np.array([3.0, 4.0]), [3.0, 4.5]) == 20.0


def test_same_bits_can_fail():
    zeros = [np.zeros(2, "float32")]
    assert oracles.same_bits(zeros, [tf.zeros([2])])
    assert not oracles.same_bits(zeros, [-tf.zeros([2])])
    assert not oracles.same_bits(zeros, [tf.zeros([2], "bfloat16")])
    assert not oracles.same_bits(zeros, [tf.zeros([2, 1])])


# Shapes and equations, on whole numbers: exact, so without a tolerance.

EQUATIONS = [
    ("ab,bc->ac", (5, 7), (7, 3)),
    ("ab,bc->ac", (1, 1), (1, 1)),
    ("ab,bc->ac", (1, 17), (17, 1)),
    ("ab,bc->ca", (5, 7), (7, 3)),
    ("ab,bc", (5, 7), (7, 3)),
    ("ba,bc->ac", (7, 5), (7, 3)),
    ("abcd,dcef->feab", (2, 3, 5, 2), (2, 5, 3, 4)),
    ("bij,bjk->bik", (3, 4, 5), (3, 5, 2)),
    ("bij,jbk->kib", (3, 4, 5), (5, 3, 2)),
    ("bqhd,bkhd->bhqk", (2, 5, 3, 7), (2, 4, 3, 7)),
    ("a,b->ab", (5,), (3,)),
    ("a,a->", (17,), (17,)),
    (",->", (), ()),
    ("...a,ab->...b", (2, 3, 5), (5, 4)),
    ("...ab,...bc->...ac", (2, 1, 4, 5), (1, 3, 5, 6)),
    ("...ab,...bc->...ac", (3, 4, 5), (2, 3, 5, 6)),
    ("a...b,bc->a...c", (2, 3, 4, 5), (5, 6)),
    ("...a,...a->...", (3, 5), (3, 5)),
    ("ab, bc -> ac", (5, 7), (7, 3)),
]


def check_exact(function, reference, x, w):
    """Holds a function and its gradients against TensorFlow's own."""
    y = reference(x, w)
    upstream = integers(2, *y.shape)
    expected = oracles.gradients(reference, (x, w), upstream)
    actual = oracles.gradients(function, (x, w), upstream)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def check_together(cases):
    """Does so for several functions, in one program of XLA."""
    tensors, expected = [], []
    for _, reference, x, w in cases:
        upstream = integers(2, *reference(x, w).shape)
        tensors.append([tf.constant(t) for t in (x, w, upstream)])
        expected.append(oracles.gradients(reference, (x, w), upstream))
    functions = [function for function, *_ in cases]

    def step(tensors):
        pairs = zip(functions, tensors, strict=True)
        return [oracles.gradients(f, (x, w), u) for f, (x, w, u) in pairs]

    results = MODES["xla"](step)(tensors)
    for of, actual, exact in zip(functions, results, expected, strict=True):
        for one, other in zip(actual, exact, strict=True):
            np.testing.assert_array_equal(one, other, str(of))


def check_equations(equations):
    check_together(
        [
            (
                functools.partial(ops.einsum, equation),
                functools.partial(tf.einsum, equation),
                integers(0, *lhs),
                integers(1, *rhs),
            )
            for equation, lhs, rhs in equations
        ]
    )


def test_einsum():
    check_equations(EQUATIONS)


def test_matmul():
    cases = []
    for lhs, rhs, transpose_a, transpose_b in (
        ((5, 7), (7, 3), True, False),
        ((5, 7), (7, 3), False, True),
        ((5, 7), (7, 3), True, True),
        ((2, 3, 5, 7), (7, 3), False, True),
        ((5, 7), (2, 7, 3), True, False),
        ((2, 5, 7), (2, 7, 3), True, True),
        ((4, 1, 5, 7), (3, 7, 2), False, False),
    ):
        flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        x, w = integers(0, *lhs), integers(1, *rhs)
        cases.append(
            (
                functools.partial(ops.matmul, **flags),
                functools.partial(tf.matmul, **flags),
                np.swapaxes(x, -1, -2) if transpose_a else x,
                np.swapaxes(w, -1, -2) if transpose_b else w,
            )
        )
    check_together(cases)


@st.composite
def contractions(draw):
    """Any equation that one product expresses, and lengths for its labels.

    Every label has one of four places: in both operands and the result, in
    both operands only, or in one operand and the result.
    """
    labels = draw(st.permutations("abcd"))
    places = draw(st.lists(st.sampled_from("BKLR"), min_size=1, max_size=4))
    pairs = list(zip(labels, places, strict=False))
    terms = (
        [label for label, place in pairs if place in kept]
        for kept in ("BKL", "BKR", "BLR")
    )
    lhs, rhs, out = ("".join(draw(st.permutations(t))) for t in terms)
    lengths = {label: draw(st.integers(1, 3)) for label in labels}
    shapes = ([lengths[label] for label in term] for term in (lhs, rhs))
    return f"{lhs},{rhs}->{out}", *shapes


@pytest.mark.slow
@hypothesis.settings(max_examples=2, derandomize=True)
@hypothesis.given(st.lists(contractions(), min_size=7, max_size=7))
def test_any_equation(cases):
    """The first list that it draws is of the simplest."""
    check_equations(cases)


@pytest.mark.slow_but("lengths0", "lengths4", "lengths5")
@pytest.mark.parametrize(
    ("equation", "lhs", "rhs", "lengths", "jit_compile"),
    [
        ("ab,bc->ac", "N7", "73", (1, 9), True),
        ("...a,ab->...b", "N57", "73", (9,), False),
        ("ab,bc->ac", "5N", "N3", (9,), False),
        ("...ij,...jk->...ik", "N45", "N53", (9,), True),
        ("bij,bjk->bki", "NNN", "NNN", (9,), False),
        ("...ij,...jk->...ik", "N45", "153", (9,), False),
        ("...ij,...jk->...ik", "145", "N53", (1, 9), True),
    ],
)
def test_unknown_lengths(equation, lhs, rhs, lengths, jit_compile):
    """N stands for an unknown length; it also broadcasts a length of one."""

    def shape(text, length):
        return [length if n == "N" else int(n) for n in text]

    function = tf.function(
        functools.partial(ops.einsum, equation),
        autograph=False,
        jit_compile=jit_compile,
    ).get_concrete_function(
        tf.TensorSpec(shape(lhs, None)), tf.TensorSpec(shape(rhs, None))
    )
    reference = functools.partial(tf.einsum, equation)
    for n in lengths:
        x, w = integers(n, *shape(lhs, n)), integers(1, *shape(rhs, n))
        check_exact(function, reference, x, w)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_lengths_that_differ(jit_compile):
    function = tf.function(
        lambda x, w: ops.matmul(x, w),
        input_signature=[tf.TensorSpec([2, None]), tf.TensorSpec([None, 3])],
        jit_compile=jit_compile,
    )
    assert function(tf.ones([2, 4]), tf.ones([4, 3])).shape == (2, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must match"):
        function(tf.ones([2, 1]), tf.ones([4, 3]))


@pytest.mark.parametrize(
    ("dtype", "recipe", "m", "k", "n"),
    [
        ("float32", "delayed", 0, 6, 3),
        ("bfloat16", "delayed", 0, 6, 3),
        ("float16", "delayed", 0, 6, 3),
        ("float32", "current", 0, 6, 3),
        ("float32", "delayed", 4, 0, 3),
        ("float32", "delayed", 4, 6, 0),
    ],
)
def test_empty(dtype, recipe, m, k, n):
    x, w = normal(0, m, k, dtype=dtype), normal(1, k, n)
    y, dx, dw, amax = gradients(x, w, recipe=recipe)
    for tensor, shape in ((y, (m, n)), (dx, (m, k)), (dw, (k, n))):
        assert tensor.shape == shape
        assert not np.any(tensor)
    sizes = np.array([m * k, k * n, m * n])
    assert np.array_equal(amax.numpy() == 0, sizes == 0)


@each_dtype
@pytest.mark.parametrize("recipe", ["delayed", "current"])
def test_zeros(dtype, recipe):
    x, w = np.zeros([6, 6], DTYPES[dtype]), np.zeros([6, 6], "float32")
    results = gradients(x, w, upstream=0.0, recipe=recipe)
    assert [t.dtype.name for t in results[:3]] == [dtype, dtype, "float32"]
    for tensor in results:
        assert not np.any(tensor)


# Both oracles, for each recipe and dtype.


def example(name, dtype, kernel_dtype="float32"):
    """Returns the tensors of an example, and what tfmp makes of them.

    The amax is three times the real one: another scale, no saturation.
    """
    m, k, n = SIZES
    x, w = normal(0, m, k, dtype=dtype), normal(1, k, n, dtype=kernel_dtype)
    tensors = x, w, normal(2, m, n, dtype=dtype)
    amax = np.float32([3 * oracles.largest(t) for t in tensors])
    actual = gradients(*tensors, amax, recipe=RECIPES[name])
    return tensors, amax, actual


@pytest.mark.slow_but(
    "[delayed-", "[current-", "[static-", "e4m3_high", "[current_e5m2"
)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *itertools.product(["delayed", "current"], DTYPES),
        *zip(OTHER_RECIPES, itertools.cycle(DTYPES)),
    ],
)
def test_both_oracles(name, dtype):
    tensors, amax, (*actual, observed) = example(name, dtype)
    recipe = RECIPES[name]
    delayed = isinstance(recipe, DelayedScaling)
    expected = oracles.products(
        "ab,bc->ac", *tensors, recipe, amax if delayed else None
    )
    expected.check(*actual)
    assert [t.dtype.name for t in actual] == [dtype, dtype, "float32"]
    assert observed.numpy().tolist() == expected.amax
    assert observed.dtype == tf.float32

    x, w, dy = (t.astype("float64") for t in tensors)
    for exact, tensor in zip((x @ w, dy @ w.T, x.T @ dy), actual, strict=True):
        assert oracles.decibels(exact, tensor) >= 20


@pytest.mark.parametrize(
    ("dtype", "kernel_dtype"),
    [
        ("float32", "float16"),
        ("bfloat16", "bfloat16"),
        ("bfloat16", "float16"),
        ("float16", "bfloat16"),
    ],
)
def test_mixed_dtypes(dtype, kernel_dtype):
    tensors, amax, (*actual, _) = example("delayed", dtype, kernel_dtype)
    recipe = RECIPES["delayed"]
    expected = oracles.products("ab,bc->ac", *tensors, recipe, amax)
    # The kernel's gradient is rounded once more, to the kernel's dtype.
    value, _, bound = expected.kernel_grad
    once_more = oracles.ROUNDOFF[kernel_dtype] * (np.abs(value) + bound)
    rounded = expected.kernel_grad._replace(bound=bound + once_more)
    expected._replace(kernel_grad=rounded).check(*actual)
    assert [t.dtype.name for t in actual] == [dtype, dtype, kernel_dtype]


@each_dtype
def test_long_sums_accumulate_in_float32(dtype):
    """257 = 256 + 1 is lost to an accumulator of 8 bits, 4097 to one of 12."""
    x, w = np.ones([1, 4097], DTYPES[dtype]), np.ones([4097, 1], "float32")
    y = ops.matmul(x, w)
    assert y.numpy()[0, 0] == DTYPES[dtype].type(4097)


@each_dtype
def test_scale_invariance(dtype):
    """Current scaling makes a power of two of no matter, bit for bit."""
    x, w, dy = squares(dtype)
    y, dx, dw, _ = gradients(x, w, dy, recipe="current")
    for power in (-5, 3) if dtype == "float16" else (-60, 3, 60):
        factor = 2.0**power
        scaled_x = gradients(x * x.dtype.type(factor), w, dy, recipe="current")
        assert oracles.same_bits(scaled_x[:3], (y * factor, dx, dw * factor))
        scaled_dy = gradients(
            x, w, dy * dy.dtype.type(factor), recipe="current"
        )
        assert oracles.same_bits(scaled_dy[:3], (y, dx * factor, dw * factor))


def test_recipe_by_default():
    tensors = [normal(seed, 6, 6) for seed in range(2)]
    amax = np.float32([30, 20, 10])
    assert oracles.same_bits(
        ops.matmul(*tensors), ops.matmul(*tensors, recipe="current")
    )
    assert oracles.same_bits(
        ops.matmul(*tensors, amax=amax),
        ops.matmul(*tensors, amax=amax, recipe="delayed"),
    )


# Delayed scaling.


def test_data_that_outgrow_amax_saturate():
    x = np.float32([[500, 1, -500]])
    w, amax = np.eye(3, dtype="float32"), np.float32([1, 1, 1])
    y, dx, dw, observed = gradients(x, w, np.float32([[1, 4, -9]]), amax)
    # The scale 256 maps 448 / 256 to the top of E4M3; 32768 is E5M2's.
    assert y.numpy().tolist() == [[1.75, 1, -1.75]]
    assert dx.numpy().tolist() == [[1, 1.75, -1.75]]
    assert dw.numpy()[0].tolist() == [1.75, 3.0625, -3.0625]
    assert observed.numpy().tolist() == [500, 1, 9]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [*((dtype, "delayed") for dtype in DTYPES), ("float32", "delayed_e4m3")],
)
@pytest.mark.parametrize("outgrown", ROLES)
def test_scale_is_of_amax_not_of_the_data(dtype, name, outgrown):
    tensors = squares(dtype)
    amax = np.array([oracles.largest(t) for t in tensors], "float32")
    amax[ROLES.index(outgrown)] /= 5
    *actual, observed = gradients(*tensors, amax, recipe=name)
    expected = oracles.products(
        "ab,bc->ac", *tensors, RECIPES[name], amax.astype("float64")
    )
    expected.check(*actual)
    assert observed.numpy().tolist() == expected.amax


@pytest.mark.parametrize("unusable", [0.0, math.inf, math.nan, -1.0])
@pytest.mark.parametrize(
    ("name", "training"),
    [("delayed", True), ("delayed", False), ("delayed_e4m3", True)],
)
def test_without_observation(unusable, name, training):
    """It is the role's prior; a kernel's, or in inference, its own amax."""
    recipe = RECIPES[name]
    tensors = [normal(seed, 6, 6) * 1e-3 for seed in range(3)]
    for role, x in zip(ROLES, tensors, strict=True):
        assumed = np.array([30.0, 20.0, 10.0])
        amax = np.where(np.array(ROLES) == role, unusable, assumed)
        assumed[ROLES.index(role)] = (
            scaling.PRIOR_AMAX[role, getattr(recipe, role)]
            if training and role != "kernel"
            else oracles.largest(x)
        )
        actual = gradients(
            *tensors, amax.astype("float32"), recipe=recipe, training=training
        )
        expected = oracles.products("ab,bc->ac", *tensors, recipe, assumed)
        expected.check(*actual[:3])


@pytest.mark.parametrize("role", range(3))
def test_inference_keeps_to_observations(role):
    """One role observed is enough to tell: the others' amax is exact.

    But for gradients: what no training asked for is scaled by its own.
    """
    tensors = [normal(seed, 6, 6) for seed in range(3)]
    amax = [oracles.largest(t) for t in tensors]
    amax[role] /= 7
    *actual, _ = gradients(*tensors, np.float32(amax), training=False)
    amax[2] = oracles.largest(tensors[2])
    oracles.products("ab,bc->ac", *tensors, RECIPES["delayed"], amax).check(
        *actual
    )


@each_dtype
@pytest.mark.parametrize("name", ["delayed", "current"])
def test_observed_amax_is_exact(dtype, name):
    x, w, dy = squares(dtype)
    x[2, 3] = ml_dtypes.finfo(x.dtype).max
    dy[1, 1] = -ml_dtypes.finfo(x.dtype).max
    w *= np.float32(2.0**-14)
    observed = gradients(x, w, dy, recipe=name)[-1]
    assert observed.numpy().tolist() == [oracles.largest(t) for t in (x, w, dy)]


def test_observed_amax_of_float16_subnormals():
    x = np.full([6, 6], 2.0**-24, "float16")
    assert gradients(x, x, x)[-1].numpy().tolist() == [2.0**-24] * 3


@each_dtype
@pytest.mark.parametrize("name", ["delayed", "current"])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("role", range(3))
def test_infinity_and_nan(dtype, name, bad, role):
    """Both are observed as infinite; a NaN comes out where it must."""
    tensors = squares(dtype)
    tensors[role][2, 4] = bad
    *actual, observed = gradients(*tensors, recipe=name)
    expected = [oracles.largest(t) for t in tensors]
    expected[role] = math.inf
    assert observed.numpy().tolist() == expected
    nan = [np.isnan(np.asarray(t).astype("float32")) for t in actual]
    if not math.isnan(bad):
        assert not np.any(nan)
        return
    x, w, dy = (np.isnan(t.astype("float32")) for t in tensors)
    ones = np.ones([6, 6], bool)
    wanted = [
        x @ ones | ones @ w,
        dy @ ones | ones @ w.T,
        x.T @ ones | ones @ dy,
    ]
    assert np.array_equal(nan, wanted)


@each_dtype
@pytest.mark.parametrize("name", ["delayed", "current"])
def test_finite_inputs_never_give_nan(dtype, name):
    """Also where scales and factors leave the range of float32.

    A product has two operands: all pairs of magnitudes occur, for each two.
    """
    top = float(ml_dtypes.finfo(DTYPES[dtype]).max)
    magnitudes = [1e-45, 1e-30, 1.0, min(1e30, top), top]
    tensors = squares(dtype)
    for i, j in itertools.product(range(5), repeat=2):
        scaled = [
            (
                np.clip(t.astype("float32"), -1, 1) * np.float32(magnitudes[k])
            ).astype(t.dtype)
            for t, k in zip(tensors, (i, j, (i + j) % 5), strict=True)
        ]
        amax = np.float32([oracles.largest(t) for t in scaled])
        for result in gradients(*scaled, amax, recipe=name):
            assert not np.isnan(np.asarray(result).astype("float32")).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("power", [-70, -30, 30, 90])
def test_extreme_magnitudes_keep_their_precision(dtype, power):
    """As long as the product of the scales is within float32."""
    x, w, dy = squares(dtype)
    factor = x.dtype.type(2.0**power)
    tensors = x * factor, w, dy / factor
    *actual, _ = gradients(*tensors, recipe="current")
    oracles.products("ab,bc->ac", *tensors, RECIPES["current"]).check(*actual)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("magnitude", [10.0**p for p in range(-6, 3)])
def test_first_step_flushes_no_kernel_gradient(dtype, magnitude):
    """With no amax observed yet, what bfloat16 keeps is not lost to range.

    On the grid of FP8 a sum can also be exactly zero: 1 in 25,000 here,
    whatever the scale.  That is the only zero allowed.
    """
    recipe, prior = RECIPES["delayed"], scaling.PRIOR_AMAX
    m, k, n = SIZES
    for seed in range(6):
        x = normal(seed, m, k, dtype=dtype)
        dy = (magnitude * normal(seed + 9, m, n)).astype(DTYPES[dtype])
        w = normal(seed + 18, k, n) / 8
        amax = [
            prior["inputs", recipe.inputs],
            oracles.largest(w),
            prior["grads", recipe.grads],
        ]
        dw = gradients(x, w, dy, recipe=recipe)[2].numpy()
        fp8 = oracles.products("ab,bc->ac", x, w, dy, recipe, amax)
        fp8.kernel_grad.check(dw)
        kept = x.T.astype("float64") @ dy.astype("float64") != 0
        cancelled = fp8.kernel_grad.value == 0
        assert not np.any(kept & (dw == 0) & ~cancelled)
        assert not np.any(kept & (fp8.kernel_grad.magnitude == 0))


# What cannot be expressed, and bad arguments.


@pytest.mark.parametrize(
    ("equation", "lhs", "rhs", "said"),
    [
        ("aa,ab->ab", (3, 3), (3, 3), "repeats the label 'a'"),
        ("ab,bb->ab", (3, 3), (3, 3), "repeats the label 'b'"),
        ("ab,bc->acc", (2, 3), (3, 4), "repeats the label 'c'"),
        ("ab,bc->a", (2, 3), (3, 4), "sums over 'c'"),
        ("ab,bc->c", (2, 3), (3, 4), "sums over 'a'"),
        ("ab,bc->acd", (2, 3), (3, 4), "'d' only in its result"),
        ("ab->ba", (2, 3), (3, 4), "has 1 operands"),
        ("ab,bc,cd->ad", (2, 3), (3, 4), "has 3 operands"),
        ("ab,bc->ac", (2, 3, 4), (4, 5), "first operand of rank 3"),
        ("ab,bc->ac", (2, 3), (3,), "second operand of rank 1"),
        ("...ab,bc->ac", (2, 3, 4), (4, 5), "drops the axes"),
        ("a.b,bc->ac", (2, 3), (3, 4), "no letter"),
        ("a1,1c->ac", (2, 3), (3, 4), "no letter"),
        ("ab,bc->a->c", (2, 3), (3, 4), "only in its result"),
        ("ab,bc->ac", (2, 3), (4, 5), "equal lengths for label 'b'"),
        ("ab,bc->ac", (2, 1), (4, 5), "equal lengths for label 'b'"),
    ],
)
def test_what_no_product_expresses(equation, lhs, rhs, said):
    with pytest.raises(ValueError, match=said) as error:
        ops.einsum(equation, tf.ones(lhs), tf.ones(rhs))
    assert "`equation`" in str(error.value)
    assert "Received: " in str(error.value)


X, W = np.ones([2, 3], "float32"), np.ones([3, 4], "float32")
BAD = [
    (TypeError, "a", {"a": X.astype("int32")}),
    (TypeError, "a", {"a": X.astype("float64")}),
    (TypeError, "a", {"a": X.astype("complex64")}),
    (TypeError, "a", {"a": X.astype(bool)}),
    (TypeError, "a", {"a": X.astype(ml_dtypes.float8_e4m3fn)}),
    (TypeError, "a", {"a": "text"}),
    ((TypeError, ValueError), "a", {"a": None}),
    (TypeError, "b", {"b": W.astype("int8")}),
    (TypeError, "b", {"b": W.astype("float64")}),
    ((TypeError, ValueError), "b", {"b": object()}),
    (ValueError, "a", {"a": np.float32(1)}),
    (ValueError, "a", {"a": X[0]}),
    (ValueError, "b", {"b": W[0]}),
    (TypeError, "transpose_a", {"transpose_a": 1}),
    (TypeError, "transpose_b", {"transpose_b": None}),
    (ValueError, "recipe", {"recipe": "tensorwise"}),
    (TypeError, "recipe", {"recipe": 8}),
    (TypeError, "recipe", {"recipe": DelayedScaling}),
    (ValueError, "amax", {"recipe": "delayed"}),
    (ValueError, "amax", {"recipe": DelayedScaling(current=("grads",))}),
    (TypeError, "amax", {"amax": np.zeros(3)}),
    (TypeError, "amax", {"amax": np.zeros(3, "int32")}),
    (TypeError, "amax", {"amax": np.zeros(3, "float16")}),
    ((TypeError, ValueError), "amax", {"amax": object()}),
    (ValueError, "amax", {"amax": np.zeros(2, "float32")}),
    (ValueError, "amax", {"amax": np.zeros([3, 1], "float32")}),
    (ValueError, "amax", {"amax": np.float32(1)}),
    (ValueError, "amax", {"recipe": "current", "amax": np.zeros(2, "float32")}),
]


@pytest.mark.parametrize(("error", "name", "changed"), BAD)
def test_bad_arguments(error, name, changed):
    with pytest.raises(error, match=f"`{name}`.*Received: "):
        ops.matmul(**{"a": X, "b": W, **changed})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("training", value) for value in (1, None, np.True_)),
        *(("probe", 3), ("take_in", "print"), ("amax", np.zeros(3))),
    ],
)
def test_bad_passes(name, value):
    with pytest.raises(TypeError, match=f"`{name}`.*Received: "):
        ops.Pass(**{name: value})


def test_a_pass_hands_over_what_it_observed():
    seen, x, w = [], tf.constant([[1.0, -3.0]]), tf.ones([2, 4])
    run = ops.Pass([1.0, 1.0, 1.0], take_in=seen.append)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.matmul(x, w, amax=run) * 0.5
    tape.gradient(y, x)
    assert [each.numpy().tolist() for each in seen] == [[3.0, 1.0, 0.5]]


def test_a_pass_reads_a_variable_when_it_is_used():
    amax = tf.Variable([0.0, 0.0, 0.0])
    run = ops.Pass(amax)
    x, w = tf.constant([[1.0, -3.0]]), tf.ones([2, 4])
    for assumed in ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]):
        amax.assign(assumed)
        with tf.GradientTape() as tape:
            y = ops.matmul(x, w, amax=run)
        expected = ops.matmul(x, w, amax=tf.constant(assumed))
        assert oracles.same_bits(y, expected)
        assert tape.gradient(y, amax).numpy().tolist() == [3.0, 1.0, 1.0]
    assert float(y[0, 0]) == 1.0 - 1.75  # 3 is clipped, at that amax


@pytest.mark.parametrize(
    ("error", "equation"), [(TypeError, b"ab,bc->ac"), (TypeError, None)]
)
def test_bad_equation(error, equation):
    with pytest.raises(error, match=r"`equation`.*Received: "):
        ops.einsum(equation, X, W)


@pytest.mark.parametrize("name", ["a", "b"])
def test_unknown_rank(name):
    def function(tensor):
        return ops.matmul(**{"a": X, "b": W, name: tensor})

    with pytest.raises(ValueError, match=f"`{name}` must have a known rank"):
        tf.function(function, autograph=False).get_concrete_function(
            tf.TensorSpec(None)
        )


def test_every_role_delayed_to_current_needs_no_amax():
    recipe = DelayedScaling(current=ROLES)
    assert oracles.same_bits(
        ops.matmul(X, W, recipe=recipe), ops.matmul(X, W, recipe="current")
    )


def test_amax_of_unknown_shape():
    def function(amax):
        return ops.matmul(X, W, amax=amax)

    spec = tf.TensorSpec(None)
    compiled = tf.function(function, input_signature=[spec], autograph=False)
    amax = np.float32([1, 1, 1])
    assert oracles.same_bits(compiled(amax), function(amax))


def test_operands_may_be_anything_that_converts():
    lists = types.SimpleNamespace(a=X.tolist(), b=W.tolist())
    for a, b in ((lists.a, lists.b), (tf.Variable(X), tf.Variable(W))):
        assert oracles.same_bits(ops.matmul(a, b), ops.matmul(X, W))
