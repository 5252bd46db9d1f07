"""What of Keras works how, row by row of the guide's table.

Each row of "Coming from keras.mixed_precision" has a test of its name: the
plain program with a converted model, beside the same one of Keras in bfloat16
where there is something to compare.
"""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp._core import observations
from tfmp.layers.float8_state import all_states
from tfmp.optimizers import LossScaleOptimizer

GUIDE = (
    pathlib.Path(__file__).resolve().parents[1]
    / "docs/guides/coming_from_keras.md"
)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 16)).astype("float32")
Y = X @ RNG.normal(size=(16, 4)).astype("float32") / 4


def stock(dtype="mixed_bfloat16"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input([16]),
            keras.layers.Dense(32, "relu", name="hidden", dtype=dtype),
            keras.layers.Dense(4, name="head", dtype=dtype),
        ]
    )


def converted():
    model = stock()
    tfmp.convert(model, filter="all")
    return model


def sgd():
    return keras.optimizers.SGD(0.1)


def losses(model, optimizer=None, epochs=4, wrap=True, **kwargs):
    """Compiles and fits a model; returns the losses."""
    names = ("jit_compile", "run_eagerly", "steps_per_execution", "metrics")
    compiled = {name: kwargs.pop(name) for name in names if name in kwargs}
    optimizer = sgd() if optimizer is None else optimizer
    if wrap:
        optimizer = LossScaleOptimizer(optimizer, 1, dynamic=False)
    model.compile(optimizer, "mse", **compiled)
    return model.fit(X, Y, 16, epochs, 0, **kwargs).history["loss"]


def check_alike(ours, plain, within=0.25):
    """Whether training has moved weights as it moved those of the stock model.

    And whether FP8 has observed each tensor that it scales.
    """
    for start, a, b in zip(
        stock().get_weights(),
        ours.get_weights(),
        plain.get_weights(),
        strict=True,
    ):
        moved = np.linalg.norm(b - start)
        assert np.linalg.norm(a - b) <= within * moved
    states = all_states(ours)
    assert len(states) == 2
    for state in states:
        assert np.all(state.amax.numpy() > 0)


def trains_alike(optimizer=sgd, within=0.25, **kwargs):
    """Whether the converted model trains as the stock one does."""
    ours, plain = converted(), stock()
    found = losses(ours, optimizer(), **kwargs)
    given = losses(plain, optimizer(), wrap=False, **kwargs)
    assert found[-1] < found[0]
    assert found == pytest.approx(given, rel=0.05)
    check_alike(ours, plain, within)


@pytest.mark.slow_but("[scaled]")
@pytest.mark.parametrize("fault", ["unseen", "scaled", "frozen"])
def test_the_comparison_can_fail(fault, monkeypatch):
    if fault == "unseen":
        monkeypatch.setattr(observations, "after", lambda state, *rest: state)
    make = converted
    if fault == "frozen":

        def make():
            model = stock()
            tfmp.convert(model, filter="all")
            model.layers[0].trainable = False
            return model

    ours, plain = make(), stock()
    losses(ours, keras.optimizers.SGD(0.01 if fault == "scaled" else 0.1))
    losses(plain, wrap=False)
    with pytest.raises(AssertionError):
        check_alike(ours, plain)


def fit(tmp_path):
    trains_alike()
    model = converted()
    model.compile("sgd", "mse")
    before = model.evaluate(X, Y, verbose=0)
    model.train_on_batch(X, Y)
    assert model.test_on_batch(X, Y) < before
    assert model.predict(X, verbose=0).shape == Y.shape


def modes(tmp_path):
    for mode in (
        {"jit_compile": True},
        {"jit_compile": False},
        {"run_eagerly": True},
        {"steps_per_execution": 2},
    ):
        trains_alike(epochs=2, **mode)


def own_step(tmp_path):
    class Model(keras.Model):
        def __init__(self, layers):
            super().__init__()
            self.net = layers

        def call(self, x, training=None):
            return self.net(x, training=training)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
                loss = self.optimizer.scale_loss(loss)
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    ours, plain = converted(), stock()
    found = losses(Model(ours))
    given = losses(Model(plain), wrap=False)
    assert found == pytest.approx(given, rel=0.05)
    check_alike(ours, plain)


