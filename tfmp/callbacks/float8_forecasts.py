"""What FP8 would do to layers that compute in more bits, measured.

A layer's shadow is the FP8 contraction that it could be.  In a measured step
the tensors that it would quantize are looked at, and nothing of it is used.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfmp import recipes
from tfmp._core import custom_gradients, probes, scaling, statistics
from tfmp._keras import call_context, training_pass
from tfmp._keras.callback_states import Logs
from tfmp._monitoring.measured_step import MeasuredStep
from tfmp._monitoring.operators import Operator
from tfmp._monitoring.sample_log import Sample
from tfmp._monitoring.sampler import Sampler
from tfmp._monitoring.step_count import StepCount


class ShadowedStep(MeasuredStep):
    """A measured step that looks at shadows too.

    Args:
        model: within `fit`, built.
        elements: see `Probe`.
        shadows: by name; the recipe is the one to ask about, with current
            scaling, as a layer that is not in FP8 has no history.
    """

    def __init__(
        self,
        model: keras.Model,
        elements: int | None,
        shadows: Mapping[str, Operator],
    ) -> None:
        super().__init__(model, elements)
        with model.distribute_strategy.scope():
            new = {name: probes.Probe(elements) for name in shadows}
        self._shadows = dict(shadows)
        self._operators.update(shadows)
        self._probes.update(new)

    @contextlib.contextmanager
    def _probing(self) -> Iterator[None]:
        layers = {name: each.layer for name, each in self._shadows.items()}
        with super()._probing():
            with training_pass.around_calls(layers, self._watched):
                yield

    def _watched(
        self, name: str, layer: keras.Layer, call: Callable[..., Any]
    ) -> Callable[..., Any]:
        recipe, probe = self._shadows[name].recipe, self._probes[name]

        @functools.wraps(call)
        def watched(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """Calls, and looks at what FP8 would quantize."""
            look = functools.partial(_look, probe, recipe)
            look("inputs", inputs)
            with call_context.uncast():
                look("kernel", layer.kernel)
            takes = probe.taker("grads")
            with _before_activation(layer, _seen_back(recipe, probe, takes)):
                return call(inputs, *args, **kwargs)

        return watched


class ShadowSampler(Sampler):
    """Takes samples, of shadows too.

    Attributes:
        shadows: by name, to be looked at from the next change of precision.
    """

    def __init__(self, model: keras.Model, elements: int | None) -> None:
        super().__init__(model, True, elements)
        self.shadows: dict[str, Operator] = {}

    def _new_step(self) -> ShadowedStep:
        return ShadowedStep(self.model, self._elements, self.shadows)

    def take(self, count: StepCount, logs: Logs) -> Sample:
        """Returns a sample, also before the first execution is measured."""
        if self._state is None:
            self.start()
        return super().take(count, logs)


def _look(
    probe: probes.Probe,
    recipe: Any,
    role: str,
    x: Any,
    take: Callable[[tf.Tensor], None] | None = None,
) -> None:
    """Measures what a role of a recipe would do to a tensor."""
    if not recipe.quantizes(role):
        return
    x, target = tf.convert_to_tensor(x), recipe.format(role)
    amax = scaling.amax(x)
    scale = scaling.scale_of_role(recipe, role, amax)
    vector = statistics.measure(
        x, scale, target, amax, recipe.margin, probe.elements
    )
    (take or probe.taker(role))(vector)


def _seen_back(
    recipe: recipes.Recipe, probe: probes.Probe, take: Callable[..., Any]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns an identity that looks at the gradient on its way back."""

    @custom_gradients.custom_gradient
    def identity(y: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        """Returns its input, and looks at the gradient."""

        def back(dy: tf.Tensor) -> tf.Tensor:
            _look(probe, recipe, "grads", dy, take)
            return dy

        return tf.identity(y), back

    return identity


@contextlib.contextmanager
def _before_activation(
    layer: keras.Layer, function: Callable[..., Any]
) -> Iterator[None]:
    """Has a layer apply a function to what goes into its activation."""
    activation = layer.activation
    after = keras.activations.linear if activation is None else activation
    with training_pass.attribute(
        layer, "activation", lambda y: after(function(y))
    ):
        yield
