"""tfmp.set_precision, and maps of policies, on models that are training."""

import keras
import models
import numpy as np
import pytest
import tensorflow as tf

import tfmp
from tfmp.layers.float8_state import all_states
from tfmp.optimizers import LossScaleOptimizer


def compiled(**options):
    """To run eagerly, where XLA compiles an FP8 product only once."""
    model = models.sequential()
    tfmp.convert(model)
    options = options or {"run_eagerly": True}
    model.compile(LossScaleOptimizer("sgd", dynamic=False), "mse", **options)
    return model


def fit(model, **options):
    x, y = models.data()
    return model.fit(x, y, 8, verbose=0, shuffle=False, **options)


def precisions(model):
    rows = tfmp.ConversionReport(model).rows
    return {row.path.rpartition("/")[2]: row.precision for row in rows}


def test_a_layer_leaves_fp8_and_comes_back():
    model = compiled()
    fit(model)
    dense = model.layers[0]
    state, kernel = dense.float8, dense.kernel.numpy()
    observed = dense.amax.numpy()
    assert (observed > 0).all()
    tfmp.set_precision(model, {"dense.*": "mixed_bfloat16"})
    assert dense.amax is None and dense.compute_dtype == "bfloat16"
    assert len(all_states(model)) == 1 and state not in all_states(model)
    np.testing.assert_array_equal(kernel, dense.kernel)
    fit(model)
    np.testing.assert_array_equal(observed, state.amax)
    tfmp.set_precision(model, {"dense.*": "mixed_float8"})
    assert dense.float8 is state and state in all_states(model)
    np.testing.assert_array_equal(observed, dense.amax)
    fit(model)
    assert (observed != dense.amax.numpy()).any()


def test_what_is_not_named_stays():
    model = compiled()
    before = precisions(model)
    report = tfmp.set_precision(model, {"dense.*": "float32"})
    after = precisions(model)
    dense = next(name for name in after if name.startswith("dense"))
    assert before.pop(dense) == "float8" and after.pop(dense) == "float32"
    assert before == after and report.notes == ()


def test_float32_is_float32():
    """Also for a layer that was built under FP8, and for its kernel."""
    model, plain = models.sequential(), models.sequential()
    plain.set_weights(model.get_weights())
    tfmp.convert(model)
    tfmp.set_precision(model, "float32")
    x, _ = models.data()
    np.testing.assert_array_equal(model(x), plain(x))


@pytest.mark.slow
def test_between_epochs_from_a_callback():
    model = compiled(jit_compile=True)
    traces = []

    def change(epoch, logs):
        if epoch == 1:
            tfmp.set_precision(model, {".*": "mixed_bfloat16"})
        traces.append(model.train_function)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=change)
    losses = fit(model, epochs=4, callbacks=[callback]).history["loss"]
    assert losses[3] < losses[0]
    assert traces[0] is not traces[1] is traces[2] is traces[3]
    assert set(precisions(model).values()) == {"bfloat16"}
    assert int(model.optimizer.iterations) == 16


def test_the_inner_optimizer_keeps_its_state(tmp_path):
    model = compiled()
    inner = keras.optimizers.Adam(0.01)
    model.compile(LossScaleOptimizer(inner), "mse", run_eagerly=True)
    fit(model)
    state = [v.numpy() for v in inner.variables]
    scale = float(model.optimizer.dynamic_scale)
    tfmp.set_precision(model, {"einsum.*": "mixed_bfloat16"})
    for a, b in zip(state, inner.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(model.optimizer.dynamic_scale) == scale
    checkpoint = tf.train.Checkpoint(model=model)
    assert checkpoint.save(tmp_path / "c")
    rows = model.optimizer.amax_history.shape[1]
    assert rows == 1 and (model.optimizer.amax_history.numpy()[:4] > 0).all()
    fit(model)
    tfmp.set_precision(model, {"einsum.*": "mixed_float8"})
    assert checkpoint.save(tmp_path / "c")
    fit(model)
    assert (model.optimizer.amax_history.numpy()[:4] > 0).all()


def test_nothing_is_left_after_revert():
    model = compiled()
    fit(model)
    assert len(all_states(model)) == 2
    tfmp.revert(model)
    assert not all_states(model)
    assert model.optimizer.amax_history.shape[1] == 0
    monitor = tfmp.callbacks.ScaleMonitor()
    with pytest.warns(RuntimeWarning, match="No layer of the model"):
        fit(model, callbacks=[monitor])
    assert not [name for name in monitor.samples[-1] if "amax" in name]


def test_a_recipe_can_change_too():
    model = compiled()
    fit(model)
    tfmp.set_precision(model, tfmp.Policy("mixed_float8", "current"))
    assert all(
        layer.recipe == tfmp.recipes.CurrentScaling()
        for layer in model.layers
        if hasattr(layer, "recipe")
    )
    fit(model)


def test_names_that_nothing_has_are_reported():
    model = compiled()
    with pytest.warns(UserWarning, match="no layer has a path like haed"):
        report = tfmp.set_precision(model, {"haed": "float32"})
    assert "haed" in str(report)


@pytest.mark.parametrize("filter", ["al", ["hidden", "al"]])
def test_a_filter_that_no_layer_has_a_path_like(filter):
    with pytest.warns(UserWarning, match="no layer has a path like"):
        report = tfmp.convert(compiled(), filter=filter)
    assert "no layer has a path like" in str(report)


def test_a_map_for_convert():
    model = models.subclassed()
    choice = tfmp.PrecisionMap(
        {"first/attention": "mixed_bfloat16", "conv": "float32"},
        default="mixed_float8",
    )
    report = tfmp.convert(model, choice)
    rows = {row.path.split("/", 1)[1]: row.precision for row in report.rows}
    assert rows["first/attention/query"] == "bfloat16"
    assert rows["second/attention/query"] == rows["first/wide"] == "float8"
    assert rows["conv"] == "float32"


def test_a_map_as_global_policy_and_as_dtype():
    choice = tfmp.PrecisionMap({"head": "float32"}, default="mixed_float8")
    with tfmp.policy_scope(choice, convert="all"):
        model = keras.Sequential(
            [
                keras.Input([16]),
                keras.layers.Dense(16, name="body"),
                keras.layers.Dense(4, name="head"),
            ]
        )
    assert precisions(model) == {"body": "float8", "head": "float32"}
    layer = tfmp.layers.Dense(4, name="head", dtype=choice)
    layer.build([None, 8])
    assert layer.recipe is None and layer.compute_dtype == "float32"
