"""`export`: a checked file for another runtime, and the model as it was."""

from __future__ import annotations

import math
import os
import pathlib
import sys
import tempfile
from typing import Any

import keras

from tfmp._exporting import samples
from tfmp._exporting.export_report import ExportReport
from tfmp._exporting.integer_files import CALIBRATED, IntegerJob
from tfmp._exporting.job import Job
from tfmp._exporting.runtimes import FORMATS, INT8
from tfmp._exporting.server_files import ServerJob
from tfmp._support import checks

USUAL_FORMATS = {".tflite": "litert", ".onnx": "onnx"}  # by a path's ending


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "saved_model",
    *,
    input_signature: Any = None,
    kernels: str | None = None,
    inputs: Any = None,
    min_sqnr: float | None = None,
    verbose: bool = False,
) -> ExportReport:
    """Writes a model for inference elsewhere, and runs the file to check it.

    | format        | runs in                | `kernels`                      |
    |---------------|------------------------|--------------------------------|
    | `saved_model` | TensorFlow, TF Serving | `float8`, `quantized`, `float` |
    | `litert`      | LiteRT (TFLite)        | `quantized`, `float`, `int8`   |
    | `onnx`        | ONNX Runtime           | `quantized`, `float`, `int8`   |
    | `safetensors` | servers, as vLLM       | `float8`, `float8_dynamic`     |

    - `"float8"`: the model as it is, with its FP8 products, which need
      TensorFlow and not tfmp.  A kernel is one byte a weight if the model is
      frozen: `tfmp.freeze`.
    - `"quantized"`: Keras' layers in float32, with each kernel of an FP8
      product rounded to FP8 and back, by the scale that the layer has in
      inference.  What is missing is the rounding of the activations.
    - In `safetensors` are weights only, as the package compressed-tensors has
      them: of dense layers in FP8, with a scale for each tensor and, if
      training has seen the inputs, theirs; or, `"float8_dynamic"`, with a
      scale for each output, and scales of inputs left to the server.
    - `"float"`: Keras' layers in float32 with the kernels that they have.

    - `"int8"`: Keras' layers in float32, whose kernels the tool of LiteRT, or
      of ONNX Runtime, stores as 8-bit integers; `"int8_calibrated"`:
      activations too, with scales for what `inputs` show.

    The file's outputs are then compared with the model's.  The model, its
    optimizer and its compiled functions are afterwards as they were, and
    whatever fails leaves nothing at `path`, or what was there before.

    Args:
        model: a built Keras model.
        path: of the file, or of the SavedModel's folder; an older one there
            is replaced.  A LiteRT file ends in `.tflite`.
        format: one of the table's.  The outputs of a SavedModel are float32;
            those of `"saved_model:bfloat16"` and `"saved_model:float16"` are
            of that dtype.
        input_signature: a list of specs (`keras.InputSpec`, `tf.TensorSpec`),
            one an argument, or one spec for all; by default the model's own
            inputs with an open batch, in float32 instead of 16 bits.
        kernels: see above; None for `"float8"` in a SavedModel, and
            `"quantized"` elsewhere.
        inputs: what to check with: what the model is called with, or a list
            of that if the signature has several arguments.  By default random
            numbers, or random indices within all embeddings.
        min_sqnr: in dB, what the outputs must reach, of which the model's are
            the signal; by default what the formats' rounding leaves at the
            least: `-10 * log10(sum of u**2 over all operands)`, where `u` is
            2**-4 for E4M3 and 2**-8 for bfloat16, and no less than 10 dB.
            `-math.inf` accepts everything.
        verbose: whether to write the report to the standard output.

    Returns:
        An `ExportReport`: what each layer became, and the errors seen.

    Raises:
        TypeError, ValueError: if an argument is not allowed.
        ImportError: if a package that writes the format is missing; if only
            its runtime is, the file is not checked, and the report says so.
        RuntimeError: if the file does not run, as where a format lacks an
            operator.
        ValueError: if the file's outputs are too far from the model's.

    >>> import tensorflow as tf, tfmp
    >>> model = keras.Sequential(
    ...     [keras.Input([16]), tfmp.layers.Dense(4, dtype="mixed_float8")]
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export(model, f"{folder}/served")
    ...     loaded = tf.saved_model.load(f"{folder}/served")
    >>> outputs = loaded.serve(tf.ones([3, 16]))
    >>> report.layers[0].exported, report.sqnr, outputs.shape.as_list()
    ('FP8 product', inf, [3, 4])
    """
    _check_model(model)
    checks.choice("format", format, tuple(FORMATS))
    checks.boolean("verbose", verbose)
    target = _checked_path(path, format)
    kernels = _checked_kernels(kernels, format)
    kind = _job_of(format, kernels)
    if kernels == CALIBRATED and inputs is None:
        raise ValueError(
            f"`inputs` must be given for kernels={kernels!r}: real ones, of "
            "which activations get their scales. Received: None"
        )
    if min_sqnr is None:
        min_sqnr = kind.expected_sqnr(model)
    min_sqnr = checks.number("min_sqnr", min_sqnr, -math.inf, math.inf)
    FORMATS[format].check_writers()
    signature = samples.signature(model, input_signature)
    values = samples.values(model, signature, inputs)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}-"
    ) as folder:
        draft = pathlib.Path(folder, target.name)
        job = kind(model, FORMATS[format], kernels, signature, values)
        found = job.run(str(draft), min_sqnr)
        found["size"] = _size(draft)
        report = ExportReport(
            str(target), format, kernels, job.describe(), **found
        )
        _publish(draft, target)
    if verbose:
        sys.stdout.write(f"{report}\n")
    return report


def _job_of(format: str, kernels: str) -> type[Job]:
    if format == "safetensors":
        return ServerJob
    return IntegerJob if kernels in INT8 else Job


def _size(path: pathlib.Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _check_model(model: object) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            "`model` must be built: call it once, or give it an input shape. "
            f"Received: {model!r}"
        )


def _checked_kernels(kernels: Any, format: str) -> str:
    """Returns what becomes of the kernels; FP8 products need TensorFlow."""
    allowed = FORMATS[format].kernels
    if kernels is None:
        return allowed[0]
    return checks.choice("kernels", kernels, allowed)


def _checked_path(path: Any, format: str) -> pathlib.Path:
    """Returns the path if the format can be written there.

    What it replaces must be of its kind: no folder of anything else.
    """
    kind, target = FORMATS[format], checks.path("path", path).absolute()
    usual = USUAL_FORMATS.get(target.suffix, format)
    if usual != format:
        raise ValueError(
            f"`format` must be {usual!r} for a path that ends in "
            f"'{target.suffix}'. Received: {format!r} and {str(path)!r}"
        )
    if not target.name.endswith(kind.suffix):
        raise ValueError(
            f"`path` must end in '{kind.suffix}' for format='{format}'. "
            f"Received: {str(path)!r}"
        )
    replaced = target.is_dir() if kind.folder else target.is_file()
    if kind.folder and replaced:
        known = (target / kind.folder).is_file()
        replaced = known or not any(target.iterdir())
    if target.exists() and not replaced:
        what = f"a folder with {kind.folder}" if kind.folder else "a file"
        raise ValueError(
            f"`path` must be new, or {what} to replace. Received: {str(path)!r}"
        )
    return target


def _publish(draft: pathlib.Path, target: pathlib.Path) -> None:
    """Puts what was written into its place, at once."""
    if not target.is_dir():
        os.replace(draft, target)
        return
    aside = draft.with_name("replaced")
    os.rename(target, aside)
    try:
        os.rename(draft, target)
    except OSError:
        os.rename(aside, target)
        raise
