"""Operators for users: products on FP8 operands, and small numbers."""

from tfmp._core.contractions import clear_programs
from tfmp._core.emulation import emulate
from tfmp._core.probes import Probe
from tfmp._core.quantization import (
    dequantize,
    max_ulp_error,
    quantize,
    saturation_share,
    sqnr,
    underflow_share,
)
from tfmp._core.scaling import amax, compute_scale
from tfmp.ops.convolution import conv
from tfmp.ops.matrix_products import einsum, matmul
from tfmp.ops.passes import FrozenPass as FrozenPass
from tfmp.ops.passes import Pass

__all__ = [
    "Pass",
    "Probe",
    "amax",
    "clear_programs",
    "compute_scale",
    "conv",
    "dequantize",
    "einsum",
    "emulate",
    "matmul",
    "max_ulp_error",
    "quantize",
    "saturation_share",
    "sqnr",
    "underflow_share",
]
