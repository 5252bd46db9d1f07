"""Plants bad values everywhere in a training, and looks at what comes after.

    python benchmarks/inject_faults.py --json benchmarks/results/faults.json

For every policy and recipe, with `jit_compile` on and off: NaN, infinities, a
huge and tiny values are planted in the inputs, the labels, each weight, each
activation and each gradient of a model, at step 0, 1 and later, each once.
After every planted fault:

- all state is finite: weights, averages, amax, history, slots, loss scale;
- a skipped step has changed nothing but the loss scale and the counters (and,
  with the loss scale, the gradients' amax), and the next good step does what
  it would have done without, to 2**-7 of a weight and a learning rate;
- after a step that was not skipped, and RECOVERY good ones, every amax is
  within a factor of 8 of where it would have been, and the loss below what it
  was, or not much above what it would have been (bfloat16 variables hardly
  move).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfmp
from tfmp._core.observations import ASSUMED, TURN

WINDOW = 4
# A huge value leaves the window; then each layer in turn, as it is no longer
# fed what the one before flushed to zero, sees its usual values again.
RECOVERY = WINDOW + 8
KINDS = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "huge": 3e38,
    "tiny": 1e-30,
}
TIMES = (0, 1, 3)
RECIPES = {
    "delayed": tfmp.recipes.DelayedScaling(amax_history_len=WINDOW),
    "delayed, E4M3": tfmp.recipes.DelayedScaling(
        amax_history_len=WINDOW, fp8_format="E4M3"
    ),
    "delayed, most recent": tfmp.recipes.DelayedScaling(
        amax_history_len=WINDOW, amax_compute_algo="most_recent"
    ),
    "delayed, current inputs, margin 1, FP8 attention": (
        tfmp.recipes.DelayedScaling(
            amax_history_len=WINDOW,
            current=("inputs",),
            margin=1,
            attention=True,
        )
    ),
    "current": tfmp.recipes.CurrentScaling(),
}
POLICIES = {
    **{name: tfmp.Policy("mixed_float8", r) for name, r in RECIPES.items()},
    **{
        name: tfmp.Policy(name)
        for name in (
            "mixed_bfloat16",
            "mixed_float16",
            "bfloat16",
            "float16",
            "float32",
        )
    },
}
MAY_CHANGE = (
    "dynamic_scale",
    "step_counter",
    "skipped_steps",
    "overflow_count",
    "skipped_in_a_row",
    "steps_since_overflow",
    "overflows_since_growth",
)


class Tap(keras.layers.Layer):
    """The identity, until a value is put into `activation` or `gradient`.

    A value below 1e-6 multiplies the whole tensor, any other takes the place
    of its first element; 0 is none.
    """

    def build(self, shape):
        for name in ("activation", "gradient"):
            self.add_weight(
                name=name, shape=(), initializer="zeros", trainable=False,
                dtype="float32", autocast=False,
            )  # fmt: skip

    def call(self, x):
        forward, backward = map(tf.convert_to_tensor, self.weights)

        @tf.custom_gradient
        def run(x):
            return planted(x, forward), lambda dy: planted(dy, backward)

        return run(x)


def planted(x: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Returns `x` with a value planted; see `Tap`."""
    low = tf.cast(value, x.dtype)
    first = tf.reshape(tf.range(tf.size(x)) == 0, tf.shape(x))
    bad = tf.where(tf.abs(value) < 1e-6, x * low, tf.where(first, low, x))
    return tf.where(value == 0, x, bad)


