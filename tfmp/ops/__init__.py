"""Operators for users: products on FP8 operands, and small numbers."""

from tfmp.emulation import emulate
from tfmp.ops.convolution import conv
from tfmp.ops.products import einsum, matmul
from tfmp.probes import Probe
from tfmp.quantization import (
    dequantize,
    max_ulp_error,
    quantize,
    saturation_share,
    sqnr,
    underflow_share,
)
from tfmp.scaling import amax, compute_scale

__all__ = [
    "Probe",
    "amax",
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
