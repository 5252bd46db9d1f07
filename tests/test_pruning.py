"""`Pruning`: the zeros that a user asked for, in each way to train."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf

import tfmp
from tfmp.callbacks import BackupAndRestore, Pruning, pruning_masks

X = np.random.default_rng(0).normal(size=[64, 16]).astype("float32")
Y = X @ np.random.default_rng(1).normal(size=[16, 4]).astype("float32")
each_policy = pytest.mark.parametrize(
    "policy", ["float32", "mixed_bfloat16", "mixed_float16", "mixed_float8"]
)


def network(policy="float32", jit_compile=True, **dense):
    """Two layers with kernels, one of them of three axes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([16]),
            keras.layers.Dense(16, "relu", name="first", **dense),
            keras.layers.EinsumDense("ab,bcd->acd", [2, 8], name="heads"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="last"),
        ],
        name="net",
    )
    optimizer = keras.optimizers.Adam(0.01)
    if policy != "float32":
        tfmp.convert(model, policy, "all")
        optimizer = tfmp.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def fit(model, *callbacks, epochs=2):
    return model.fit(
        X, Y, 16, epochs, verbose=0, shuffle=False, callbacks=list(callbacks)
    ).history


def zeros(model):
    found = [w for w in model.get_weights() if w.ndim > 1]
    return [float(np.mean(w == 0)) for w in found]


@pytest.mark.slow_but("mixed_float8-True", "mixed_bfloat16-False")
@pytest.mark.parametrize("jit_compile", [True, False])
@each_policy
def test_the_zeros_asked_for(policy, jit_compile):
    model = network(policy, jit_compile)
    fit(model, epochs=1)  # compiled before there was a mask
    pruning = Pruning(0.75, begin=5, end=9, every=2)
    said = fit(model, pruning, epochs=2)["sparsity"]
    assert said == [pytest.approx(pruning.sparsity_at(7), abs=2e-3), 0.75]
    assert zeros(model) == [0.75] * 3
    before = model.get_weights()
    fit(model, epochs=1)  # they stay zero
    assert zeros(model) == [0.75] * 3
    assert not np.array_equal(before[0], model.get_weights()[0])


def test_it_trains_as_by_hand():
    """Bit for bit as Keras' steps, with zeros assigned after each."""
    model, other = network(), network()
    pruning = Pruning(0.6, begin=1, end=6, every=2, scope="layer")
    fit(model, pruning)
    kernels = [w for w in other.trainable_variables if len(w.shape) > 1]
    masks = [np.ones(w.shape, bool) for w in kernels]
    for step in range(8):
        if step in (1, 3, 5, 6):
            masks = [
                smallest(w.numpy(), pruning.sparsity_at(step)) for w in kernels
            ]
        for kernel, mask in zip(kernels, masks, strict=True):
            kernel.assign(np.where(mask, kernel.numpy(), 0))
        batch = slice(16 * (step % 4), 16 * (step % 4 + 1))
        other.train_on_batch(X[batch], Y[batch])
    for kernel, mask in zip(kernels, masks, strict=True):
        kernel.assign(np.where(mask, kernel.numpy(), 0))
    for ours, by_hand in zip(
        model.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, by_hand)


def smallest(kernel, sparsity):
    """The mask, by NumPy."""
    order = np.argsort(np.abs(kernel).ravel(), kind="stable")
    mask = np.ones(kernel.size, bool)
    mask[order[: round(sparsity * kernel.size)]] = False
    return mask.reshape(kernel.shape)


def test_the_schedule():
    pruning = Pruning(0.9, 10, 110, initial_sparsity=0.5)
    found = [pruning.sparsity_at(t) for t in (0, 9, 10, 60, 110, 1000)]
    expected = [0.0, 0.0, 0.5, 0.9 - 0.4 / 8, 0.9, 0.9]
    assert found == pytest.approx(expected)
    assert Pruning(0.3, begin=5).sparsity_at(5) == 0.3


def test_over_the_model_the_smallest_of_all_go():
    model = network()
    first = model.get_layer("first").kernel
    first.assign(first * 1000.0)
    pruning = Pruning(0.5, scope="model")
    fit(model, pruning, epochs=1)
    found = pruning.sparsities()
    assert found["net/first"] == 0.0
    assert found["net/heads"] > 0.8
    sizes = np.array([256, 256, 64])
    assert np.dot(sizes, list(found.values())) == sizes.sum() / 2


@pytest.mark.parametrize("seed", range(5))
def test_masks_are_those_of_numpy(seed):
    random = np.random.default_rng(seed)
    kernel = random.normal(size=[7, 9]).round(1)  # with equal magnitudes
    [mask] = pruning_masks.smallest([tf.constant(kernel)], seed / 5)
    np.testing.assert_array_equal(mask, smallest(kernel, seed / 5))