def make_model(policy: keras.DTypePolicy, jit: bool, depth: int) -> keras.Model:
    """Returns a compiled model; `depth` kinds of layer, with a tap each."""
    keras.utils.set_random_seed(0)
    kinds = [
        tfmp.layers.Dense(16, "gelu", dtype=policy),
        tfmp.layers.BatchNormalization(dtype=policy),
        tfmp.layers.EinsumDense("abc,cd->abd", (None, 16), dtype=policy),
        tfmp.layers.Conv1D(16, 3, padding="same", dtype=policy),
        tfmp.layers.MultiHeadAttention(2, 8, dtype=policy),
    ]
    inputs = x = keras.Input([6, 16])
    for number, layer in enumerate([*kinds[:depth], kinds[0]]):
        if number == depth:
            layer = tfmp.layers.Dense(4, dtype=policy)
        attends = isinstance(layer, keras.layers.MultiHeadAttention)
        x = layer(x, x) if attends else layer(x)
        x = Tap(name=f"tap_{number}", dtype=policy)(x)
    model = keras.Model(inputs, x)
    # Adam's own 1e-7 is zero in variables of float16: it diverges by itself.
    epsilon = 1e-4 if policy.name == "float16" else 1e-7
    inner = keras.optimizers.Adam(1e-3, epsilon=epsilon, global_clipnorm=1.0)
    optimizer = tfmp.optimizers.LossScaleOptimizer(inner, 2.0**8)
    model.compile(optimizer, "mse", jit_compile=jit)
    optimizer.build(model.trainable_variables)
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    """Returns one batch; a training repeats it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=[8, 6, 16]).astype("float32")
    return x, np.tanh(x[..., :4])


def spoil(array: np.ndarray, value: float) -> np.ndarray:
    """Returns a copy of an array with a value planted, as `Tap` does."""
    bad = np.array(array * (value if abs(value) < 1e-6 else 1))
    if not abs(value) < 1e-6:
        with np.errstate(over="ignore"):  # float16 has no 3e38
            bad.flat[0] = value
    return bad.astype(array.dtype)


class Trial:
    """One model, and what its training is without faults."""

    def __init__(self, policy: str, jit: bool, depth: int = 5) -> None:
        self.model = make_model(POLICIES[policy], jit, depth)
        self.batch = data()
        found = [*self.model.variables, *self.model.optimizer.variables]
        self.taps = [v for v in found if "/tap_" in f"/{v.path}"]
        held = {id(v) for v in self.taps}
        self.state = {
            f"{n} {v.path}": v for n, v in enumerate(found) if id(v) not in held
        }
        self.weights = self.model.trainable_variables
        self.clean, self.losses = [self.read()], []
        for _ in range(max(TIMES) + RECOVERY + 1):
            self.losses.append(self.step())
            self.clean.append(self.read())

    def read(self) -> dict[str, np.ndarray]:
        return {path: v.numpy() for path, v in self.state.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        for path, variable in self.state.items():
            variable.assign(state[path])

    def step(self, batch: tuple | None = None) -> float:
        """Takes one training step, as `fit` does, and returns the loss."""
        return float(self.model.train_on_batch(*(batch or self.batch)))

    def sites(self) -> dict[str, object]:
        """Returns every place for a fault: 0 and 1 are inputs and labels."""
        taps = {f"{v.path}": v for v in self.taps}
        weights = {f"weight {v.path}": v for v in self.weights}
        return {"inputs": 0, "labels": 1, **weights, **taps}

    def plant(self, site: object, value: float) -> None:
        """Takes a step with a fault, which is gone after it."""
        batch = list(self.batch)
        if isinstance(site, int):
            batch[site] = spoil(batch[site], value)
            self.step(tuple(batch))
            return
        before = site.numpy()
        site.assign(spoil(before, value) if before.shape else value)
        bad = site.numpy()
        self.step(tuple(batch))
        with np.errstate(invalid="ignore"):
            moved = site.numpy().astype("f8") - bad.astype("f8")
        moved = np.where(np.isfinite(moved), moved, 0.0)
        site.assign(before + moved if before.shape else before)

    def run(self, site: object, value: float, time: int) -> tuple[str, list]:
        """Plants one fault; returns `skipped` or `applied`, and complaints."""
        self.restore(self.clean[time])
        self.plant(site, value)
        skipped = int(self.model.optimizer.skipped_in_a_row) == 1
        after = self.read()
        bad = _not_finite(after)
        if skipped:
            bad += self.changed(self.clean[time], after)
            self.step()
            bad += self.astray(self.clean[time + 1])
            return "skipped", bad
        for _ in range(RECOVERY):
            loss = self.step()
        bad += _not_finite(self.read())
        bad += self.frozen(self.clean[time + RECOVERY + 1])
        before, clean = self.losses[time], self.losses[time + RECOVERY]
        if not (loss < before or loss < 1.25 * clean):
            bad.append(f"loss {loss:.3g}, {before:.3g}, or {clean:.3g}")
        return "applied", bad

    def changed(self, before: dict, after: dict) -> list[str]:
        """Names what a skipped step changed, and should not have."""
        scale = next(p for p in before if p.endswith("/dynamic_scale"))
        roles = np.float32([1, 1, after[scale] / before[scale]])
        found = []
        for path, old in before.items():
            if path.endswith(MAY_CHANGE):
                continue
            new, due = after[path], old * roles if "amax" in path else old
            if path.endswith("/amax"):  # all but which pass it was
                new, due = new[:TURN], due[:TURN]
            if due.tobytes() != new.tobytes():
                found.append(f"changed by a skipped step: {path}")
        return found

    def astray(self, clean: dict[str, np.ndarray]) -> list[str]:
        """Names the weights that the step after a skipped one moved wrong."""
        found, now = [], self.read()
        names = {v.path for v in self.weights}
        for path, due in clean.items():
            if path.split(" ", 1)[1] in names:
                error = np.abs(now[path].astype("f4") - due.astype("f4")).max()
                if not error < 1e-3 + 2**-7 * np.abs(due).max():
                    found.append(f"went astray by {error:.2g}: {path}")
        return found

    def frozen(self, clean: dict[str, np.ndarray]) -> list[str]:
        """Names the scales that are not where they would have been."""
        found, now = [], self.read()
        for path, due in clean.items():
            if not path.endswith("/amax"):
                continue
            mine, due = now[path][ASSUMED], due[ASSUMED]
            ratio = mine[due > 0] / due[due > 0]
            if not (np.all(ratio < 8) and np.all(ratio > 1 / 8)):
                found.append(f"scale off by {ratio}: {path}")
        return found


def _not_finite(state: dict[str, np.ndarray]) -> list[str]:
    finite = {p: np.isfinite(v.astype("f8")).all() for p, v in state.items()}
    return [f"not finite: {path}" for path, good in finite.items() if not good]


def campaign(policy: str, jit: bool, depth: int = 5) -> dict[str, object]:
    """Plants every fault in one kind of model."""
    trial, start = Trial(policy, jit, depth), time.time()
    counts, complaints = collections.Counter(), []
    for name, site in trial.sites().items():
        for kind, value in KINDS.items():
            for moment in TIMES:
                outcome, bad = trial.run(site, value, moment)
                counts[outcome] += 1
                at = f"{kind} in {name} at step {moment}"
                complaints += [f"{at} ({outcome}): {b}" for b in bad]
    return {"runs": sum(counts.values()), **counts,
            "sites": len(trial.sites()), "complaints": complaints,
            "seconds": round(time.time() - start)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", nargs="*", default=list(POLICIES))
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    results = {}
    for policy in options.policies:
        for jit in (False, True):
            name = f"{policy}{', jit' if jit else ''}"
            results[name] = found = campaign(policy, jit, options.depth)
            print(name, {k: v for k, v in found.items() if k != "complaints"})
            print(*found["complaints"][:8], sep="\n", flush=True)
    if options.json:
        about = {"date": time.strftime("%Y-%m-%d"),
                 "machine": platform.machine(), "cores": os.cpu_count(),
                 "tensorflow": tf.__version__, "keras": keras.__version__,
                 "faults": list(KINDS), "steps": TIMES}  # fmt: skip
        text = json.dumps({**about, "results": results}, indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
