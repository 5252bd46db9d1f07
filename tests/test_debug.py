"""tfmp.debug: planted faults, each found where it was planted."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp.debug import NonFinite, NonFiniteError, TooLarge, find_nonfinite
from tfmp.optimizers import LossScaleOptimizer

rng = np.random.default_rng(0)
X = rng.normal(size=[8, 4]).astype("float32")
Y = rng.normal(size=[8, 2]).astype("float32")
NAN, INF = np.nan, np.inf


class Fault(keras.layers.Layer):
    """Adds `value` to its activation, or to its gradient, at one index."""

    value = 0.0
    gradient = 0.0

    def call(self, x):
        @tf.custom_gradient
        def broken(x):
            at = tf.one_hot([1], tf.size(x), dtype=x.dtype)
            at = tf.reshape(at, tf.shape(x))

            def back(dy):
                return dy + tf.math.multiply_no_nan(
                    tf.cast(self.gradient, x.dtype), at
                )

            add = tf.math.multiply_no_nan(tf.cast(self.value, x.dtype), at)
            return x + add, back

        return broken(x)


@pytest.fixture(scope="module")
def net():
    inner = keras.Sequential(
        [keras.Input([6]), keras.layers.Dense(5, name="deep"), Fault(name="f")],
        name="inner",
    )
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(6, "relu", name="first"),
            keras.layers.Dropout(0.5, name="drop"),
            keras.layers.BatchNormalization(name="norm"),
            inner,
            keras.layers.Dense(2, name="head"),
        ],
        name="net",
    )
    model.compile(
        LossScaleOptimizer("adam", initial_scale=8.0),
        "mse",
        metrics=["mae"],
        run_eagerly=True,
    )
    model.fit(X, Y, verbose=0)
    return model


@pytest.fixture
def fault(net):
    layer = net.get_layer("inner").get_layer("f")
    yield layer
    layer.value = layer.gradient = 0.0


def spoilt(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def told(finding):
    return finding.tensor, finding.name, finding.layer


def everything(model):
    variables = [
        *model.variables,
        *model.metrics_variables,
        *model.optimizer.variables,
    ]
    return [v.numpy().tobytes() for v in variables]


def test_finite_step_gives_none_and_changes_nothing(net):
    before, losses = everything(net), list(net.losses)
    train_function = net.train_function
    assert find_nonfinite(net, X, Y) is None
    assert find_nonfinite(net, X, Y, np.ones([8])) is None
    assert find_nonfinite(net, X) is None
    assert everything(net) == before
    assert net.losses == losses and net.train_function is train_function
    for layer in net._flatten_layers():
        assert "call" not in vars(layer)


def test_the_pass_would_have_changed_state(net):
    """The test before can fail: such a pass moves averages and seeds."""
    before = everything(net)
    net(X, training=True)
    assert everything(net) != before


@pytest.mark.parametrize(
    ("batch", "tensor", "first"),
    [
        ((spoilt(X, (3, 2), NAN), Y), "input data", (3, 2)),
        ((X, spoilt(Y, (7, 1), -INF)), "label", (7, 1)),
        ((X, Y, spoilt(np.ones([8]), 4, NAN)), "sample weight", (4,)),
    ],
)
def test_data(net, batch, tensor, first):
    finding = find_nonfinite(net, *batch)
    assert told(finding) == (tensor, "", "")
    assert finding.first == first
    assert finding.nans + finding.infinities == 1


def test_each_weight(net):
    for layer in ("first", "norm", "inner/deep", "head"):
        for variable in net.get_layer(layer.split("/")[0]).weights:
            before = variable.numpy()
            index = (0,) * before.ndim
            variable.assign(spoilt(before, index, NAN))
            finding = find_nonfinite(net, X, Y)
            variable.assign(before)
            expected = "weight", variable.path, f"net/{layer}"
            assert told(finding) == expected
            assert (finding.nans, finding.first) == (1, index)
            assert finding.shape == before.shape


def test_average_that_the_step_does_not_read_comes_last(net, fault):
    average = net.get_layer("norm").moving_mean
    before = average.numpy()
    fault.gradient = NAN
    average.assign(before * NAN)
    finding = find_nonfinite(net, X, Y)
    average.assign(before)
    assert finding.tensor == "gradient of input"


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_activation_of_a_nested_layer(net, fault, value):
    fault.value = value
    finding = find_nonfinite(net, X, Y)
    assert told(finding) == ("activation", "", "net/inner/f")
    assert finding.layer_class == "Fault"
    assert (finding.shape, finding.dtype) == ((8, 5), "float32")
    assert finding.first == (0, 1)
    assert (finding.nans, finding.infinities) == (
        (1, 0) if np.isnan(value) else (0, 1)
    )
    assert 0 < finding.before < 100


def test_gradient_alone(net, fault):
    fault.gradient = INF
    finding = find_nonfinite(net, X, Y)
    assert told(finding) == ("gradient of input", "", "net/inner/f")
    assert find_nonfinite(net, X) is None  # no labels, no gradients


def test_first_of_several(net, fault):
    fault.value = fault.gradient = NAN
    kernel = net.get_layer("first").kernel
    before = kernel.numpy()
    assert find_nonfinite(net, X, Y).tensor == "activation"
    kernel.assign(before * INF)
    assert find_nonfinite(net, X, Y).tensor == "weight"
    assert find_nonfinite(net, X, Y * NAN).tensor == "label"
    assert find_nonfinite(net, X * NAN, Y * NAN).tensor == "input data"
    kernel.assign(before)


def test_loss(net):
    largest = np.finfo(np.float32).max
    finding = find_nonfinite(net, X, np.full_like(Y, largest))
    assert told(finding) == ("loss", "", "")
    assert finding.before == largest or finding.before < 100


@pytest.mark.parametrize("scale", [1.0, 2.0**24])
def test_loss_scale_overflows_float16(scale):
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(2, name="head")], name="net"
    )
    optimizer = LossScaleOptimizer("sgd", initial_scale=scale)
    model.compile(optimizer, "mse")
    finding = find_nonfinite(model, X, Y)
    if scale == 1.0:
        assert finding is None
        return
    assert told(finding)[::2] == ("gradient of activation", "net/head")
    assert finding.dtype == "float16" and not optimizer.built


def test_weights_are_those_that_are_stored():
    """A cast to float16 may overflow: then the activation does."""
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(2, dtype="mixed_float16", name="head"),
        ],
        name="net",
    )
    model.layers[0].kernel.assign(np.full([4, 2], 1e5))
    found = find_nonfinite(model, X)
    assert told(found) == ("activation", "", "net/head")
    assert found.before == 1e5


def test_scaled_loss():
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
    model.compile(
        LossScaleOptimizer("sgd", initial_scale=2.0**40, bounds=(1.0, 2.0**40)),
        "mse",
    )
    finding = find_nonfinite(model, X, 1e14 * Y)
    assert finding.tensor == "scaled loss" and finding.before > 1e27


def shared_model():
    """Two inputs, two outputs, two losses; one layer is called twice."""
    left, right = keras.Input([4], name="left"), keras.Input([4], name="right")
    shared = keras.layers.Dense(3, name="shared")
    fault = Fault(name="fault")
    sides = [shared(left), fault(shared(right))]
    both = keras.layers.Concatenate(name="both")(sides)
    outputs = {
        "a": keras.layers.Dense(1, name="a")(sides[0]),
        "b": keras.layers.Dense(1, name="b")(both),
    }
    model = keras.Model({"left": left, "right": right}, outputs, name="two")
    model.compile("adam", {"a": "mse", "b": "mae"}, loss_weights=[1.0, 2.0])
    return model, fault


def test_dictionaries_and_a_shared_layer():
    model, fault = shared_model()
    x, y = {"left": X, "right": X}, {"a": Y[:, :1], "b": Y[:, 1:]}
    names = model.metrics_names
    assert find_nonfinite(model, x, y) is None
    assert model.metrics_names == names
    found = find_nonfinite(model, {**x, "right": X * NAN}, y)
    assert told(found) == ("input data", "right", "")
    found = find_nonfinite(model, x, {**y, "b": y["b"] * NAN})
    assert told(found) == ("label", "b", "")
    large = {**x, "right": np.full_like(X, 3e38)}
    model.get_layer("shared").kernel.assign(np.ones([4, 3]))
    found = find_nonfinite(model, large, y)
    assert told(found) == ("activation", "", "two/shared")
    fault.gradient = NAN  # so is the shared kernel's gradient, later
    found = find_nonfinite(model, x, y)
    assert told(found) == ("gradient of input", "", "two/fault")


class Twice(keras.layers.Layer):
    def __init__(self):
        super().__init__(name="twice")
        self.shared = keras.layers.Dense(4, name="shared")
        self.fault = Fault(name="fault")

    def call(self, x):
        return self.fault(self.shared(x)) + self.shared(x)


def test_gradient_of_a_shared_weight_is_done_at_its_first_call():
    twice = Twice()
    model = keras.Sequential([keras.Input([4]), twice], name="net")
    model.compile("sgd", "mse")
    twice.fault.gradient = NAN
    found = find_nonfinite(model, X, X)
    assert told(found) == ("gradient of input", "", "net/twice/fault")


def test_input_made_between_layers():
    inputs = keras.Input([4])
    x = keras.ops.log(keras.layers.Dense(3, "relu", name="before")(inputs))
    x = keras.layers.Concatenate(name="pair")([x, inputs])
    model = keras.Model(inputs, x, name="net")
    found = find_nonfinite(model, X * 0)
    assert told(found) == ("input", "0/0", "net/pair")
    assert found.infinities == found.shape[0] * 3


class Sees(keras.layers.Layer):
    """Passes on, and records, what else a step has."""

    factor = 1.0
    error = None

    def call(self, x, training=None, mask=None):
        if self.error is not None:
            raise self.error
        if tf.executing_eagerly():
            self.seen = training, mask.numpy().tolist()
        self.add_loss(self.factor * keras.ops.mean(x))
        return x + keras.random.normal(keras.ops.shape(x), stddev=1e-3)


class Holds(keras.layers.Layer):
    """Has no mask itself: its sublayer finds it on the tensor."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


