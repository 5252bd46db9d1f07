"""Files of the safetensors format, with FP8, which its NumPy part lacks.

    8 bytes   length of the header, unsigned, little endian
    header    JSON: of each tensor dtype, shape, and where its bytes begin, end
    the rest  the bytes of all tensors, little endian, in the order of C

Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

ALIGNMENT = 8
DTYPES = {
    "F8_E4M3": tf.dtypes.experimental.float8_e4m3fn,
    "F8_E5M2": tf.dtypes.experimental.float8_e5m2,
    "BF16": tf.bfloat16,
    "F16": tf.float16,
    "F32": tf.float32,
    "F64": tf.float64,
    "I8": tf.int8,
    "I16": tf.int16,
    "I32": tf.int32,
    "I64": tf.int64,
    "U8": tf.uint8,
    "U16": tf.uint16,
    "U32": tf.uint32,
    "U64": tf.uint64,
    "BOOL": tf.bool,
}
NUMPY = {name: np.dtype(d.as_numpy_dtype) for name, d in DTYPES.items()}
NAMES = {dtype: name for name, dtype in NUMPY.items()}


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors by name.

    Args:
        path: of the file.
        tensors: arrays of a dtype that the format has.

    Raises:
        ValueError: if the format has no such dtype.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at, pieces = 0, []
    for name, array in tensors.items():
        if array.dtype not in NAMES:
            raise ValueError(
                f"`tensors` must have dtypes of {list(DTYPES)}. Received: "
                f"{array.dtype} for {name!r}"
            )
        piece = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(piece)],
        }
        at += len(piece)
        pieces.append(piece)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(pieces)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a file, by name.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such file, or is cut short.
    """
    content = path.read_bytes()
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        data = memoryview(content)[start:]
        return {name: _array(data, **entry) for name, entry in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no safetensors file, or is cut short: {error}"
        ) from error


def _array(
    data: memoryview, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    first, last = data_offsets
    found = np.frombuffer(data[first:last], NUMPY[dtype])
    return found.reshape(shape)
