"""What every public layer must do, in one table: layers by checks.

A layer is a row of `CASES`, a check is a test with the fixture `case`.  Every
check applies to every layer; what a row is excused from, it gives a reason for.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from modes import MODES

import tfmp
from tfmp._core import stablehlo
from tfmp._core.observations import SINCE
from tfmp.layers.float8_state import all_states

BATCH = 4
OTHER_POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]
# In dB.  A product of normal values has 28 in E4M3, 24 with gradients in E5M2;
# attention has the noises of five in a row, see `test_attention.py`.
ONE_PRODUCT, ATTENTION = 20, 14
# Three roundings to bfloat16, of 56 each.
BFLOAT16 = 50


@dataclasses.dataclass(frozen=True)
class Case:
    """How a layer is made, what it is given, and what is true of it.

    Attributes:
        name: of the class in `tfmp.layers`.
        stock: the Keras class.
        required: arguments without a default.
        options: more arguments, for layers that run.
        lengths: of the inputs, between batch and channels.
        channels: of the inputs.
        inputs: how many there are.
        call: arguments of the call.
        recipe: of `mixed_float8`.
        states: how many `amax` the layer has.
        gradients: decibels that all gradients must have.
        fusible: whether XLA, where it compiles the whole step, may round
            elsewhere; without, it is the eager step bit for bit.
        nothing: variables whose gradient is zero but for rounding.
        configs: arguments, none of them the default, that cover all of them.
        uncovered: arguments that a config need not keep, and why.
    """

    name: str
    stock: type
    required: dict[str, Any]
    configs: tuple[dict[str, Any], ...]
    lengths: tuple[int, ...] = (12,)
    channels: int = 32
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: int = 1
    call: dict[str, Any] = dataclasses.field(default_factory=dict)
    recipe: tfmp.recipes.Recipe = tfmp.recipes.DelayedScaling()  # noqa: RUF009
    states: int = 1
    gradients: float = ONE_PRODUCT
    fusible: bool = False
    nothing: tuple[str, ...] = ()
    uncovered: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def ours(self) -> type:
        """The class of tfmp."""
        return getattr(tfmp.layers, self.name)

    def make(self, cls: type | None = None, dtype: Any = None, **more: Any):
        """Returns a layer, of tfmp and in FP8 unless told otherwise."""
        dtype = dtype or tfmp.Policy("mixed_float8", self.recipe)
        options = {**self.required, **self.options, **more}
        return (cls or self.ours)(dtype=dtype, name="mine", **options)

    def built(self, *args: Any, **more: Any):
        """Returns a layer that has its variables."""
        layer = self.make(*args, **more)
        layer.build(*[(None, *self.shape)] * self.inputs)
        return layer

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input, without the batch."""
        return *self.lengths, self.channels

    @property
    def unknown(self) -> tuple[int | None, ...]:
        """The shape of an input of unknown lengths, without the batch."""
        return *[None] * len(self.lengths), self.channels

    def data(self, seed: int = 0, batch: int = BATCH, longer: int = 0):
        """Returns normal inputs."""
        lengths = [n + longer for n in self.lengths]
        shape = batch, *lengths, self.channels
        each = range(seed * self.inputs, (seed + 1) * self.inputs)
        return [normal(*shape, seed=one) for one in each]

    def model(self, layer: Any, shape: Any = None) -> keras.Model:
        """Returns a functional model of one call of a layer."""
        shape = shape or self.shape
        inputs = [keras.Input(shape) for _ in range(self.inputs)]
        return keras.Model(inputs, layer(*inputs, **self.call))