def weights(tmp_path):
    trains_alike(epochs=2, sample_weight=np.linspace(0, 1, len(X)))
    classes, given = np.argmax(Y, -1), {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}
    ours, plain = converted(), stock()
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for model in (ours, plain):
        model.compile(sgd(), entropy)
        model.fit(X, classes, 16, 4, 0, class_weight=given)
    check_alike(ours, plain)


def functions(tmp_path):
    def seen(y, predicted):
        assert predicted.dtype == "float32"
        return keras.ops.mean(keras.ops.abs(y - predicted))

    losses(converted(), metrics=[seen, "mae"], epochs=1)


def inside(tmp_path):
    optimizers = keras.optimizers
    for make in (
        lambda: optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1),
        lambda: optimizers.SGD(0.1, global_clipnorm=0.1),
        lambda: optimizers.SGD(0.1, clipvalue=0.01),
        lambda: optimizers.AdamW(weight_decay=0.1),
        lambda: optimizers.Adam(gradient_accumulation_steps=2),
        lambda: optimizers.Adam(use_ema=True, ema_overwrite_frequency=4),
    ):
        trains_alike(make, 0.5, epochs=2)  # small gradients count as much
    with pytest.raises(ValueError, match="must be set on the `inner_opt"):
        LossScaleOptimizer("sgd", clipnorm=1.0)


def parts(tmp_path):
    def make():
        bias = {".*bias": keras.optimizers.SGD(0.1)}
        adam = keras.optimizers.Adam()
        return keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(adam, bias)
        )

    trains_alike(make)


def rates(tmp_path):
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 16)
    trains_alike(lambda: keras.optimizers.Adam(schedule))
    model = converted()
    halve = keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.5, 1, min_delta=9)
    losses(model, keras.optimizers.SGD(0.1), 3, callbacks=[halve, plateau])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 / 2**5)


def watching(tmp_path):
    model = converted()
    calls = keras.callbacks
    losses(
        model,
        validation_data=(X, Y),
        callbacks=[
            calls.EarlyStopping(patience=1, restore_best_weights=True),
            calls.TensorBoard(tmp_path / "logs"),
            calls.CSVLogger(tmp_path / "log.csv"),
            calls.TerminateOnNaN(),
        ],
    )
    assert list((tmp_path / "logs").rglob("events*"))
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


def backups(tmp_path):
    model = converted()
    path = tmp_path / "{epoch}.keras"
    losses(model, callbacks=[keras.callbacks.ModelCheckpoint(path)])
    last = keras.models.load_model(tmp_path / "4.keras")
    assert np.array_equal(last.predict(X), model.predict(X))
    assert last.optimizer.statistics == model.optimizer.statistics

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = tfmp.callbacks.BackupAndRestore(tmp_path / "backup")
    again = converted()
    with pytest.raises(KeyboardInterrupt):
        losses(again, callbacks=[Stop(), backup])
    again = converted()
    losses(again, callbacks=[backup])
    assert np.array_equal(again.predict(X), model.predict(X))


def files(tmp_path):
    ours, plain = converted(), stock()
    losses(ours)
    ours.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(again.predict(X), ours.predict(X))
    assert again.layers[0].dtype_policy == ours.layers[0].dtype_policy
    ours.save_weights(tmp_path / "m.weights.h5")
    plain.load_weights(tmp_path / "m.weights.h5")
    for a, b in zip(ours.get_weights(), plain.get_weights(), strict=True):
        assert np.array_equal(a, b)


def clones(tmp_path):
    ours = converted()
    for again in (
        keras.models.clone_model(ours),
        keras.models.model_from_json(ours.to_json()),
        keras.Sequential.from_config(ours.get_config()),
    ):
        assert type(again.layers[0]) is tfmp.layers.Dense
        assert again.layers[0].dtype_policy == ours.layers[0].dtype_policy


def counts(tmp_path):
    ours, plain = converted(), stock()
    assert ours.count_params() == plain.count_params()
    assert len(ours.weights) == len(plain.weights)
    lines = []
    ours.summary(print_fn=lines.append)
    assert "Total params: 676" in "".join(lines)


def frozen(tmp_path):
    ours, plain = converted(), stock()
    for model in (ours, plain):
        model.layers[0].trainable = False
    kernel = ours.layers[0].kernel.numpy()
    found = losses(ours)
    assert found == pytest.approx(losses(plain, wrap=False), rel=0.05)
    assert np.array_equal(ours.layers[0].kernel, kernel)
    assert not np.array_equal(ours.layers[1].kernel, stock().layers[1].kernel)


