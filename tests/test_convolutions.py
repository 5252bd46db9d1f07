"""convolutions and its arguments: three products, and which are FP8."""

import itertools

import numpy as np
import pytest
from conv_oracle import Case, convolve
from test_windows import run

from tfmp._core.convolutions import Convolution
from tfmp.ops import geometry
from tfmp.recipes import PRESETS, PRODUCTS, CurrentScaling

LENGTHS = (7, 5, 6)


def convolution(case, batch=None):
    return geometry.convolution(
        case.inputs_shape(batch), case.kernel_shape, **case.arguments
    )


CASES = [
    Case(LENGTHS[:rank], size, stride, dilation, padding, groups, 4, 6)
    for rank, size, (stride, dilation), padding, groups in itertools.product(
        (1, 2, 3),
        (1, 2, 3),
        ((1, 1), (2, 1), (3, 1), (4, 1), (1, 2)),
        ("valid", "same", "causal"),
        (1, 2),
    )
    if rank == 1 or padding != "causal"
]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_three_products(rank):
    """Whole numbers: exact.  Padding, surplus, holes, groups, reversal."""
    random = np.random.default_rng(rank)
    for case in (c for c in CASES if c.rank == rank):
        x, w, dy = (
            random.integers(-8, 9, shape)
            for shape in (
                case.inputs_shape(2),
                case.kernel_shape,
                case.grads_shape(2),
            )
        )
        expected = dict(zip(PRODUCTS, convolve(case, x, w, dy), strict=True))
        operands = {
            "output": (x, w),
            "input_grad": (dy, w),
            "kernel_grad": (x, dy),
        }
        for name, pair in operands.items():
            window = convolution(case).product(name)
            result = run(window, *pair)
            np.testing.assert_array_equal(result, expected[name], f"{case}")
            shapes = [t.shape for t in pair]
            assert window.result_shape(*shapes) == list(result.shape)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_channels_first_is_only_another_order(rank):
    """All but the labels is the same, and those of the data only."""
    for case in (c for c in CASES if c.rank == rank):
        batch, *lengths, channels = case.inputs_shape(2)
        arguments = case.arguments | {"data_format": "channels_first"}
        first = geometry.convolution(
            (batch, channels, *lengths), case.kernel_shape, **arguments
        )
        last = convolution(case)
        for name in PRODUCTS:
            one, other = vars(first.product(name)), vars(last.product(name))
            moved = {k for k in one if one[k] != other[k]}
            data = {"kernel_grad": {"lhs", "rhs"}}.get(name, {"lhs", "out"})
            assert moved == data
            for labels in data:
                a, *spatial, b = other[labels]
                assert one[labels] == "".join([a, b, *spatial])


def test_worked_example():
    """7 rows in steps of 2 under 3: one zero before and one after.

    8 columns: needed are 9, so one zero, after; then all elements are met.
    """
    given = geometry.convolution(
        (None, 7, 8, 16), (3, 3, 8, 32), 2, "same", "channels_last", (1, 1)
    )
    assert given == Convolution(
        kernel_size=(3, 3),
        channels=16,
        filters=32,
        strides=(2, 2),
        dilation=(1, 1),
        padding=((1, 1), (0, 1)),
        surplus=(0, 0),
        groups=2,
        channels_first=False,
    )
    assert hash(given) == hash(
        geometry.convolution(
            (5, 7, 8, 16), (3, 3, 8, 32), [2, 2], "same", "channels_last", 1
        )
    )
    assert given.product("input_grad").padding == ((1, 1), (2, 1))
    assert given.product("input_grad").reverse
    assert given.product("kernel_grad").widen
    assert not given.product("output").widen


@pytest.mark.parametrize(
    ("padding", "stride", "expected"),
    [
        ("valid", 1, ((0, 0),)),
        ("same", 1, ((2, 2),)),
        ("causal", 1, ((4, 0),)),
        ("valid", 2, ((0, 0),)),
        ("same", 2, ((0, 0),)),
        ("causal", 2, ((0, 0),)),
    ],
)
def test_unknown_length(padding, stride, expected):
    """Without a stride the padding is known; with one, it is not needed."""
    size = 5 if stride == 2 else 3
    given = geometry.convolution(
        (None, None, 4),
        (size, 4, 4),
        stride,
        padding,
        "channels_last",
        1 if stride == 2 else 2,
    )
    assert given.padding == expected
    assert given.surplus == (0,)


# Which products are FP8.

UNEVEN = "{} / groups = {} is not a multiple of 16"