@pytest.fixture(scope="module")
def sequences():
    sees = Sees(name="sees")
    inner = keras.Sequential(
        [keras.layers.Dropout(0.5), keras.layers.BatchNormalization()]
    )
    model = keras.Sequential(
        [
            keras.Input([3], dtype="int32"),
            keras.layers.Embedding(5, 4, mask_zero=True),
            keras.layers.TimeDistributed(inner),
            keras.layers.LSTM(
                4, dropout=0.5, recurrent_dropout=0.5, return_sequences=True
            ),
            Holds(sees),
        ],
        name="net",
    )
    model.compile("adam", run_eagerly=True)  # the layer has the loss
    return model, sees


IDS = np.array([[1, 2, 0], [3, 0, 0]])


def test_masks_loops_and_losses_of_layers(sequences):
    model, sees = sequences
    model(IDS)
    before = [v.numpy().tobytes() for v in model.variables]
    losses = model.losses
    assert find_nonfinite(model, IDS) is None
    assert sees.seen == (True, (IDS > 0).tolist())
    assert [v.numpy().tobytes() for v in model.variables] == before
    assert all(a is b for a, b in zip(model.losses, losses, strict=True))
    sees.factor = NAN
    assert told(find_nonfinite(model, IDS)) == ("loss", "", "")
    sees.factor = 1.0
    cell = model.layers[2].cell
    kernel = cell.recurrent_kernel.numpy()
    cell.recurrent_kernel.assign(kernel * NAN)
    found = find_nonfinite(model, IDS)
    cell.recurrent_kernel.assign(kernel)
    assert told(found)[:2] == ("weight", cell.recurrent_kernel.path)


