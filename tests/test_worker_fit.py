"""Keras' `fit` between workers: two real processes, and one that stands in.

The reference is `MirroredStrategy` over two devices of one process, where
Keras' own `fit` works: a sum of two gradients is the same in either order.
"""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf

import tfmp
from tfmp._keras import replicas as strategies
from tfmp.callbacks import backup_checks

FITS = ("fits", "fits_with_callbacks", "batches")
POLICIES = ("mixed_float8", "mixed_float16")


def workers() -> list[dict[str, Any]]:
    return replicas.workers(2, *FITS, "refusals")


def of_all(processes: list[dict[str, Any]], *names: str) -> list[Any]:
    """Returns what each of some processes has under a name."""
    for name in names:
        processes = [each[name] for each in processes]
    return processes


def nans_as_text(found: Any) -> str:
    """NaN is not equal to itself."""
    return json.dumps(found, sort_keys=True)


@pytest.fixture
def alone(monkeypatch):
    """A strategy of one device that is taken for one of several workers."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    monkeypatch.setattr(
        strategies, "between_workers", lambda other: other is strategy
    )
    return strategy


def test_fit_is_that_of_keras(alone, monkeypatch):
    """The ways that are taken between workers, and Keras' own without them."""
    x, found = np.ones([8, 4], "float32"), []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        with alone.scope():
            layer = tfmp.layers.Dense(1, dtype="mixed_bfloat16")
            model = keras.Sequential([keras.Input([4]), layer])
            model.compile("adam", "mse", jit_compile=False)
        history = model.fit(x, x[:, :1], 4, verbose=0).history
        found.append((history, model.predict(x, verbose=0).tolist()))
        monkeypatch.undo()
    assert found[0] == found[1]


def test_integers_of_all_workers(alone):
    assert strategies.of_all_workers(alone, [3, 4]) == [[3, 4]]
    single = tf.distribute.get_strategy()
    assert strategies.of_all_workers(single, [3, 4]) == [[3, 4]]


def test_what_is_measured_is_gathered(alone):
    with alone.scope():
        kept = [strategies.local_variable(np.float32([n, 0])) for n in (1, 2)]
    for expected in ([[[1, 0], [2, 0]]], [[[5, 5], [5, 5]]]):
        found = tf.function(strategies.taken)(kept, np.float32([5, 5]))
        assert found.numpy().tolist() == expected


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_other_numbers_of_batches_are_refused(method, monkeypatch):
    model = keras.Sequential([keras.Input([4]), tfmp.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=False)
    monkeypatch.setattr(
        strategies, "of_all_workers", lambda strategy, own: [own, [-1]]
    )
    x = np.ones([8, 4], "float32")
    given = (x,) if method == "predict" else (x, x[:, :1])
    wanted = "`x` must have as many batches.*Received: .* 2, unknown, by worker"
    with pytest.raises(ValueError, match=wanted):
        getattr(model, method)(*given, batch_size=4, verbose=0)


def test_backups_of_other_batches_are_refused(alone, monkeypatch, tmp_path):
    with alone.scope():
        model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
        model.compile("adam", "mse", jit_compile=False)
    monkeypatch.setattr(
        strategies, "of_all_workers", lambda strategy, own: [own, [2, 5]]
    )
    for backups, own in (([], r"\(0, 0\)"), ([tmp_path / "a"], r"\(-1, -1\)")):
        wanted = rf"`backup_dir` must hold.* {own}, \(2, 5\), by worker"
        with pytest.raises(ValueError, match=wanted):
            backup_checks.check_workers(model, backups)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_workers_train_as_replicas_of_one_process(policy):
    found = of_all(workers(), "fits", policy)
    one = replicas.mirrored(2, *FITS)["fits"][policy]
    for each in found:
        assert nans_as_text(each["history"]) == nans_as_text(one["history"])
        for name in ("skipped", "evaluated", "predicted"):
            assert nans_as_text(each[name]) == nans_as_text(one[name])
        assert {**each["hashes"]}.keys() == one["hashes"].keys()
    assert found[0]["skipped"] == (2 if policy == "mixed_float16" else 0)
    check_hashes([each["hashes"] for each in found], one["hashes"])


def check_hashes(
    found: list[dict[str, list[str]]], one: dict[str, list[str]]
) -> None:
    """That all replicas hold the same, and the same as those of one process.

    Random numbers count on each replica for itself.
    """
    for path, (first, second) in one.items():
        own = [part for each in found for part in each[path]]
        assert own == [first, second], path
        assert first == second, path


@pytest.mark.slow
def test_callbacks_see_the_same_on_all_workers():
    found = of_all(workers(), "fits_with_callbacks")
    one = replicas.mirrored(2, *FITS)["fits_with_callbacks"]
    assert len(one["samples"]) >= 3
    for each in found:
        assert each["samples"] == one["samples"]
        assert each["history"] == one["history"]
    check_hashes([each["hashes"] for each in found], one["hashes"])


@pytest.mark.slow
def test_single_batches():
    found = of_all(workers(), "batches")
    one = replicas.mirrored(2, *FITS)["batches"]
    assert [each["trained"] for each in found] == [one["trained"]] * 2
    assert [each["tested"] for each in found] == [one["tested"]] * 2
    check_hashes([each["hashes"] for each in found], one["hashes"])


@pytest.mark.slow
def test_what_does_not_fit_is_said_on_all_workers():
    for found in of_all(workers(), "refusals"):
        assert "`backup_dir` must hold the same backup" in found["backup"]
        assert "backups of (epoch, batch) (1, 0), (0, 0)" in found["backup"]
        for name in ("fit", "evaluate", "predict"):
            assert "numbers of batches 2, 4, by worker" in found[name]