@pytest.mark.parametrize(
    ("case", "output", "input_grad"),
    [
        (Case((8, 8), 3, channels=64, filters=32), None, None),
        (Case((8, 8), 1, channels=16, filters=16), None, None),
        (Case((8,), 3, padding="causal"), None, None),
        (Case((4, 4, 4), 3, padding="same"), None, None),
        (Case((8, 8), 3, dilation=2, padding="same"), None, None),
        (Case((8, 8), 3, groups=2, channels=32, filters=64), None, None),
        (Case((8, 8), 3, channels=3), UNEVEN.format("channels", 3), None),
        (Case((8, 8), 3, channels=24), UNEVEN.format("channels", 24), None),
        (Case((8, 8), 3, filters=10), None, UNEVEN.format("filters", 10)),
        (
            Case((8, 8), 3, groups=2),
            UNEVEN.format("channels", 8),
            UNEVEN.format("filters", 8),
        ),
        (
            Case((8, 8), 3, groups=64, channels=64, filters=64),
            UNEVEN.format("channels", 1),
            UNEVEN.format("filters", 1),
        ),
        (
            Case((8, 8), 3, stride=2),
            None,
            "strides (2, 2): most factors would be zeros",
        ),
        (
            Case((2, 2), 3, padding="same"),
            "kernel_size (3, 3) exceeds length 2",
            "kernel_size (3, 3) exceeds length 2",
        ),
        (
            Case((8, 8), 5),
            "kernel_size (5, 5) exceeds length 4",
            "kernel_size (5, 5) exceeds length 4",
        ),
    ],
)
def test_float8_products(case, output, input_grad):
    reasons = convolution(case).float8_products(case.lengths)
    assert list(reasons) == list(PRODUCTS)
    assert reasons["output"] == output
    assert reasons["input_grad"] == input_grad
    if output is None:
        assert reasons["kernel_grad"] is None
    else:
        assert reasons["kernel_grad"] == f"no FP8 copy of the inputs: {output}"


@pytest.mark.parametrize("lengths", [None, (None, None), (8, None)])
def test_float8_products_of_unknown_lengths(lengths):
    given = convolution(Case((8, 8), 3, padding="same"))
    assert set(given.float8_products(lengths).values()) == {None}
    small = convolution(Case((2, 8), 3, padding="same"))
    assert set(small.float8_products((None, 8)).values()) == {None}
    assert None not in small.float8_products((2, None)).values()


# Arguments.

GOOD = {
    "inputs": (2, 8, 8, 4),
    "kernel": (3, 3, 4, 6),
    "strides": 1,
    "padding": "valid",
    "data_format": "channels_last",
    "dilation_rate": 1,
}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strides": 0}, ValueError, "`strides` must be 1 or more"),
        ({"strides": (1, 0)}, ValueError, "`strides` must be 1 or more"),
        ({"strides": 1.5}, TypeError, "`strides` must be an integer"),
        ({"strides": (1,)}, ValueError, "`strides` must be one integer, or 2"),
        ({"dilation_rate": (1, 2, 3)}, ValueError, "`dilation_rate` must be"),
        ({"dilation_rate": "2"}, TypeError, "`dilation_rate` must be an int"),
        (
            {"strides": 2, "dilation_rate": 2},
            ValueError,
            "`dilation_rate` must be 1 where `strides` exceed 1",
        ),
        ({"padding": "SAME"}, ValueError, "`padding` must be one of"),
        ({"padding": "causal"}, ValueError, "`padding` must be one of"),
        ({"padding": 1}, TypeError, "`padding` must be a string"),
        ({"data_format": "NHWC"}, ValueError, "`data_format` must be one of"),
        ({"kernel": (3, 4, 6)}, ValueError, "`kernel` must have 4 axes"),
        ({"kernel": (3, None, 4, 6)}, ValueError, "`kernel` must have 4 axes"),
        ({"kernel": (3, 0, 4, 6)}, ValueError, "`kernel` must have 4 axes"),
        ({"kernel": (3, 3, 3, 6)}, ValueError, "a multiple of the kernel's 3"),
        (
            {"kernel": (3, 3, 1, 6)},
            ValueError,
            "as many groups as divide its 6",
        ),
        ({"inputs": (2, 8, 8, None)}, ValueError, "a known number of channels"),
        ({"inputs": (2, 8, 8, 0)}, ValueError, "a known number of channels"),
        ({"inputs": (2, 2, 8, 4)}, ValueError, "`inputs` must be long enough"),
        ({"inputs": (2, 4)}, ValueError, "`inputs` must have 3, 4 or 5 axes"),
        ({"inputs": (2,) * 6}, ValueError, "`inputs` must have 3, 4 or 5 axes"),
    ],
)
def test_arguments(changes, error, message):
    geometry.convolution(**GOOD)
    with pytest.raises(error, match=message) as raised:
        geometry.convolution(**(GOOD | changes))
    assert "Received: " in str(raised.value)


def test_empty_inputs_are_allowed():
    assert geometry.convolution(**(GOOD | {"inputs": (0, 8, 8, 4)}))
    assert geometry.convolution(**(GOOD | {"inputs": (2, 0, 8, 4)}))


# Recipes of a convolution.


@pytest.mark.parametrize("name", PRESETS)
def test_one_format(name):
    recipe = PRESETS[name]
    one = recipe.in_one_format()
    assert {one.inputs, one.kernel, one.grads} == {"E4M3"}
    assert one.in_one_format() == one
    kept = {"fp8_format"}
    for field, value in recipe.get_config().items():
        assert field in kept or one.get_config()[field] == value


def test_one_format_of_other_roles():
    recipe = CurrentScaling(margin=3, fp8_format=("E5M2", "E4M3", "E4M3"))
    assert recipe.in_one_format() == CurrentScaling(margin=3, fp8_format="E4M3")


def test_keep_high_precision():
    recipe = CurrentScaling(margin=3, high_precision=("input_grad",))
    more = recipe.keep_high_precision(("output", "input_grad"))
    assert more == CurrentScaling(
        margin=3, high_precision=("output", "input_grad")
    )
    assert recipe.keep_high_precision(()) == recipe
