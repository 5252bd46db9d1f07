"""Which products a model asks for in FP8, and why not the others."""

from __future__ import annotations

import dataclasses

import keras

from tfmp import policies
from tfmp._core import op_names
from tfmp.conversion.conversion_report import ConversionReport
from tfmp.conversion.layer_products import not_in_float8
from tfmp.conversion.rows import Row
from tfmp.layers.classes import ours_for

LORA = "lora"  # what such products are called
MADE_BY_LORA = "it makes LoRA's part of the kernel, or is a gradient of that"
KERAS_FLOAT8 = (
    "Keras' float8 rounds to FP8 and back, and multiplies in {dtype}: XLA is "
    "left to find an FP8 product in that"
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a model's layers ask for.

    Attributes:
        layers: by path.
        rows: what the report of a conversion says of them, by path.
    """

    layers: dict[str, keras.Layer]
    rows: dict[str, Row]

    @classmethod
    def of(cls, layers: dict[str, keras.Layer]) -> Asked:
        """Returns what is asked for in a model, none of a function."""
        if not layers:
            return cls({}, {})
        report = ConversionReport(next(iter(layers.values())))
        return cls(layers, {row.path: row for row in report.rows})

    def is_lora(self, path: str, name: str) -> bool:
        """Whether a product of a layer is of the small factors of LoRA.

        Args:
            path: of the layer.
            name: of the operation.
        """
        lora = getattr(self.layers.get(path), "lora_enabled", False)
        return lora and not op_names.is_written(name)

    def is_for_float8(self, path: str, product: str) -> bool:
        """Whether a layer asks for FP8 in one of its products."""
        layer, row = self.layers.get(path), self.rows.get(path)
        keras_float8 = getattr(layer, "quantization_mode", None) == "float8"
        return keras_float8 or (row is not None and product in row.float8)

    def reason(self, path: str, product: str) -> str:
        """Returns why a layer does not ask for it, "" if that is not known."""
        layer, row = self.layers.get(path), self.rows.get(path)
        if layer is None or row is None:
            return ""
        if product == LORA:
            return MADE_BY_LORA
        if row.recipe is not None:
            if not product:
                return ""
            if product in row.emulated:
                return row.reason
            kept = f"the recipe keeps it in {layer.compute_dtype}"
            lost = {} if row.emulated else not_in_float8(layer)
            return lost.get(product, kept)
        if row.reason:
            return row.reason
        if policies.recipe_at(layer.dtype_policy, path) is None:
            return f"by its policy, {layer.dtype_policy.name}"
        if ours_for(type(layer)) is None:
            return f"tfmp has no FP8 products for {row.type}"
        return f"a stock {row.type}: `tfmp.convert` takes it to FP8"

    def lost(self, path: str) -> str:
        """Returns why XLA was not even given what a layer asks for."""
        layer = self.layers[path]
        if layer.quantization_mode == "float8":
            return KERAS_FLOAT8.format(dtype=layer.compute_dtype)
        return "the recipe asks for FP8, and XLA is not given it"