INITIALIZERS = {
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
}
RULES = {
    "kernel_regularizer": keras.regularizers.L2(1e-2),
    "bias_regularizer": keras.regularizers.L1(1e-2),
    "kernel_constraint": keras.constraints.MaxNorm(1.0),
    "bias_constraint": keras.constraints.NonNeg(),
}
OF_ANY_LAYER = {
    "trainable": False,
    "activity_regularizer": keras.regularizers.L2(1e-3),
    "name": "mine",
    "dtype": tfmp.Policy(
        "mixed_float8",
        tfmp.recipes.DelayedScaling(
            margin=2, amax_history_len=3, fp8_format="E4M3", attention=True
        ),
    ),
}
ACTIVATED = {"activation": "gelu", **INITIALIZERS}
SUMS = {"equation": "...a,ab->...b", "output_shape": 7}
LORA = {
    "lora_rank": 2,
    "lora_alpha": 3.0,
    "quantization_config": keras.quantizers.Int8QuantizationConfig(
        activation_quantizer=None
    ),
}
NOT_KEPT = {"autocast": "Keras' config leaves it out"}
NO_FLASH = {"flash_attention": "Keras' config leaves it out"}
ANY_BIAS = {"bias_initializer": "normal"}
ATTENTION_CONFIG = {
    **INITIALIZERS,
    **RULES,
    "dropout": 0.2,
    "use_bias": False,
    "sliding_window": 3,
    "use_gate": True,
    "seed": 4,
}


def convolution(rank: int, lengths: tuple[int, ...], **options: Any) -> Case:
    """Returns the row of a convolution; strides exclude dilation."""
    config = {
        **INITIALIZERS,
        **RULES,
        "filters": 6,
        "kernel_size": (2, 1, 2)[:rank],
        "padding": "causal" if rank == 1 else "same",
        "data_format": "channels_first",
        "groups": 2,
        "activation": "gelu",
        "use_bias": False,
    }
    return Case(
        f"Conv{rank}D",
        getattr(keras.layers, f"Conv{rank}D"),
        {"filters": 16, "kernel_size": 3},
        configs=(
            config | {"strides": (2, 1, 3)[:rank]},
            config | {"dilation_rate": (2, 1, 3)[:rank]},
        ),
        lengths=lengths,
        channels=16,
        options=ANY_BIAS | options,
        uncovered=NOT_KEPT,
    )


ROWS = [
    Case(
        "Dense",
        keras.layers.Dense,
        {"units": 16},
        configs=(
            {"units": 7, **ACTIVATED, **RULES, "use_bias": False},
            {"units": 8, **ACTIVATED, **LORA, "use_bias": False},
        ),
        options=ANY_BIAS,
        uncovered=NOT_KEPT,
    ),
    Case(
        "EinsumDense",
        keras.layers.EinsumDense,
        {"equation": "abc,cde->abde", "output_shape": (None, 4, 8)},
        configs=(
            {**SUMS, **ACTIVATED, **RULES, "bias_axes": "b"},
            {**SUMS, **ACTIVATED, **LORA, "gptq_unpacked_column_size": 5},
        ),
        options={"bias_axes": "de", **ANY_BIAS},
        uncovered=NOT_KEPT,
    ),
    convolution(1, (12,), padding="causal", dilation_rate=2),
    convolution(2, (6, 5), padding="same"),
    convolution(3, (4, 3, 4), padding="same"),
    Case(
        "MultiHeadAttention",
        keras.layers.MultiHeadAttention,
        {"num_heads": 2, "key_dim": 16},
        configs=(
            {
                **ATTENTION_CONFIG,
                "num_heads": 3,
                "key_dim": 5,
                "value_dim": 6,
                "output_shape": (3, 2),
                "attention_axes": (1,),
            },
        ),
        options=ANY_BIAS,
        inputs=2,
        recipe=tfmp.recipes.DelayedScaling(attention=True),
        states=4,
        gradients=ATTENTION,
        fusible=True,
        nothing=("key/bias",),
        uncovered=NOT_KEPT | NO_FLASH,
    ),
    Case(
        "GroupedQueryAttention",
        keras.layers.GroupQueryAttention,
        {"head_dim": 16, "num_query_heads": 4, "num_key_value_heads": 2},
        configs=(
            {
                **ATTENTION_CONFIG,
                "head_dim": 5,
                "num_query_heads": 6,
                "num_key_value_heads": 3,
            },
        ),
        options=ANY_BIAS,
        inputs=2,
        call={"use_causal_mask": True},
        states=4,
        gradients=ATTENTION,
        fusible=True,
        nothing=("key/bias",),
        uncovered=NOT_KEPT | NO_FLASH,
    ),
    Case(
        "BatchNormalization",
        keras.layers.BatchNormalization,
        {},
        configs=(
            {
                "axis": 1,
                "momentum": 0.9,
                "epsilon": 1e-2,
                "center": False,
                "scale": False,
                "beta_initializer": "ones",
                "gamma_initializer": "he_normal",
                "moving_mean_initializer": "ones",
                "moving_variance_initializer": "zeros",
                "beta_regularizer": keras.regularizers.L2(1e-2),
                "gamma_regularizer": keras.regularizers.L1(1e-2),
                "beta_constraint": keras.constraints.NonNeg(),
                "gamma_constraint": keras.constraints.MaxNorm(1.0),
                "renorm": True,
                "renorm_clipping": {"rmax": 3.0, "rmin": 0.3, "dmax": 5.0},
                "renorm_momentum": 0.7,
                "synchronized": True,
            },
        ),
        options={
            "beta_initializer": "normal",
            "gamma_initializer": keras.initializers.RandomNormal(stddev=1.0),
            "moving_mean_initializer": "normal",
            "moving_variance_initializer": keras.initializers.Constant(2.0),
        },
        states=0,
        gradients=BFLOAT16,
        fusible=True,
        uncovered=NOT_KEPT,
    ),
]
CASES = {row.name: row for row in ROWS}


