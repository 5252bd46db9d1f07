"""The models that `model_sweep.py` tries: which there are, made tiny."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np
import sweep_inputs
from sweep_mixtures import MIXTURES
from sweep_models import TEXTS, Part
from sweep_pictures import PICTURES

try:
    import keras_rs
except ImportError:
    keras_rs = None  # the sweep does without

BACKBONES = {**TEXTS, **PICTURES, **MIXTURES}
# The smallest of each family; the others repeat its blocks, or are wider.
APPLICATIONS = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
)
SIDES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
CONTRACTIONS = 8  # of an application: its first layers, up to so many products
CLASSES = 4
ARGUMENTS = {
    "num_classes": CLASSES,
    "depth_estimation_type": "relative",
    "preprocessor": None,
    "backbone_hidden_size": 16,
    "num_centroids": 4,
    "centroid_intermediate_top_k": 2,
    "use_ordered_embeddings": False,
}


class Subject(NamedTuple):
    """One model of a library.

    Attributes:
        library: `"keras-hub"`, `"keras.applications"` or `"keras-rs"`.
        name: of its class or function.
        note: why it is not tried, or ""; what its other names are.
    """

    library: str
    name: str
    note: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is no task: a task is a backbone and a little more."""
        return self.library != "keras-hub" or self.name in BACKBONES

    @property
    def is_only(self) -> bool:
        """Whether no task is made with it."""
        return self.is_whole and _short(self.name) not in _with_tasks()


def subjects() -> list[Subject]:
    """Returns all models of the installed libraries, tried or not."""
    return [*_of_hub(), *_of_applications(), *_of_rs()]


def _of_hub() -> Iterator[Subject]:
    models = keras_hub.models
    names = [n for n in dir(models) if isinstance(getattr(models, n), type)]
    classes = {n: getattr(models, n) for n in names}
    backbones = [n for n in names if issubclass(classes[n], models.Backbone)]
    known = {*BACKBONES, *(_short(name) for name in BACKBONES)}
    hidden = [name for name in BACKBONES if "." in name]
    for name in [*backbones, *hidden]:
        cls = classes.get(name) or find(name)
        if cls.__name__ != _short(name):
            yield Subject("keras-hub", name, f"another name: {cls.__name__}")
        elif name in known:
            yield Subject("keras-hub", name)
        elif cls not in (models.Backbone, models.FeaturePyramidBackbone):
            yield Subject("keras-hub", name, "not tried: no configuration")
    for name in names:
        cls = classes[name]
        own = getattr(cls, "backbone_cls", None)
        if not issubclass(cls, models.Task) or own is None:
            continue
        if cls.__name__ != name:
            yield Subject("keras-hub", name, f"another name: {cls.__name__}")
        elif _backbone_of(cls) is None:
            yield Subject("keras-hub", name, "not tried: no configuration")
        else:
            yield Subject("keras-hub", name)


def _of_applications() -> Iterator[Subject]:
    for name in dir(keras.applications):
        if inspect.isfunction(getattr(keras.applications, name)):
            note = "" if name in APPLICATIONS else "not tried: a larger size"
            yield Subject("keras.applications", name, note)


def _of_rs() -> Iterator[Subject]:
    if keras_rs is None:
        yield Subject("keras-rs", "all", "not tried: not installed")
        return
    yield Subject("keras-rs", "DLRM")
    for name in dir(keras_rs.layers):
        if isinstance(getattr(keras_rs.layers, name), type):
            used = name in ("DotInteraction", "FeatureCross")
            note = "in DLRM" if used else "not tried: no model"
            yield Subject("keras-rs", name, note)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def find(name: str) -> Any:
    """Returns a class by its public name, or by that of its module too."""
    module, _, last = name.rpartition(".")
    if not module:
        return getattr(keras_hub.models, name)
    where = f"keras_hub.src.models.{module}"
    return getattr(importlib.import_module(where), last)


@functools.cache
def _with_tasks() -> frozenset[str]:
    """Returns the backbones that a task is made with."""
    tasks = [find(each.name) for each in _of_hub() if not each.note]
    own = [getattr(task, "backbone_cls", None) for task in tasks]
    every = [_backbone_of(t) for t, b in zip(tasks, own, strict=True) if b]
    return frozenset(_short(name) for name in every if name)


