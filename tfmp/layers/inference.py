"""What a layer multiplies in inference: by which recipe, at which scale."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfmp import recipes
from tfmp.layers import frozen_kernel
from tfmp.layers.contraction import Float8Layer
from tfmp.layers.convolution import Float8Convolution


def recipe_of(layer: keras.Layer) -> recipes.Float8Recipe | None:
    """Returns the recipe of a layer whose forward product is in FP8."""
    if not isinstance(layer, Float8Layer) or not layer.built:
        return None
    recipe = layer.float8_options(training=False)["recipe"]
    if not isinstance(recipe, recipes.Float8Recipe):
        return None
    if not recipe.in_float8("output"):
        return None
    return None if why_wide(layer) else recipe


def why_wide(layer: keras.Layer) -> str | None:
    """Returns why a convolution's output is not an FP8 product."""
    if not isinstance(layer, Float8Convolution) or layer.recipe is None:
        return None
    config = layer.get_build_config() or {}
    shape = config.get("input_shape")
    if shape is None:
        first = layer.data_format == "channels_first"
        channels = layer.kernel.shape[-2] * layer.groups
        lengths = [None] * layer.rank
        shape = [channels, *lengths] if first else [*lengths, channels]
        shape = [None, *shape]
    return layer.float8_products(shape)["output"]


def kernel_scale(layer: Float8Layer, recipe: recipes.Float8Recipe) -> tf.Tensor:
    """Returns the scale of a layer's kernel in inference."""
    if layer.holds_bytes:
        return tf.convert_to_tensor(layer.kernel_scale)
    seen = tf.zeros([3]) if layer.amax is None else layer.amax
    return frozen_kernel.kernel_scale(layer.uncast_kernel(), seen, recipe)