class Pair(NamedTuple):
    """A layer in FP8 that has observed a step, and the Keras layer.

    They have the same weights, which a test must leave as they are.
    """

    ours: Any
    stock: Any


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def pair(case) -> Pair:
    keras.utils.set_random_seed(0)
    both = Pair(case.built(), case.built(case.stock, "float32"))
    copy_weights(both.ours, both.stock)
    found = step(case, both.ours, case.data())
    for state in all_states(both.ours):
        state.assume(found[name_of(state.variable)])
        assert np.all(state.amax.numpy() > 0)
    return both


@pytest.fixture(autouse=True)
def seeded():
    """The same weights in every run; not those of `pair`."""
    keras.utils.set_random_seed(1)


@pytest.fixture
def products(monkeypatch) -> list[Any]:
    """Takes note of each product that is traced."""
    seen, multiply = [], stablehlo.multiply

    def noted(*args):
        seen.append(args[0])
        return multiply(*args)

    monkeypatch.setattr(stablehlo, "multiply", noted)
    return seen


def normal(*shape, seed=0):
    """Normal float32 values."""
    values = np.random.default_rng(seed).normal(size=shape)
    return tf.constant(values, tf.float32)


NOISE = normal(8192, seed=99).numpy()


def name_of(variable):
    """The path of a variable below its layer."""
    return variable.path.split("/", 1)[1]


def weights(layer):
    """What a layer or model holds, but for FP8 state."""
    return [v.numpy() for v in layer.variables if v.name != "amax"]


def copy_weights(source, target):
    own = [v for v in target.variables if v.name != "amax"]
    for variable, value in zip(own, weights(source), strict=True):
        variable.assign(value)


def step(case, layer, inputs):
    """Output, gradients of inputs and variables, what was seen; by name."""
    call = {} if isinstance(layer, keras.Model) else case.call
    inputs, states = list(inputs), all_states(layer) if layer.trainable else []
    assumed = [state.amax for state in states]
    for state, amax in zip(states, assumed, strict=True):
        state.assume(amax)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        packed = [inputs] if isinstance(layer, keras.Model) else inputs
        y = layer(*packed, training=True, **call)
        upstream = tf.reshape(tf.constant(NOISE)[: tf.size(y)], tf.shape(y))
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
    variables = layer.trainable_variables
    found = tape.gradient(loss, [*inputs, *(v.value for v in variables)])
    names = [f"input_{i}" for i in range(len(inputs))]
    names += [name_of(v) for v in variables]
    names += [name_of(state.variable) for state in states]
    found += [tf.identity(s.variable.value[SINCE]) for s in states]
    for state, amax in zip(states, assumed, strict=True):
        state.assume(amax)
    return {"output": y, **dict(zip(names, found, strict=True))}