def low_rank(tmp_path):
    model = converted()
    model.layers[0].enable_lora(4)
    found = losses(model)
    assert found[-1] < found[0]
    assert len(model.trainable_variables) == 5


def quantized(tmp_path):
    ours, plain = converted(), stock()
    for model in (ours, plain):
        model.quantize("int8")
    assert np.array_equal(ours.predict(X), plain.predict(X))


def wrappers(tmp_path):
    layers = keras.layers
    inputs = keras.Input([5, 16])
    x = layers.TimeDistributed(layers.Dense(8, "relu"))(inputs)
    x = layers.Bidirectional(layers.LSTM(4, name="lstm"))(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    report = tfmp.convert(model, filter="all")
    precisions = {row.path.split("/")[-1]: row.precision for row in report.rows}
    assert precisions["forward_lstm"] == "bfloat16"
    model.compile("adam", "mse")
    model.fit(np.stack([X] * 5, 1), Y, verbose=0)


def maps(tmp_path):
    table = keras.dtype_policies.DTypePolicyMap("mixed_bfloat16")
    table["hidden"] = tfmp.Policy("mixed_float8")
    hidden = tfmp.layers.Dense(4, dtype=table, name="hidden")
    other = tfmp.layers.Dense(4, dtype=table, name="other")
    for layer in (hidden, other):
        layer.build((None, 16))
    assert hidden.recipe is not None
    assert other.recipe is None


def exported(tmp_path):
    model = converted()
    losses(model)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    assert np.array_equal(served.serve(X), model.predict(X))


def replicas(tmp_path):
    with tf.distribute.OneDeviceStrategy("cpu:0").scope():
        ours = converted()
        losses(ours)
    plain = stock()
    losses(plain, wrap=False)
    check_alike(ours, plain)


def stateless(tmp_path):
    model = converted()
    trained = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    outputs, _ = model.stateless_call(trained, others, X)
    assert np.array_equal(outputs, model(X))


def recomputation(tmp_path):
    model = converted()

    class Recomputed(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = model

        def call(self, x, training=None):
            return tf.recompute_grad(lambda x: self.net(x, training=training))(
                x
            )

    losses(Recomputed())
    plain = stock()
    losses(plain, wrap=False)
    check_alike(model, plain)


ROWS = {
    "`fit`, `evaluate`, `predict`, `train_on_batch`": fit,
    "`jit_compile`, `run_eagerly`, `steps_per_execution`": modes,
    "an own `train_step`, an own loop": own_step,
    "`sample_weight`, `class_weight`": weights,
    "losses and metrics, also functions": functions,
    "clipping, `weight_decay`, `use_ema`, accumulation": inside,
    "`MultiOptimizer`": parts,
    "`LearningRateScheduler`, `ReduceLROnPlateau`, schedules": rates,
    "`EarlyStopping`, `TensorBoard`, `CSVLogger`": watching,
    "`ModelCheckpoint`, `BackupAndRestore`": backups,
    "`.keras`, `.weights.h5`, `get_weights`": files,
    "`clone_model`, `to_json`, `from_config`": clones,
    "`count_params`, `summary`, `weights`": counts,
    "`trainable = False`": frozen,
    "`enable_lora`": low_rank,
    "`quantize`": quantized,
    "`TimeDistributed`, `Bidirectional`, RNNs": wrappers,
    "`DTypePolicyMap`": maps,
    "`export`": exported,
    "`tf.distribute`": replicas,
    "`stateless_call`": stateless,
    "`tf.recompute_grad`": recomputation,
}


@pytest.mark.slow_but(
    "[`tf.distribute`",
    "[losses",
    "[`trainable",
    "[`clone",
    "[`count",
    "[`DType",
)
@pytest.mark.parametrize("row", ROWS)
def test_a_row(row, tmp_path):
    ROWS[row](tmp_path)


def test_the_guide_has_the_same_rows():
    table = GUIDE.read_text(encoding="utf-8").split("## What of Keras works")
    rows = re.findall(r"^\| (.*?) \| ", table[1], re.MULTILINE)
    assert rows[0] == "of Keras"
    assert rows[1:] == list(ROWS)
