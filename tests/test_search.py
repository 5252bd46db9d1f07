"""The best precision of each layer: exactly, and never worse than a rule."""

from __future__ import annotations

import itertools
import json
import math
import sys

import keras
import numpy as np
import pytest

import tfmp
from tfmp import analysis
from tfmp.analysis import candidates, costs, knapsack, problems, rules, subjects
from tfmp.analysis.points import LIMITS
from tfmp.conversion.sizes import Sizes

NAMES = ("mixed_float8", "mixed_bfloat16", "float32")
KNOWN = candidates.read(NAMES)


def options(random, layers, choices=3, whole=False):
    """Costs of each layer's options, that of coarse ones in accuracy."""

    def number():
        """From 1e-6 to 1, as losses are, or small integers."""
        if whole:
            return float(random.integers(0, 8))
        return float(10 ** random.uniform(-6, 0))

    return [
        [{name: number() for name in LIMITS} for _ in range(choices)]
        for _ in range(layers)
    ]


def brute_force(table, objective, bounds):
    """The least of an objective within bounds, by trying everything."""
    best = math.inf
    for chosen in itertools.product(*(range(len(own)) for own in table)):
        if knapsack.within(table, chosen, bounds):
            best = min(best, knapsack.total(table, chosen, objective))
    return best


@pytest.mark.parametrize("whole", [False, True], ids=["floats", "ties"])
def test_the_knapsack_is_solved_exactly(whole):
    """Against all choices there are, of 120 problems, some impossible."""
    random = np.random.default_rng(0)
    impossible = 0
    for number in range(60):
        table = options(random, layers=2 + number % 4, whole=whole)
        aim, *rest = random.permutation(LIMITS)
        middle = [knapsack.total(table, [0] * len(table), k) for k in rest]
        bounds = {
            k: float(m * random.uniform(0.2, 1.2))
            for k, m in zip(rest[: 1 + number % 2], middle, strict=False)
        }
        found = knapsack.solve(table, aim, bounds)
        expected = brute_force(table, aim, bounds)
        if found is None:
            impossible += 1
            assert expected == math.inf
        else:
            assert knapsack.within(table, found, bounds)
            total = knapsack.total(table, found, aim)
            assert total == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert 0 < impossible < 50


def test_a_bound_may_be_met_exactly():
    """Sums of tenths are not what they look like, and no tolerance helps."""
    table = [
        [{"time": 0.1, "memory": 1.0}, {"time": 0.1 + 1e-8, "memory": 0.0}]
    ] * 3
    exact = knapsack.total(table, [0, 0, 0], "time")
    assert knapsack.solve(table, "memory", {"time": exact}) == [0, 0, 0]
    above = knapsack.total(table, [0, 1, 0], "time")
    found = knapsack.solve(table, "memory", {"time": above})
    assert sorted(found) == [0, 0, 1]
    assert knapsack.solve(table, "memory", {"time": 0.29}) is None


def problem(random, found):
    """Random costs for the layers of a model."""
    options = [
        {c.name: {k: random.random() for k in LIMITS} for c in KNOWN}
        for _ in found
    ]
    return problems.Problem(found, KNOWN, tuple(options))


@pytest.fixture(scope="module")
def model():
    """Of layers that torchao's rule takes, and others."""
    keras.utils.set_random_seed(0)
    wide = 1040
    inputs = keras.Input([32])
    x = keras.layers.Dense(wide, "relu", name="widen")(inputs)
    x = keras.layers.Dense(48, name="narrow")(x)
    x = keras.layers.Dense(wide, name="again")(x)
    x = keras.layers.Dense(8, name="head")(x)
    x = keras.layers.Softmax(name="classes")(x)
    return keras.Model(inputs, x, name="net")


@pytest.fixture(scope="module")
def found(model):
    return subjects.find(model, Sizes())


def test_never_worse_than_all_of_one_or_a_rule(found):
    """With the budget of each of these, whatever the costs."""
    random = np.random.default_rng(1)
    names = ("all mixed_bfloat16", "all mixed_float8", "torchao's rule")
    for _ in range(15):
        each = problem(random, found)
        baselines = list(each.baselines())
        assert tuple(point.name for point in baselines) == names
        for point in baselines:
            fast = each.solve(
                "", "time", {"loss_increase": point.loss_increase}
            )
            assert fast.time <= point.time * (1 + 1e-9)
            assert fast.keeps({"loss_increase": point.loss_increase})
            exact = each.solve("", "loss_increase", {"time": point.time})
            assert exact.loss_increase <= point.loss_increase * (1 + 1e-9)
            small = each.solve("", "loss_increase", {"memory": point.memory})
            assert small.loss_increase <= point.loss_increase * (1 + 1e-9)


def test_of_equals_the_other_cost_decides(found):
    same = {"time": 1.0, "memory": 1.0}
    own = {
        name: {**same, "loss_increase": increase}
        for name, increase in zip(NAMES, (3.0, 2.0, 1.0), strict=True)
    }
    each = problems.Problem(found, KNOWN, tuple([own] * len(found)))
    best = each.solve("", "time", {"loss_increase": 100.0})
    assert set(best.choice.values()) == {"float32"}


def test_the_frontier_goes_down(found):
    points = problem(np.random.default_rng(2), found).frontier()
    assert len(points) > 3
    for before, after in itertools.pairwise(points):
        assert before.time < after.time
        assert before.loss_increase > after.loss_increase


def test_torchaos_rule(found):
    taken = {s.path: rules.torchao(s) for s in found}
    assert taken == {
        "net/widen": True,  # 1024 < columns
        "net/narrow": False,  # both small
        "net/again": True,
        "net/head": False,  # 16 does not divide 8
    }