def test_global_seed_is_kept(sequences):
    model, _ = sequences
    keras.utils.set_random_seed(1)
    first = keras.random.normal([4]).numpy()
    keras.utils.set_random_seed(1)
    find_nonfinite(model, IDS)
    assert np.array_equal(keras.random.normal([4]).numpy(), first)


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_error_restores_all(sequences, error):
    model, sees = sequences
    model(IDS)
    before = [v.numpy().tobytes() for v in model.variables]
    sees.error = error
    with pytest.raises(type(error)):
        find_nonfinite(model, IDS)
    sees.error = None
    assert [v.numpy().tobytes() for v in model.variables] == before
    assert not any("call" in vars(x) for x in model._flatten_layers())
    assert find_nonfinite(model, IDS) is None


def test_finding_goes_before_the_error_of_a_check(net, fault):
    head = net.get_layer("head")
    kept = head.call
    vars(head)["call"] = lambda x: kept(tf.debugging.check_numerics(x, "bad"))
    own = vars(head)["call"]
    fault.value = NAN
    found = find_nonfinite(net, X, Y)
    assert told(found) == ("activation", "", "net/inner/f")
    assert vars(head).pop("call") is own


def test_gradients_that_no_step_computes_do_not_count(net, fault):
    fault.gradient = NAN
    for name in ("first", "norm", "inner"):
        net.get_layer(name).trainable = False
    found = find_nonfinite(net, X, Y)
    for name in ("first", "norm", "inner"):
        net.get_layer(name).trainable = True
    assert found is None
    assert find_nonfinite(net, X, Y) is not None


