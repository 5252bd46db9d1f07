"""What the installed TensorFlow can compile for: from how it was built.

Every FP8 product of tfmp is compiled by XLA, which writes PTX of the CUDA that
TensorFlow was built with.  For a GPU newer than that CUDA it fails ("PTX
version 8.5 does not support target 'sm_120'"), where TensorFlow's own kernels
still run.

    compute capability            CUDA, from
    up to 9.0 (Hopper)            11.8
    10.0 and 12.0 (Blackwell)     12.8
    10.3 and 12.1                 12.9
    11.0 (Thor)                   13.0

Source: the PTX ISA's release history.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Version = tuple[int, int]

# The wheels of all versions that tfmp runs on are at least of CUDA 12.
CUDA_SINCE = {
    (10, 0): (12, 8),
    (10, 3): (12, 9),
    (11, 0): (13, 0),
    (12, 0): (12, 8),
    (12, 1): (12, 9),
}
LACKING = (
    "FP8 is compiled by XLA, and that of this TensorFlow, built with CUDA "
    "{}.{}, cannot compile for it; a TensorFlow built with CUDA {}.{} or later "
    "can."
)


def cuda_of(build_info: Mapping[str, Any]) -> Version | None:
    """Returns the CUDA that TensorFlow was built with, None without one.

    Args:
        build_info: from `tf.sysconfig.get_build_info()`.

    >>> cuda_of({"cuda_version": "12.5.1", "is_cuda_build": True})
    (12, 5)
    """
    found = re.match(r"(\d+)(?:\.(\d+))?", str(build_info.get("cuda_version")))
    return (int(found[1]), int(found[2] or 0)) if found else None


def cuda_needed(compute_capability: Version) -> Version | None:
    """Returns the first CUDA that compiles for a GPU, None if each does.

    For a capability that is not known, that of the one below it.

    >>> cuda_needed((12, 0)), cuda_needed((9, 0))
    ((12, 8), None)
    """
    known = [each for each in CUDA_SINCE if each <= compute_capability]
    return CUDA_SINCE[max(known)] if known else None


def lacking(cuda: Version | None, compute_capability: Version | None) -> str:
    """Returns which TensorFlow would run FP8 on a GPU; "" if this one does.

    Args:
        cuda: what it was built with; of None nothing is known against it.
        compute_capability: of the GPU; None for any other device.

    >>> lacking((12, 8), (10, 0))
    ''
    """
    needed = compute_capability and cuda_needed(compute_capability)
    if cuda is None or needed is None or cuda >= needed:
        return ""
    return LACKING.format(*cuda, *needed)