def _backbone_of(task: Any) -> str | None:
    """Returns the key of the backbone that a task is made with, if any."""
    own = task.backbone_cls
    kinds = own if isinstance(own, list | tuple) else [own]
    names = {kind.__name__ for kind in kinds}
    return next((name for name in BACKBONES if _short(name) in names), None)


def make(value: Any) -> Any:
    """Returns a part's model or layer, and any other value as it is."""
    if not isinstance(value, Part):
        return value
    given = {name: make(each) for name, each in value.arguments.items()}
    return find(value.name)(**given)


def model_of(subject: Subject) -> keras.Model:
    """Returns a tiny model with random weights, by the global policy."""
    keras.utils.set_random_seed(1)
    if subject.library == "keras.applications":
        return _application(subject.name)
    if subject.library == "keras-rs":
        return _ranking()
    if subject.name in BACKBONES:
        return make(Part(subject.name, BACKBONES[subject.name]))
    task = find(subject.name)
    name = _backbone_of(task)
    known = inspect.signature(task.__init__).parameters
    given = {k: v for k, v in ARGUMENTS.items() if k in known}
    return task(backbone=make(Part(name, BACKBONES[name])), **given)


def inputs_of(subject: Subject, model: keras.Model) -> Any:
    """Returns what a model is called on."""
    names = [subject.name]
    if subject.library == "keras-hub" and subject.name not in BACKBONES:
        names.append(_backbone_of(find(subject.name)))
    return sweep_inputs.inputs(model, names)


def _application(name: str) -> keras.Model:
    """Returns the first layers of an application, and a head."""
    side = SIDES.get(name, 32)
    build = getattr(keras.applications, name)
    whole = build(weights=None, input_shape=(side, side, 3), include_top=False)
    kinds = keras.layers.Conv2D, keras.layers.Dense
    found = [x for x in whole.layers if isinstance(x, kinds)]
    last = found[:CONTRACTIONS][-1].output
    first = keras.models.clone_model(keras.Model(whole.input, last))
    x = keras.layers.GlobalAveragePooling2D()(first.output)
    outputs = keras.layers.Dense(CLASSES, name="logits")(x)
    return keras.Model(first.input, outputs, name=name.lower())


def _ranking() -> keras.Model:
    """Returns a DLRM: embeddings, their products with one another, crosses."""
    rs, layers = keras_rs.layers, keras.layers
    dense = keras.Input([6], name="numbers")
    ids = [keras.Input([], dtype="int32", name=f"id_{n}") for n in range(2)]
    found = [layers.Embedding(32, 16)(each) for each in ids]
    x = layers.Dense(16, "relu")(dense)
    pairs = rs.DotInteraction()([x, *found])
    x = start = layers.Concatenate()([x, pairs])
    x = rs.FeatureCross(projection_dim=16)(start, x)
    x = rs.FeatureCross()(start, x)
    return keras.Model([dense, *ids], layers.Dense(CLASSES)(x), name="dlrm")


def labels_of(subject: Subject, outputs: Any) -> tuple[Any, Any]:
    """Returns the loss and the targets that a model is trained with.

    A classifier, a language model and a segmenter get classes, a detector
    boxes and its own loss (None), everything else random numbers.
    """
    random = np.random.default_rng(2)
    if "Detector" in subject.name:
        boxes = np.array([[[4.0, 4.0, 20.0, 24.0]]] * sweep_inputs.BATCH)
        classes = np.ones([sweep_inputs.BATCH, 1])
        return None, {"boxes": boxes.astype("float32"), "labels": classes}
    is_one = keras.ops.is_tensor(outputs) and outputs.shape[-1] > 1
    if is_one and _has_classes(subject):
        classes = random.integers(0, outputs.shape[-1], outputs.shape[:-1])
        crossed = keras.losses.SparseCategoricalCrossentropy
        return crossed(from_logits=True), classes.astype("int32")
    kinds = keras.tree.map_structure(_squares, outputs)
    targets = keras.tree.map_structure(
        lambda x: random.random(x.shape, "float32"), outputs
    )
    return kinds, targets


def _squares(output: Any) -> str | None:
    return "mse" if keras.backend.is_float_dtype(output.dtype) else None


def _has_classes(subject: Subject) -> bool:
    """Whether the last axis of what a model gives are classes."""
    if subject.library != "keras-hub":
        return True
    ends = "Classifier", "CausalLM", "Seq2SeqLM", "MaskedLM", "MaskedPLM"
    return subject.name.endswith((*ends, "ImageSegmenter", "AudioToText"))