def near(exact, actual):
    """Decibels of a result; a lost or infinite one has none."""
    exact = tf.cast(exact, tf.float32).numpy().astype("float64")
    actual = tf.cast(actual, tf.float32).numpy()
    if np.array_equal(exact, actual):
        return math.inf
    return oracles.decibels(exact, actual) if np.isfinite(actual).all() else 0.0


def check_near(case, found, exact):
    """Holds a step against that of the Keras layer in float32."""
    observed = {name: v for name, v in found.items() if "amax" in name}
    assert set(found) - set(observed) == set(exact)
    for name, value in observed.items():
        assert np.all(np.isfinite(value)) and np.all(value.numpy() > 0), name
    for name, value in exact.items():
        floor = case.gradients
        if name == "output":
            floor = max(floor, ONE_PRODUCT)
        if name in case.nothing:
            scale = np.abs(exact[name.replace("key", "query")]).max()
            assert np.abs(found[name]).max() < 0.1 * scale, name
        else:
            assert near(value, found[name]) > floor, name


def optimizer():
    return tfmp.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**8
    )


def square(_, y):
    """A loss of outputs alone."""
    return keras.ops.mean(keras.ops.square(y))


def arguments(cls):
    """The names of a layer's constructor arguments."""
    found = set()
    for each in (cls, keras.layers.Layer):
        found |= set(inspect.signature(each.__init__).parameters)
    return found - {"self", "args", "kwargs"}


def test_every_public_layer_is_in_the_table():
    aliases = {"GroupQueryAttention"}
    assert set(tfmp.layers.__all__) - aliases == set(CASES)
    assert (
        tfmp.layers.GroupQueryAttention is CASES["GroupedQueryAttention"].ours
    )
    for row in CASES.values():
        assert issubclass(row.ours, row.stock)


def test_configs_have_every_argument(case):
    given = set(OF_ANY_LAYER).union(*case.configs)
    assert given | set(case.uncovered) == arguments(case.stock)
    assert not given & set(case.uncovered) and all(case.uncovered.values())


def as_json(layer):
    """A config as a file holds it."""
    return json.dumps(layer.get_config(), sort_keys=True)


def test_config_round_trip(case):
    plain = case.ours(**case.required).get_config()
    for config in case.configs:
        given = OF_ANY_LAYER | config
        layer = case.ours(**given)
        for name in given:
            assert layer.get_config()[name] != plain.get(name), name
        kept = as_json(layer)
        saved = json.dumps(keras.saving.serialize_keras_object(layer))
        copy = keras.saving.deserialize_keras_object(json.loads(saved))
        assert type(copy) is case.ours
        assert copy.dtype_policy == OF_ANY_LAYER["dtype"]
        for each in (copy, layer):
            assert as_json(each) == kept
            each.build(*[(None, *case.shape)] * case.inputs)
            assert as_json(each) == kept


@pytest.mark.slow_but("[Dense]", "[Conv2D]", "[Batch")
def test_keras_file(case, pair, tmp_path):
    model = case.model(pair.ours, case.unknown)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("mine")
    assert type(layer) is case.ours
    assert layer.dtype_policy == pair.ours.dtype_policy
    assert len(all_states(layer)) == case.states
    for before, after in zip(model.variables, loaded.variables, strict=True):
        assert oracles.same_bits(before.value, after.value)
    x = case.data(batch=3, longer=1)
    results = [each(x, training=False) for each in (model, loaded)]
    assert oracles.same_bits(*results)


def test_weights_files_are_those_of_the_keras_layer(case, pair, tmp_path):
    ours, stock = case.model(pair.ours), case.model(case.built(case.stock))
    ours.save_weights(tmp_path / "ours.weights.h5")
    assert not oracles.same_bits(weights(ours), weights(stock))
    stock.load_weights(tmp_path / "ours.weights.h5")
    assert oracles.same_bits(weights(ours), weights(stock))

    other = case.model(case.built())
    for state in all_states(other):
        state.assume([1.0, 2.0, 3.0])
    assert not oracles.same_bits(weights(other), weights(stock))
    stock.save_weights(tmp_path / "stock.weights.h5")
    other.load_weights(tmp_path / "stock.weights.h5")
    assert oracles.same_bits(weights(other), weights(stock))
    assert len(all_states(other)) == case.states
    assert all(np.all(s.amax.numpy() == 0) for s in all_states(other))


