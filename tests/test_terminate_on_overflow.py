"""tfmp.callbacks.TerminateOnOverflow, in real training."""

import json
import pathlib

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmp.callbacks import PrecisionScheduler, ScaleMonitor, TerminateOnOverflow
from tfmp.debug import NonFiniteError, TooLarge
from tfmp.optimizers import LossScaleOptimizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH, SCALE = 4, 2.0**15
MODES = {
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "executions": {"jit_compile": False, "steps_per_execution": 2},
}


def data(pattern):
    """A step for each letter; in step i that is bad, row i % 4 overflows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=[len(pattern), BATCH, 3]).astype("float32")
    for step, letter in enumerate(pattern):
        if letter == "b":
            x[step, step % BATCH] = 3e38
    return x.reshape([-1, 3]), np.ones([x[..., 0].size, 1], "float32")


def make_model(**options):
    model = keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Dense(2, kernel_initializer="ones", name="hidden"),
            keras.layers.Dense(1, name="head"),
        ],
        name="net",
    )
    model.compile(LossScaleOptimizer("sgd"), "mse", **options)
    return model


@pytest.fixture(scope="module", params=MODES)
def trained(request):
    return make_model(**MODES[request.param])


@pytest.fixture(scope="module")
def eager():
    return make_model(run_eagerly=True)


def reset(model):
    for variable in model.optimizer.variables:
        if variable.name not in ("learning_rate", "dynamic_scale"):
            variable.assign(keras.ops.zeros_like(variable))
    if model.optimizer.built:
        model.optimizer.dynamic_scale.assign(SCALE)


def fit(model, pattern, *callbacks, **options):
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(*data(pattern), callbacks=[*callbacks], **options)


class Weights(keras.callbacks.Callback):
    """Keeps the weights after each execution."""

    def on_train_begin(self, logs=None):
        self.after = []

    def on_train_batch_end(self, batch, logs=None):
        self.after.append([w.tobytes() for w in self.model.get_weights()])


def test_ends_training_in_every_mode(trained):
    reset(trained)
    fit(trained, "gggg")
    function, weights = trained.train_function, Weights()
    reset(trained)
    with pytest.raises(NonFiniteError) as caught:
        fit(trained, "ggbgbbbbbb", weights, TerminateOnOverflow(4))
    error, many = caught.value, trained.steps_per_execution
    assert error.step == 8
    assert "4 steps in a row were skipped, the last one step 8" in str(error)
    # Step 8 was preceded by one skipped step, and three more.
    assert f"at loss scale {SCALE / 2**4:g}; first non-finite" in str(error)
    assert str(error).endswith(str(error.finding))
    found = error.finding
    assert (found.tensor, found.layer) == ("activation", "net/hidden")
    assert found.first == (7 % BATCH, 0)
    assert trained.train_function is function
    last_good = weights.after[(4 // many) - 1]
    assert [w.tobytes() for w in trained.get_weights()] == last_good
    assert weights.after[0] != last_good


def test_occasional_skipped_steps_do_not(trained):
    reset(trained)
    function = trained.train_function
    with pytest.warns(RuntimeWarning, match="skipped 14 of the steps"):
        history = fit(trained, "gbbbgbbbgb", TerminateOnOverflow(4), epochs=2)
    assert history.epoch == [0, 1]
    assert int(trained.optimizer.skipped_steps) == 14
    assert trained.train_function is function
    assert np.isfinite(trained.get_weights()[0]).all()


def test_good_steps_leave_the_model_alone(eager):
    reset(eager)
    fit(eager, "g")
    function, seen = eager.train_function, []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            eager.train_function is function
        )
    )
    fit(eager, "ggbggggbbbg", look, TerminateOnOverflow(40))
    assert seen == [True] * 11


def test_across_epochs_and_partial_batches(eager):
    reset(eager)
    x, y = data("bb")
    validation = {"validation_data": data("g"), "epochs": 9}
    with pytest.raises(NonFiniteError) as caught:
        eager.fit(
            x[:7],
            y[:7],
            BATCH,
            shuffle=False,
            verbose=0,
            callbacks=[TerminateOnOverflow(7)],
            **validation,
        )
    assert caught.value.step == 7
    assert caught.value.finding.shape == (4, 2)


@pytest.mark.parametrize("trained", ["executions"], indirect=True)
def test_dataset_of_unknown_length_and_the_next_fit(trained):
    reset(trained)
    x, y = data("gbbb")
    dataset = tf.data.Dataset.from_generator(
        lambda: ((x[i : i + 4], y[i : i + 4]) for i in range(0, 16, 4)),
        output_signature=(
            tf.TensorSpec([None, 3], tf.float32),
            tf.TensorSpec([None, 1], tf.float32),
        ),
    )
    trained.fit(dataset, verbose=0, callbacks=[TerminateOnOverflow(4)])
    with pytest.raises(NonFiniteError, match="the last one step 6 ") as caught:
        trained.fit(
            dataset.skip(1),
            verbose=0,
            epochs=2,
            callbacks=[TerminateOnOverflow(5)],
        )
    assert str(caught.value).startswith("5 steps")  # three of the last fit


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("late", "monitored", "step"),
    [(False, False, 6), (True, False, 7), (False, True, 6)],
    ids=["before", "after", "measured"],
)
def test_a_change_of_precision_while_steps_are_skipped(late, monitored, step):
    """The batch is the last one, also of another function that runs it."""
    model = make_model(run_eagerly=True)
    callbacks = [TerminateOnOverflow(4)]
    schedule = PrecisionScheduler({5: {"head": "mixed_bfloat16"}}, "step")
    callbacks.insert(1 if late else 0, schedule)
    if monitored:  # the function that it makes anew comes first of all
        callbacks[0] = PrecisionScheduler({4: {"head": "mixed_float8"}}, "step")
        callbacks.append(ScaleMonitor(every=1))
    with pytest.raises(NonFiniteError) as caught:
        fit(model, "ggbbbbbb", *callbacks)
    assert caught.value.step == step
    assert caught.value.finding.first == ((step - 1) % BATCH, 0)
    assert f"at loss scale {SCALE / 2 ** (step - 3):g};" in str(caught.value)


class Stops(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("again", ["fit", "train_on_batch"])
def test_another_error_leaves_nothing_behind(eager, again):
    reset(eager)
    fit(eager, "g")
    function = eager.train_function
    with pytest.raises(KeyboardInterrupt):
        fit(eager, "bbbbbbbb", Stops(), TerminateOnOverflow(7))
    assert eager.train_function != function  # it was at work
    if again == "fit":
        fit(eager, "gb")
    else:
        eager.train_on_batch(*data("g"))
    assert eager.train_function is function
    assert int(eager.optimizer.iterations) == 2


class OnlyIn(keras.layers.Layer):
    """Overflows in a graph; eagerly it is finite, or raises."""

    fault = None

    def call(self, x):
        if not tf.executing_eagerly():
            return x * np.inf
        if self.fault is not None:
            raise self.fault
        return x


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (None, "run again eagerly, the last batch is finite everywhere"),
        (OSError("no disk"), "the diagnosis failed: OSError: (?s:.*)no disk"),
    ],
)
def test_nothing_found_is_said(fault, words):
    layer = OnlyIn()
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1), layer])
    model.compile(LossScaleOptimizer("sgd"), "mse", jit_compile=False)
    layer.fault = fault
    with pytest.raises(NonFiniteError, match=words) as caught:
        fit(model, "ggg", TerminateOnOverflow(2))
    assert caught.value.finding is None and caught.value.step == 2


def test_finite_gradients_that_are_too_large():
    """Infinite only as a norm: the batch is finite everywhere."""
    model = make_model(jit_compile=True)
    x, y = data("gggg")
    with pytest.raises(NonFiniteError, match="4 steps in a row") as caught:
        model.fit(
            x * 1e15, y, BATCH, verbose=0, callbacks=[TerminateOnOverflow(4)]
        )
    found = caught.value.finding
    assert str(caught.value).endswith(str(found))
    assert isinstance(found, TooLarge) and found.largest >= found.limit > 1e18


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam,
        lambda: keras.mixed_precision.LossScaleOptimizer(
            keras.optimizers.SGD()
        ),
    ],
    ids=["plain", "Keras' loss scaling"],
)
def test_optimizers_that_do_not_count(optimizer):
    optimizer = optimizer()
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", run_eagerly=True)
    name = type(optimizer).__name__
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"`optimizer` .* Received: {name}"):
        fit(model, "g", TerminateOnOverflow())
    assert np.array_equal(model.get_weights()[0], before[0])


def test_arguments():
    assert TerminateOnOverflow().max_skipped_steps == 50
    with pytest.raises(TypeError, match=r"`max_skipped_steps`.*Received: 2.0"):
        TerminateOnOverflow(2.0)
    with pytest.raises(ValueError, match=r"`max_skipped_steps`.*Received: 1"):
        TerminateOnOverflow(1)


def mirrored():
    """Trains on two replicas, of which the second sees what is not finite."""
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, halves)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model()
        model.add(keras.layers.BatchNormalization())
        model.compile(LossScaleOptimizer("sgd"), "mse")
    fit(model, "g")
    function = model.train_function
    try:
        fit(model, "gbb", TerminateOnOverflow(2), batch_size=BATCH)
    except NonFiniteError as error:
        return str(error), model.train_function is function
    return "", False


@pytest.mark.slow
def test_mirrored_strategy():
    program = "import json; from test_terminate_on_overflow import mirrored; "
    result = forked.run(
        program + "print(json.dumps(mirrored()))",
        path=(ROOT, ROOT / "tests"),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    text, restored = json.loads(result.stdout.splitlines()[-1])
    # Row 2 of the last batch is the second replica's first.
    assert "activation of layer 'net/hidden'" in text
    assert "float32 [2, 2]: 0 NaN, 2 infinite, first at [0, 0]" in text
    assert "the last one step 4 at" in text and restored
