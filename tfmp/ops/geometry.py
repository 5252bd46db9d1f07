"""The arguments of `conv`, read as a `Convolution`; no TensorFlow."""

from __future__ import annotations

from typing import Any

from tfmp._core.convolutions import Convolution
from tfmp._core.windows import Shape
from tfmp._support import checks

PADDINGS = ("valid", "same", "causal")
DATA_FORMATS = ("channels_last", "channels_first")


def convolution(
    inputs: Shape,
    kernel: Shape,
    strides: Any,
    padding: Any,
    data_format: Any,
    dilation_rate: Any,
) -> Convolution:
    """Reads the arguments of `keras.ops.conv`.

    Args:
        inputs: shape `[batch, *lengths, channels]`, or with `channels_first`
            `[batch, channels, *lengths]`, with one to three lengths; None for
            an unknown one.  An axis of unknown length and a stride above 1
            has to be brought to a length without surplus, its padding
            included, before.
        kernel: shape `[*kernel_size, channels / groups, filters]`.
        strides: one positive integer, or one a spatial axis.
        padding: `"valid"`, `"same"` or, for one spatial axis, `"causal"`.
        data_format: `"channels_last"` or `"channels_first"`.
        dilation_rate: like `strides`; above 1 only if these are 1.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is not allowed or does not fit.

    >>> c = convolution(
    ...     (None, 9, 9, 8), (3, 3, 4, 6), 2, "same", "channels_last", 1)
    >>> c.groups, c.padding, c.surplus
    (2, ((1, 1), (1, 1)), (0, 0))
    """
    rank = len(inputs) - 2
    if rank not in (1, 2, 3):
        raise ValueError(
            "`inputs` must have 3, 4 or 5 axes. "
            f"Received: shape {tuple(inputs)}"
        )
    first = checks.choice("data_format", data_format, DATA_FORMATS)
    channels, *lengths = inputs[1:]
    if first == DATA_FORMATS[0]:
        *lengths, channels = inputs[1:]
    *sizes, taken, filters = _kernel_shape(kernel, rank)
    allowed = PADDINGS if rank == 1 else PADDINGS[:2]
    checks.choice("padding", padding, allowed)
    steps = _axes("strides", strides, rank)
    dilation = _axes("dilation_rate", dilation_rate, rank)
    if max(steps) > 1 and max(dilation) > 1:
        raise ValueError(
            "`dilation_rate` must be 1 where `strides` exceed 1. "
            f"Received: strides={strides}, dilation_rate={dilation_rate}"
        )
    edges = [
        _edges(padding, n, s, d * (size - 1))
        for n, s, d, size in zip(lengths, steps, dilation, sizes, strict=True)
    ]
    result = Convolution(
        kernel_size=tuple(sizes),
        channels=taken * _groups(inputs, kernel, channels, taken, filters),
        filters=filters,
        strides=steps,
        dilation=dilation,
        padding=tuple((low, high) for low, high, _ in edges),
        surplus=tuple(surplus for _, _, surplus in edges),
        groups=_groups(inputs, kernel, channels, taken, filters),
        channels_first=first == DATA_FORMATS[1],
    )
    _check_result(result.product("output").result_shape(inputs, kernel), inputs)
    return result


def _check_result(result: Shape, inputs: Shape) -> None:
    if 0 in result and 0 not in inputs:
        raise ValueError(
            "`inputs` must be long enough for the window of the kernel. "
            f"Received: shape {tuple(inputs)}, which leaves {tuple(result)}"
        )


def _axes(name: str, value: Any, rank: int) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        return (checks.integer(name, value, 1),) * rank
    if len(value) != rank:
        raise ValueError(
            f"`{name}` must be one integer, or {rank} of them. "
            f"Received: {value!r}"
        )
    return tuple(checks.integer(name, each, 1) for each in value)


def _kernel_shape(kernel: Shape, rank: int) -> tuple[int, ...]:
    known = tuple(n for n in kernel if n)
    if len(known) != rank + 2 or len(kernel) != rank + 2:
        raise ValueError(
            f"`kernel` must have {rank + 2} axes of known length, none of them "
            f"0, for inputs with {rank + 2} axes. Received: shape "
            f"{tuple(kernel)}"
        )
    return known


def _edges(
    padding: str, n: int | None, stride: int, reach: int
) -> tuple[int, int, int]:
    """Returns the padding before, after, and the surplus."""
    if n is None and stride > 1:
        return 0, 0, 0
    low, high = 0, 0
    if padding == "causal":
        low = reach
    elif padding == "same":
        # TensorFlow's: of an odd number, the larger half is after.
        step = 0 if n is None else (n - 1) // stride * stride + 1 - n
        total = max(step + reach, 0)
        low, high = total // 2, total - total // 2
    room = 0 if n is None else n + low + high - reach - 1
    return low, high, room % stride


def _groups(
    inputs: Shape, kernel: Shape, channels: int | None, taken: int, filters: int
) -> int:
    if not channels or channels % taken or filters % (channels // taken):
        raise ValueError(
            "`inputs` must have a known number of channels, a multiple of the "
            f"kernel's {taken}, and as many groups as divide its {filters} "
            f"filters. Received: inputs of shape {tuple(inputs)}, kernel of "
            f"shape {tuple(kernel)}"
        )
    return channels // taken
