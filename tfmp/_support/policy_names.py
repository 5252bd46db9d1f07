"""The names of policies, and how people write them."""

from __future__ import annotations

NAMES = (
    "float32",
    "float16",
    "bfloat16",
    "mixed_float16",
    "mixed_bfloat16",
    "mixed_float8",
)
# fp16 is what other libraries train in by that name: float32 weights.
SHORT = {
    "fp32": "float32",
    "fp16": "mixed_float16",
    "bf16": "mixed_bfloat16",
    "fp8": "mixed_float8",
}


def full_name(name: str) -> str:
    """Returns the name of a policy that may be short or in capitals.

    >>> full_name("FP8"), full_name("Mixed_Float16"), full_name("int8")
    ('mixed_float8', 'mixed_float16', 'int8')
    """
    lower = name.lower()
    found = SHORT.get(lower.removeprefix("mixed_"), lower)
    return found if found in NAMES else name


def parts(name: str) -> tuple[str, str | None]:
    """Returns the full name of a policy, and the preset after its colon.

    >>> parts("FP8:current"), parts("bf16")
    (('mixed_float8', 'current'), ('mixed_bfloat16', None))
    """
    name, colon, preset = name.partition(":")
    return full_name(name), preset if colon else None