def test_costs_follow_the_format(found):
    """On an H200 by the cost model: fewer bits, less memory and time."""
    large = subjects.find(_large(), Sizes(batch_size=8192))
    known = candidates.read(
        ["mixed_float8", "mixed_bfloat16", "float32", "float64"]
    )
    seconds = costs.reader("h200")
    times = [seconds(large[0], each) for each in known]
    assert times == sorted(times) and times[3] > 5 * times[2]
    product = large[0].products[0]
    assert times[1] == pytest.approx(
        tfmp.cost_model.bfloat16_time(product, "h200")
    )
    kept = [costs.memory(large[0], each) for each in known]
    inputs, kernel, _ = product.sizes
    assert kept[0] == inputs + kernel
    assert kept[1] == 2 * (inputs + kernel)
    assert kept[2] == 4 * inputs  # float32 kernels are there anyway
    emulated = tfmp.Policy("mixed_float8", tfmp.recipes.Emulated("MXFP4"))
    [low] = candidates.read([emulated])
    assert costs.memory(large[0], low) == 4.25 / 8 * (inputs + kernel)


def _large():
    layer = keras.layers.Dense(4096, name="a")
    return keras.Sequential([keras.Input([4096]), layer], name="net")


def test_times_are_measured_here():
    model = keras.Sequential(
        [keras.Input([64]), *(keras.layers.Dense(64) for _ in range(3))]
    )
    first, second, _ = subjects.find(model, Sizes())
    [half] = candidates.read(["mixed_bfloat16"])
    before = [w.tobytes() for w in model.get_weights()]
    seconds = costs.reader("cpu")
    once = seconds(first, half)
    assert 1e-6 < once < 1.0
    assert seconds(second, half) == once  # one alike is not timed again
    assert before == [w.tobytes() for w in model.get_weights()]
    emulated = tfmp.Policy("mixed_float8", tfmp.recipes.Emulated("MXFP4"))
    with pytest.raises(ValueError, match="has no time here"):
        seconds(first, candidates.read([emulated])[0])


@pytest.fixture(scope="module")
def sensitivity(model):
    x = np.random.default_rng(0).standard_normal((32, 32)).astype("float32")
    y = np.random.default_rng(1).integers(0, 8, 32)
    return analysis.sensitivity(
        model,
        (x, y),
        "sparse_categorical_crossentropy",
        NAMES,
        roles=["layer"],
        verbose=False,
    )


def searched(model, sensitivity, **more):
    given = {"budget": {"loss_increase": 1.0}, "candidates": NAMES}
    return analysis.search(
        model, **{"sensitivity": sensitivity, **given, **more}
    )


def test_a_search_from_start_to_end(model, sensitivity, tmp_path):
    """Less memory than in bfloat16, at the least loss; then converted."""
    large = {"batch_size": 4096}  # so that kernels are not all that counts
    every = searched(model, sensitivity, **large)
    half, low, _ = every.baselines
    assert low.memory < half.memory
    memory = (low.memory + half.memory) / 2
    result = searched(model, sensitivity, budget={"memory": memory}, **large)
    assert result.best.memory <= memory
    assert result.best.loss_increase <= low.loss_increase
    assert len(set(result.best.choice.values())) > 1
    data = json.loads(result.to_json())
    assert data["best"]["choice"] == result.best.choice
    assert len(data["frontier"]) == len(result.frontier)
    assert "chosen" in str(result) and "torchao's rule" in str(result)
    result.plot(tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes()[:4] == b"\x89PNG"
    # A model of its own: this one stays as it is.
    own = keras.models.clone_model(model)
    report = tfmp.convert(own, result.precision_map)
    precision = {row.path: row.precision for row in report.rows}
    assert precision == {
        path: {"mixed_float8": "float8"}.get(name, name.split("_")[-1])
        for path, name in result.best.choice.items()
    }
    assert own.get_layer("classes").compute_dtype == "float32"
    result.precision_map.save(tmp_path / "map.json")
    loaded = tfmp.PrecisionMap.load(tmp_path / "map.json")
    assert dict(loaded.items()) == dict(result.precision_map.items())


def test_layers_whose_gradients_turn_are_left_out(model, sensitivity):
    rows = [r for r in sensitivity.only() if r.candidate == "mixed_float8"]
    least = min(row.gradient_cosine for row in rows)
    kept = searched(
        model,
        sensitivity,
        budget={"memory": 1e9},
        min_cosine=(1 + least) / 2,
    )
    names = [p.name for p in kept.baselines]
    assert "all mixed_float8" not in names


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": {}}, "`budget` must be a dictionary of one or more"),
        ({"budget": {"speed": 1.0}}, "`budget` must be one of"),
        ({"budget": {"time": -1.0}}, "`budget\\['time'\\]` must be from 0"),
        ({"budget": {"time": 1e-12}}, "`budget` must leave a choice"),
        ({"target": "abacus"}, "`target` must be one of"),
        ({"min_cosine": 2.0}, "`min_cosine` must be from -1"),
        ({"candidates": ["float64"]}, "`candidates` must be out of those"),
        ({"sensitivity": 3}, "`sensitivity` must be a tfmp.analysis"),
    ],
)
def test_what_is_not_allowed(model, sensitivity, changed, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        searched(model, **{"sensitivity": sensitivity, **changed})
    assert "Received: " in str(error.value)


def test_scipy_is_named_if_it_is_missing(model, sensitivity, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'tfmp\[analysis\]'"):
        searched(model, sensitivity)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"tfmp\[analysis\]"):
        sensitivity.plot("never.png")