@pytest.mark.parametrize(
    ("layer", "shape", "order"),
    [
        (keras.layers.Dense(6), [8], (1, 0)),
        (keras.layers.Conv2D(6, 3), [8, 8, 4], (0, 1, 3, 2)),
        (keras.layers.Conv1DTranspose(6, 3), [8, 4], (0, 1, 2)),
        (keras.layers.EinsumDense("abc,bcd->ad", 6), [2, 4], (2, 0, 1)),
        (keras.layers.EinsumDense("ab,bcd->acd", [2, 6]), [8], (1, 2, 0)),
    ],
    ids=["Dense", "Conv2D", "Conv1DTranspose", "two axes", "heads"],
)
def test_two_of_four_that_are_summed_over(layer, shape, order):
    layer.build([None, *shape])
    kernel = layer.kernel.numpy()
    axes = pruning_masks.summed_axes(layer)
    mask = pruning_masks.two_of_four(tf.constant(kernel), axes).numpy()
    fours = np.transpose(np.abs(kernel), order).reshape(-1, 4)
    stays = np.transpose(mask, order).reshape(-1, 4)
    assert (stays.sum(axis=1) == 2).all()
    kept = np.where(stays, fours, np.inf).min(axis=1)
    gone = np.where(stays, -np.inf, fours).max(axis=1)
    assert (gone <= kept).all()


def test_two_of_four_trains_and_says_what_it_leaves():
    model = keras.Sequential(
        [
            keras.Input([16]),
            keras.layers.Dense(6, name="a"),
            keras.layers.Dense(4, name="b"),
        ],
        name="net",
    )
    model.compile("adam", "mse")
    pruning = Pruning(pattern="2:4")
    fit(model, pruning)
    assert pruning.sparsities() == {"net/a": 0.5}
    said = "its product sums over 6, no multiple of 4"
    assert pruning.skipped == {"net/b": said}


def test_a_depthwise_product_has_no_fours():
    model = keras.Sequential(
        [
            keras.Input([16, 1]),
            keras.layers.DepthwiseConv1D(3, depth_multiplier=4, name="deep"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="last"),
        ],
        name="net",
    )
    model.compile("adam", "mse")
    pruning = Pruning(pattern="2:4")
    fit(model, pruning, epochs=1)
    assert list(pruning.sparsities()) == ["net/last"]
    assert pruning.skipped == {"net/deep": "its product sums over no channels"}


def test_an_average_of_weights_is_pruned_too():
    """With which Keras ends a `fit`: it has what the weights were before."""
    model = network()
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse")
    fit(model, Pruning(0.75, begin=5))
    assert zeros(model) == [0.75] * 3


@pytest.mark.slow
def test_replicas_have_the_same_zeros():
    [zeros_of_each] = replicas.mirrored(2, "prune").values()
    assert zeros_of_each == [[0.75] * 2] * 2


def test_only_what_the_filter_has_and_what_can_be_pruned():
    model = network(kernel_constraint="non_neg")
    model.get_layer("last").trainable = False
    model.get_layer("heads").enable_lora(2)
    model.compile("adam", "mse")
    pruning = Pruning(0.5)
    fit(model, pruning)
    assert list(pruning.sparsities()) == ["net/first"]
    assert (model.get_layer("first").kernel.numpy() >= 0).all()
    assert pruning.skipped == {
        "net/heads": "LoRA trains beside it",
        "net/last": "it is frozen",
    }
    with pytest.raises(ValueError, match="`filter` must leave a layer"):
        fit(network(), Pruning(filter="nothing"))


@pytest.mark.slow
def test_a_file_goes_on_with_the_same_zeros(tmp_path):
    model, path = network("mixed_float8"), tmp_path / "model.keras"
    fit(model, Pruning(0.7, 2, 12, 3))
    model.save(path)
    loaded = keras.models.load_model(path)
    for each in (model, loaded):
        pruning = Pruning(0.7, 2, 12, 3)
        fit(each, pruning)
        assert pruning.sparsities()["net/first"] == pytest.approx(0.7, abs=0.01)
    for ours, other in zip(
        model.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, other)


class Killed(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 6:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_float8"])
def test_a_killed_run_goes_on(policy, tmp_path):
    def backup():
        return BackupAndRestore(tmp_path / "backup", save_freq=1)

    whole = network(policy)
    expected = fit(whole, Pruning(0.7, 1, 8, 2), epochs=3)
    killed = network(policy)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, Pruning(0.7, 1, 8, 2), backup(), Killed(), epochs=3)
    resumed = network(policy)
    found = fit(resumed, Pruning(0.7, 1, 8, 2), backup(), epochs=3)
    assert found == expected
    for ours, other in zip(
        whole.get_weights(), resumed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sparsity": 1.0}, "`sparsity` must be"),
        ({"sparsity": "half"}, "`sparsity` must be"),
        ({"begin": -1}, "`begin` must be"),
        ({"begin": 5, "end": 5}, "`end` must be 6 or more"),
        ({"every": 0}, "`every` must be"),
        ({"initial_sparsity": 0.7}, "`initial_sparsity` must be"),
        ({"pattern": "1:4"}, "`pattern` must be one of"),
        ({"scope": "all"}, "`scope` must be one of"),
        ({"pattern": "2:4", "sparsity": 0.6}, "`pattern` '2:4' must have"),
        ({"pattern": "2:4", "end": 6}, "`pattern` '2:4' must have"),
        ({"filter": "auto"}, "`filter` must be a pattern"),
        ({"filter": 3}, "`filter` must be"),
    ],
)
def test_what_is_not_allowed(changed, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Pruning(**changed)
