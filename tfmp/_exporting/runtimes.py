"""What writes an exported file, and what runs it."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

INT8 = ("int8", "int8_calibrated")
Run = Callable[[str, Sequence[str], list[np.ndarray], Any], list[np.ndarray]]


def _optional(name: str) -> Any:
    """Imports a package that tfmp does without until it is asked for."""
    return importlib.import_module(name)


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format: who writes it, who runs it.

    Attributes:
        writers: modules that writing needs besides TensorFlow, by the name
            that pip knows them by.
        runtime: the module that runs it, and its name for pip.
        write: takes a model, path and signature.
        run: takes the path, the inputs' names and values, and outputs of the
            structure that the model returns; returns the outputs.
        suffix: that a path must have.
        folder: the file that tells such a folder; "" if it is a file.
        kernels: what may become of kernels, the usual first.
    """

    writers: Mapping[str, str]
    runtime: tuple[str, str]
    write: Callable[[keras.Model, str, Any], None]
    run: Run
    suffix: str = ""
    folder: str = ""
    kernels: tuple[str, ...] = ("quantized", "float", *INT8)

    def check_writers(self) -> None:
        """Raises an ImportError if a package to write it with is missing."""
        for module, package in self.writers.items():
            try:
                _optional(module)
            except ImportError as error:
                raise ImportError(
                    f"exporting needs the package {package}: "
                    f"pip install {' '.join(self.writers.values())}"
                ) from error

    def version(self) -> str | None:
        """Returns name and version of the runtime, None if it is missing."""
        module, package = self.runtime
        try:
            found = _optional(module)
        except ImportError:
            return None
        return f"{package} {getattr(found, '__version__', '')}".strip()


def _saved_model_of(
    dtype: tf.DType,
) -> Callable[[keras.Model, str, Any], None]:
    """Returns what writes a SavedModel with outputs of a dtype."""

    def write(model: keras.Model, path: str, signature: Any) -> None:
        """As `model.export` does, but told that this is not training."""
        archive = keras.export.ExportArchive()
        archive.track(model)

        def serve(*args: Any) -> Any:
            outputs = model(*args, training=False)
            return keras.tree.map_structure(_as(dtype), outputs)

        archive.add_endpoint("serve", serve, signature)
        archive.write_out(path, verbose=False)

    return write


def _as(dtype: tf.DType) -> Callable[[Any], Any]:
    """Returns what casts outputs; those that are no such floats stay."""
    floats = (tf.bfloat16, tf.float16, tf.float32)
    return lambda x: tf.cast(x, dtype) if x.dtype in floats else x


def _run_saved_model(
    path: str, names: Sequence[str], inputs: list[np.ndarray], like: Any
) -> list[np.ndarray]:
    loaded = tf.saved_model.load(path)  # owns what its signatures read
    serve = loaded.signatures["serving_default"]
    tensors = [tf.convert_to_tensor(value) for value in inputs]
    return _ordered(serve(**dict(zip(names, tensors, strict=True))), like)


def _export_as(format: str) -> Callable[[keras.Model, str, Any], None]:
    def write(model: keras.Model, path: str, signature: Any) -> None:
        model.export(
            path, format=format, verbose=False, input_signature=signature
        )

    return write


def _run_litert(
    path: str, names: Sequence[str], inputs: list[np.ndarray], like: Any
) -> list[np.ndarray]:
    module = _optional("ai_edge_litert.interpreter")
    run = module.Interpreter(model_path=path).get_signature_runner()
    return _ordered(run(**dict(zip(names, inputs, strict=True))), like)


def _run_onnx(
    path: str, names: Sequence[str], inputs: list[np.ndarray], like: Any
) -> list[np.ndarray]:
    module = _optional("onnxruntime")
    session = module.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(
        None, dict(zip(names, inputs, strict=True))
    )
    return found


def _has_no_program(*arguments: Any) -> Any:
    raise NotImplementedError("what holds only weights has a job of its own")


def _ordered(outputs: Mapping[str, Any], like: Any) -> list[np.ndarray]:
    """Brings a signature's outputs into the order of `tf.nest.flatten`."""
    if isinstance(like, Mapping):
        names = sorted(like)
    else:
        names = [f"output_{i}" for i in range(len(tf.nest.flatten(like)))]
    return [np.asarray(outputs[name]) for name in names]


def flex_operators(path: str) -> list[str]:
    """Returns the operators of a LiteRT file that need its Flex delegate.

    They are TensorFlow's; neither `ai-edge-litert` nor TensorFlow runs them.
    """
    if not path.endswith(".tflite"):
        return []
    with open(path, "rb") as file:
        found = re.findall(rb"\bFlex[A-Z]\w+", file.read())
    return sorted({name.decode() for name in found})


def _saved_model(dtype: tf.DType) -> Format:
    return Format(
        {},
        ("tensorflow", "tensorflow"),
        _saved_model_of(dtype),
        _run_saved_model,
        folder="saved_model.pb",
        kernels=("float8", "quantized", "float"),
    )


FORMATS: dict[str, Format] = {
    "saved_model": _saved_model(tf.float32),
    "saved_model:bfloat16": _saved_model(tf.bfloat16),
    "saved_model:float16": _saved_model(tf.float16),
    "litert": Format(
        {"tensorflow.lite": "tensorflow"},
        ("ai_edge_litert", "ai-edge-litert"),
        _export_as("litert"),
        _run_litert,
        suffix=".tflite",
    ),
    "onnx": Format(
        {"tf2onnx": "tf2onnx", "onnx": "onnx"},
        ("onnxruntime", "onnxruntime"),
        _export_as("onnx"),
        _run_onnx,
    ),
    "safetensors": Format(
        {},
        ("tensorflow", "tensorflow"),
        _has_no_program,
        _has_no_program,
        folder="model.safetensors",
        kernels=("float8", "float8_dynamic"),
    ),
}