@pytest.mark.slow_but("[Dense]", "[Conv2D]", "[Batch")
def test_saved_model_of_any_batch_and_lengths(case, pair, tmp_path):
    model = case.model(pair.ours, case.unknown)
    stock = case.model(pair.stock, case.unknown)
    assert model.output_shape == stock.output_shape
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    specs = served.signatures["serving_default"].structured_input_signature[1]
    shapes = [spec.shape.as_list() for spec in specs.values()]
    assert shapes == [[None, *case.unknown]] * case.inputs
    x = case.data(batch=3, longer=1)
    assert oracles.same_bits(served.serve(x), model(x, training=False))


@pytest.mark.slow_but("[Dense]", "[EinsumDense]", "[Conv2D]", "[Batch")
def test_modes_agree_and_one_trace_serves_a_shape(case, pair, products):
    def run(*x):
        return step(case, pair.ours, x)

    def trace():
        """Of a shape that no other test traces; nothing runs."""
        function = tf.function(run, autograph=False)
        function.get_concrete_function(*case.data(batch=7))
        return len(products)

    traced = trace()
    assert bool(traced) == bool(case.states)
    assert trace() == traced
    graph = MODES["graph"](run)
    for seed in range(3):
        x = case.data(seed)
        eager = run(*x)
        found = graph(*x)
        if not case.states:  # Keras' own gradient differs in its last bits
            check_near(case, found, eager)
            found["input_0"] = eager["input_0"]
        assert oracles.same_bits(eager, found)
    assert len(products) == traced
    assert graph.experimental_get_tracing_count() == 1

    xla = MODES["xla"](run)(*x)
    if case.fusible:
        check_near(case, xla, step(case, pair.stock, x))
    else:
        assert oracles.same_bits(eager, xla)


def test_known_lengths_stay_known(case, pair):
    """Also where a trace for unknown ones exists, and would do."""

    def run(layer):
        return lambda *x: layer(*x, training=True, **case.call)

    spec = tf.TensorSpec([None, *case.unknown])
    function = tf.function(run(pair.ours), autograph=False)
    function.get_concrete_function(*[spec] * case.inputs)
    known, expected = (
        tf.function(run(layer), autograph=False)
        .get_concrete_function(*case.data(batch=9))
        .structured_outputs.shape
        for layer in pair
    )
    assert known == expected


def masked(case, layer):
    """What a layer makes of embeddings with a mask: values, mask, warnings."""
    ids = np.random.default_rng(0).integers(0, 3, [BATCH, *case.lengths])
    table = keras.layers.Embedding(
        3,
        case.channels,
        keras.initializers.RandomNormal(stddev=1.0, seed=1),
        mask_zero=True,
    )
    inputs = [table(np.roll(ids, i)) for i in range(case.inputs)]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        y = layer(*inputs, training=True, **case.call)
    mask = getattr(y, "_keras_mask", None)
    known = layer.compute_mask(inputs[0], table.compute_mask(ids))
    text = [str(each.message) for each in warned]
    return y, (mask, known, layer.supports_masking), text


def test_masks_pass_as_with_the_keras_layer(case):
    stock, ours = (case.built(c, "float32") for c in (case.stock, case.ours))
    low = case.built()
    for each in (ours, low):
        copy_weights(stock, each)
    y, mask, text = masked(case, stock)
    our_y, our_mask, our_text = masked(case, ours)
    assert oracles.same_bits((our_y, our_mask), (y, mask))
    assert our_text == text
    assert oracles.same_bits(weights(ours), weights(stock))  # The averages.
    low_y, low_mask, low_text = masked(case, low)
    assert oracles.same_bits(low_mask, mask) and low_text == text
    assert near(y.numpy(), low_y.numpy()) > ONE_PRODUCT