def test_averages_count_where_they_are_read(net):
    norm = net.get_layer("norm")
    before = norm.moving_variance.numpy()
    norm.trainable = False
    norm.moving_variance.assign(before * NAN)
    found = find_nonfinite(net, X, Y)
    norm.trainable = True
    norm.moving_variance.assign(before)
    assert told(found)[:2] == ("weight", norm.moving_variance.path)


def test_float8_saturates_and_is_seen():
    model = keras.Sequential(
        [
            keras.Input([16]),
            tfmp.layers.Dense(16, name="one", dtype="mixed_float8"),
            Fault(name="fault", dtype="mixed_bfloat16"),
            tfmp.layers.Dense(16, name="two", dtype="mixed_float8"),
        ],
        name="net",
    )
    model.compile(LossScaleOptimizer("sgd"), "mse")
    x = np.ones([4, 16], "float32")
    before = [v.numpy().tobytes() for v in model.variables]
    assert find_nonfinite(model, x, x) is None
    model.layers[1].value = INF
    found = find_nonfinite(model, x, x)
    assert told(found) == ("activation", "", "net/fault")
    assert found.dtype == "bfloat16"
    model.layers[1].value, model.layers[1].gradient = 0.0, INF
    found = find_nonfinite(model, x, x)
    assert told(found) == ("gradient of input", "", "net/fault")
    assert [v.numpy().tobytes() for v in model.variables] == before
    # Of state that is not finite a product takes nothing.
    model.layers[1].gradient = 0.0
    model.layers[0].float8.assume([1.0, NAN, INF])
    assert find_nonfinite(model, x, x) is None


class Hidden(keras.layers.Layer):
    """Multiplies in FP8 what only a function of TensorFlow sees."""

    def build(self, shape):
        self.low = tfmp.layers.Dense(4, name="low", dtype="mixed_float8")
        self.low.build(shape)
        self.times = tf.Variable(1.0)

        @tf.function(autograph=False)
        def run(x):
            return self.low(x * self.times, training=True)

        self.run = run

    def call(self, x):
        return self.run(x)


def test_what_saturates_out_of_sight_is_found():
    model = keras.Sequential([keras.Input([4]), Hidden(name="h")], name="net")
    model.compile("sgd", "mse")
    layer, x = model.layers[0], np.ones([2, 4], "float32")
    model.train_on_batch(x, x)
    assert find_nonfinite(model, x, x) is None
    layer.times.assign(INF)
    found = find_nonfinite(model, x, x)
    state = layer.low.float8.variable
    assert told(found) == ("observed amax", state.path, "net/h/low")
    assert found.first == (0,)
    model.train_on_batch(x, x)
    layer.times.assign(1.0)
    assert find_nonfinite(model, x, x) is None  # what was seen before is past


def test_sparse_inputs_and_no_loss():
    model = keras.Sequential(
        [keras.Input([4], sparse=True), keras.layers.Dense(2, name="head")],
        name="net",
    )
    x = tf.sparse.from_dense(X)
    assert find_nonfinite(model, x, Y) is None  # not compiled
    model.compile("sgd", "mse")
    assert find_nonfinite(model, x, Y) is None
    found = find_nonfinite(model, x * NAN, Y)
    assert told(found) == ("input data", "", "")
    found = find_nonfinite(model, x, Y * 3e38)
    assert found.tensor == "label"


def test_bad_arguments(net):
    with pytest.raises(TypeError, match=r"`model` must be .* Received: 3"):
        find_nonfinite(3, X)
    with pytest.raises(ValueError, match=r"`x` must be .* Received: None"):
        find_nonfinite(net, None)
    for x in ([[1.0, 2.0]], object(), "text"):
        with pytest.raises(TypeError, match=r"`x` must be .* Received: "):
            find_nonfinite(net, x)
    with pytest.raises(TypeError, match=r"`sample_weight` .* Received: 1.0"):
        find_nonfinite(net, X, Y, 1.0)
    fresh = keras.Sequential([keras.layers.Dense(1)], name="fresh")
    with pytest.raises(ValueError, match=r"`model` must be built.*'fresh'"):
        find_nonfinite(fresh, X)


