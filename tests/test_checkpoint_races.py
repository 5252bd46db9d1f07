"""Several that save to one path, and others that load from it meanwhile."""

from __future__ import annotations

import threading

import keras
import numpy as np

from tfmp import checkpoints
from tfmp._support import sealed_files

SAVES = 60


def make():
    model = keras.Sequential([keras.Input([64]), keras.layers.Dense(64)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def fill(model, value):
    for variable in model.weights:
        variable.assign(np.full(variable.shape, value))


def run(*jobs):
    """Runs all at once; raises what one of them raised."""
    errors = []

    def guarded(job):
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_two_writers_and_two_readers(tmp_path):
    path = tmp_path / "a.weights.h5"
    models = [make() for _ in range(4)]
    fill(models[0], 0)
    checkpoints.save_weights(models[0], path, {"step": 0})
    writers, done = [], threading.Event()

    def write(model, first):
        for step in range(first, 2 * SAVES, 2):
            fill(model, step)
            checkpoints.save_weights(model, path, {"step": step})
        writers.append(first)
        if len(writers) == 2:
            done.set()

    loads = []

    def read(model):
        while not done.is_set():
            step = checkpoints.load_weights(model, path)["step"]
            for variable in model.weights:
                assert (variable.numpy() == step).all()
            loads.append(step)

    run(
        lambda: write(models[0], 0),
        lambda: write(models[1], 1),
        lambda: read(models[2]),
        lambda: read(models[3]),
    )
    assert len(set(loads)) > 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_is_replaced_while_it_is_read_is_read_to_its_end(
    tmp_path, monkeypatch
):
    path = tmp_path / "a.weights.h5"
    model, other = make(), make()
    steps = iter(range(1, 1000))

    def save():
        step = next(steps)
        fill(model, step)
        checkpoints.save_weights(model, path, {"step": step})

    save()
    read = sealed_files.read

    def read_and_replace(file, path):
        found = read(file, path)
        save()
        return found

    monkeypatch.setattr(sealed_files, "read", read_and_replace)
    assert checkpoints.load_weights(other, path) == {"step": 1}
    assert all((v.numpy() == 1).all() for v in other.weights)