@pytest.mark.slow_but("[Dense]", "[Conv2D]")
def test_fit_inside_time_distributed_traces_once(case, products):
    layer = case.make()
    if case.inputs > 1:  # It takes one.
        x = keras.Input(case.shape)
        inner = keras.Model(x, layer(*[x] * case.inputs, **case.call))
    else:
        inner = layer
    inputs = keras.Input([2, *case.shape])
    outputs = keras.layers.TimeDistributed(inner, dtype="mixed_bfloat16")
    calls = []

    def note(x):
        calls.append(x)
        return x

    noted = keras.layers.Lambda(note)(outputs(inputs))
    model = keras.Model(inputs, noted)
    model.compile(optimizer(), square, jit_compile=False)
    before = [v.numpy() for v in layer.variables]
    x = np.stack([case.data(i, batch=3 * BATCH)[0] for i in range(2)], axis=1)

    def fit(epochs):
        done = model.fit(x, x, BATCH, epochs, shuffle=False, verbose=0)
        assert np.all(np.isfinite(done.history["loss"]))
        return len(calls), len(products)

    assert fit(1) == fit(2)
    for variable, old in zip(layer.variables, before, strict=True):
        assert np.all(np.isfinite(variable.numpy())), variable.path
        assert np.any(variable.numpy() != old), variable.path
    assert len(all_states(layer)) == case.states
    assert all(np.all(s.amax.numpy() > 0) for s in all_states(layer))


def test_called_twice_it_adds_gradients_and_observations(case, pair):
    layer = pair.ours
    inputs = [
        [keras.Input(case.shape) for _ in range(case.inputs)] for _ in range(2)
    ]
    called = [layer(*each, **case.call) for each in inputs]
    model = keras.Model([*inputs[0], *inputs[1]], keras.layers.Add()(called))
    x = case.data(0), case.data(1)
    first, second = (step(case, layer, each) for each in x)
    both = step(case, model, [*x[0], *x[1]])
    for i in range(case.inputs):
        name = f"input_{i}"
        assert oracles.same_bits(both[name], first[name])
        other = both[f"input_{case.inputs + i}"]
        assert oracles.same_bits(other, second[name])
    for variable in layer.trainable_variables:
        one, two, sum_ = (
            each[name_of(variable)].numpy() for each in (first, second, both)
        )
        assert np.all(np.isfinite(sum_)) and np.any(one) and np.any(two)
        np.testing.assert_array_equal(sum_, one + two)
    for state in all_states(layer):
        name = name_of(state.variable)
        most = np.maximum(first[name], second[name])
        np.testing.assert_array_equal(both[name], most)


@pytest.mark.slow_but("after_build", "[Dense-")
@pytest.mark.parametrize("when", ["before_build", "after_build"])
def test_frozen_it_stays_as_it_is(case, pair, when):
    layer = case.built(trainable=when == "after_build")
    stock = case.built(case.stock, "float32")
    copy_weights(pair.ours, layer)
    copy_weights(pair.ours, stock)
    for state in all_states(layer):
        state.assume([1e-3, 1e-3, 1e-3])  # Saturates, if it is asked.
    stock.trainable = False
    if when == "after_build":
        layer.trainable = False
    body = case.model(layer)
    head = keras.layers.Dense(1)
    model = keras.Model(body.inputs, head(*body.outputs))
    model.compile(optimizer(), square, run_eagerly=True)
    before, kernel = [v.numpy() for v in layer.variables], head.kernel.numpy()
    x = case.data()
    model.train_on_batch(x, x[0])
    assert oracles.same_bits(before, [v.numpy() for v in layer.variables])
    assert not oracles.same_bits(kernel, head.kernel.numpy())
    found, exact = (step(case, each, x) for each in (layer, stock))
    assert set(found) == {"output", *(f"input_{i}" for i in range(len(x)))}
    check_near(case, found, exact)


def test_it_is_near_the_keras_layer(case, pair):
    x = case.data(1)
    check_near(case, *(step(case, each, x) for each in pair))


@pytest.mark.parametrize("policy", OTHER_POLICIES)
def test_under_another_policy_it_is_the_keras_layer(case, policy):
    results = []
    for cls in (case.ours, case.stock):
        keras.utils.set_random_seed(0)
        layer = case.built(cls, policy)
        results.append([step(case, layer, case.data()), weights(layer)])
        assert not all_states(layer)
    assert oracles.same_bits(*results)
