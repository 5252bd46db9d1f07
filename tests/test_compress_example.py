"""Runs the example that makes a model smaller, on a few images."""

from __future__ import annotations

import re

import compress as example
import pytest
from absl import flags
from absl.testing import flagsaver

FLAGS = flags.FLAGS
TINY = ("--width=32", "--student=16", "--images=400", "--epochs=1", "--runs=1")


@pytest.fixture(scope="module", autouse=True)
def defined():
    """The flags of the example, for as long as its tests run."""
    before = set(FLAGS)
    example.define_flags()
    yield
    for name in set(FLAGS) - before:
        delattr(FLAGS, name)


@pytest.mark.slow
def test_a_run(tmp_path, capsys):
    saved = flagsaver.save_flag_values()
    FLAGS(["compress", *TINY, f"--output={tmp_path}"])
    try:
        example.main(["compress"])
    finally:
        flagsaver.restore_flag_values(saved)
    text = capsys.readouterr().out
    rows = {
        line.split()[0]: line.split()
        for line in text.splitlines()
        if re.match(r"(float32|FP8|pruned|distilled|frozen|int8) +\d", line)
    }
    assert list(rows) == [
        *("float32", "FP8", "pruned"),
        *("distilled", "frozen", "int8"),
    ]
    assert rows["FP8"][-1] == rows["frozen"][-1] == "100%"
    assert rows["float32"][-1] == "0%"
    assert rows["frozen"][1:3] == rows["distilled"][1:3]  # bit for bit
    zeros = re.search(r"zeros: \{'net_32/hidden_1': (\d\.\d+)", text)
    assert float(zeros[1]) > 0.5
    for name in ("served", "model.tflite", "model.onnx", "weights"):
        assert (tmp_path / name).exists()
    assert "frozen as saved_model, float8" in text
    assert (tmp_path / "compress.png").read_bytes()[:4] == b"\x89PNG"
