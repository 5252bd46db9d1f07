"""Runs the example of a converted model, on a few of the shipped images."""

from __future__ import annotations

import re

import convert_pretrained as example
import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver

import tfmp

FLAGS = flags.FLAGS
TINY = ("--depth=1", "--epochs=1", "--batch_size=50", "--images=200")


@pytest.fixture(scope="module", autouse=True)
def defined():
    """The flags of the example, for as long as its tests run."""
    before = set(FLAGS)
    example.define_flags()
    yield
    for name in set(FLAGS) - before:
        delattr(FLAGS, name)


@pytest.fixture
def parse():
    """Returns a function that sets flags, which the test's end sets back."""
    saved = flagsaver.save_flag_values()
    yield lambda *given: FLAGS(["convert_pretrained", *given])
    flagsaver.restore_flag_values(saved)


@pytest.mark.slow
def test_a_run(parse, capsys):
    parse(*TINY, "--policies=mixed_bfloat16,mixed_float8", "--nojit_compile")
    example.main(["convert_pretrained"])
    text = capsys.readouterr().out
    assert "[1/2] mixed_bfloat16" in text
    # Six products of one block and the logits; each has two gradients.
    assert "FP8: 7 of 9 layers with products, 21 products" in text
    row = r"(\w+) +(\d+\.\d\d) % +([+-]\d\.\d\d|[+-]\d\d\.\d\d) +(\d+) of 27"
    rows = {m[0]: m[1:] for m in re.findall(row, text)}
    assert rows["mixed_bfloat16"][1:] == ("+0.00", "0")
    assert rows["mixed_float8"][2] == "21"
    first, second = (float(found[0]) for found in rows.values())
    assert float(rows["mixed_float8"][1]) == pytest.approx(second - first)
    assert min(first, second) > 15  # ten classes; four steps
    operands = "7 E4M3xE4M3, 7 E4M3xE5M2, 7 E5M2xE4M3, 6 bf16xbf16"
    assert re.search(rf"mixed_float8 +{operands}; fit \d+ s", text)


@pytest.mark.parametrize(
    ("given", "float8"),
    [
        ([], 7),
        (["--filter=mlp"], 2),
        (["--filter=mha/query,mha/key"], 2),
        (["--filter=auto", "--target=h200"], 0),
    ],
)
def test_the_filter_chooses(parse, given, float8):
    parse("--depth=1", *given)
    rows = example.convert(example.make_model(), "mixed_float8").rows
    low = [row for row in rows if row.precision == "float8"]
    assert len(low) == float8
    dense = [row for row in rows if row.type in ("Dense", "EinsumDense")]
    assert len(dense) == 7
    assert all(row.reason for row in dense if row not in low)


def test_the_recipe_is_that_of_the_flag(parse):
    parse("--depth=1", "--recipe=current")
    report = example.convert(example.make_model(), "mixed_float8")
    found = {row.recipe for row in report.rows if row.precision == "float8"}
    assert found == {repr(tfmp.recipes.get("current"))}


def test_a_seed_gives_all_policies_the_same_weights(parse):
    parse("--depth=1")
    kernels = []
    for policy in example.POLICIES[1:]:
        example.keras.utils.set_random_seed(3)
        model = example.make_model()
        example.convert(model, policy)
        kernels.append(model.get_layer("predictions").kernel.numpy())
    np.testing.assert_array_equal(*kernels)
    assert np.std(kernels[0]) > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--policies=float32,float8", "different names out of"),
        ("--learning_rate=2", "between 0 and 1"),
        ("--epochs=0", "1 or greater|positive"),
        ("--target=abacus", "h200"),
        ("--recipe=fast", "delayed"),
    ],
)
def test_a_wrong_flag_is_told(parse, given, said):
    with pytest.raises(flags.IllegalFlagValueError, match=said):
        parse(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--target=h200"], "--target goes with --filter=auto.*all"),
        (["--batch_size=300", "--images=200"], "from 1 to 200.*300"),
    ],
)
def test_flags_that_do_not_fit_are_told(parse, given, said):
    parse(*given)
    with pytest.raises(app.UsageError, match=said):
        example.main(["convert_pretrained"])