def scaled(scale, policy="float32", built=True, dynamic=True):
    """A model whose loss is scaled, with bounds that leave room."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(2, name="head", dtype=policy),
            Fault(name="f"),
        ],
        name="net",
    )
    optimizer = LossScaleOptimizer("sgd", initial_scale=scale, dynamic=dynamic)
    model.compile(optimizer, "mse", run_eagerly=True)
    if built:
        optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_the_loss_scale_alone_is_at_fault(built, dynamic):
    model = scaled(2.0**24, "mixed_float16", built, dynamic)
    found = find_nonfinite(model, X, Y)
    assert found.tensor == "gradient of activation"
    assert found.layer == "net/head" and found.by_scale_alone
    assert str(found).endswith(
        "; without the loss scale, 1.67772e+07, all is finite"
    )
    if dynamic:
        model.optimizer.scale_loss(1.0)  # the variable is there by now
        model.optimizer.dynamic_scale.assign(8.0)
        assert find_nonfinite(model, X, Y) is None


def test_the_loss_scale_is_not_at_fault():
    model = scaled(8.0)
    model.get_layer("f").gradient = NAN
    found = find_nonfinite(model, X, Y)
    assert found.tensor == "gradient of input"
    assert (found.loss_scale, found.by_scale_alone) == (8.0, False)
    assert str(found).endswith("; without the loss scale, 8, it is no better")
    model.get_layer("f").value = NAN
    found = find_nonfinite(model, X, Y)
    assert found.loss_scale == 1.0 and "loss scale" not in str(found)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_finite_gradients_that_are_too_large(policy, scale):
    """What is found is what makes the optimizer skip, and nothing else."""
    for size, skipped in ((1e18, 0), (1e19, 1)):
        model = scaled(scale, policy)
        model.get_layer("f").gradient = size * scale
        x = np.ones([8, 4], "float32")
        found = find_nonfinite(model, x, Y)
        model.train_on_batch(x, Y)
        assert model.optimizer.statistics["skipped_steps"] == skipped
        assert isinstance(found, TooLarge) == bool(skipped)
    assert (found.name, found.layer) == ("net/head/kernel", "net/head")
    assert found.largest == pytest.approx(1e19, rel=2.0**-8)
    assert found.limit == pytest.approx(np.sqrt(3.4028e38 / 10), rel=1e-3)
    assert str(found).startswith("all values are finite, but a gradient is")
    model.compile("sgd", "mse")  # which skips no step
    assert find_nonfinite(model, x, Y) is None


def test_sparse_gradients_that_are_too_large():
    layers = [
        keras.Input([2], dtype="int32"),
        keras.layers.Embedding(9, 2, name="e"),
        Fault(name="f"),
    ]
    model = keras.Sequential(layers, name="net")
    model.compile(LossScaleOptimizer("sgd"), "mse", run_eagerly=True)
    x, y = np.array([[0, 3], [5, 3]]), np.zeros([2, 2, 2], "float32")
    assert find_nonfinite(model, x, y) is None
    model.get_layer("f").gradient = 1e30
    found = find_nonfinite(model, x, y)
    assert isinstance(found, TooLarge) and found.layer == "net/e"
    assert found.shape == (9, 2)


def test_nothing_comes_before_data(net):
    text = str(find_nonfinite(net, X, spoilt(Y, (7, 1), -INF)))
    assert text == (
        "first non-finite value: label, float32 [8, 2]: 0 NaN, 1 infinite, "
        "first at [7, 1]"
    )


def test_sentence_and_error(net, fault):
    fault.value = -INF
    finding = find_nonfinite(net, X, Y)
    text = str(finding)
    assert text.startswith(
        "first non-finite value: activation of layer 'net/inner/f' (Fault), "
        "float32 [8, 5]: 0 NaN, 1 infinite, first at [0, 1]; largest "
        "magnitude just before: "
    )
    assert isinstance(finding, NonFinite)
    error = NonFiniteError("words", finding, 3)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(error, FloatingPointError)
    assert (str(again), again.finding, again.step) == ("words", finding, 3)
