"""The command `tfmp`, as a user and a program meet it."""

from __future__ import annotations

import configparser
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import forked
import keras
import numpy as np
import pytest
import scale_logs

import tfmp
from tfmp import formats, hardware
from tfmp._command_line import inspect_command, main
from tfmp._inspection import targets

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMANDS = ("info", "formats", "inspect", "convert", "revert", "export")
COMMANDS += ("report", "benchmark")

OWN = """
import keras, tfmp
print("noise")

@keras.saving.register_keras_serializable("own")
class Own(keras.layers.Dense):
    ours = tfmp.layers.Dense
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "net.keras"
    dense = keras.layers.Dense
    layers = [keras.Input([32]), dense(32, name="a"), dense(16, name="b")]
    keras.Sequential(layers, name="net").save(path)
    return path


@pytest.fixture
def run(capsys):
    """Runs the command here; returns exit code, output and errors."""

    def call(*arguments):
        code = main(list(map(str, arguments)))
        return (code, *capsys.readouterr())

    return call


def start(*arguments, folder=ROOT, **more):
    """Starts the command as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, str(ROOT / "tfmp_command.py"), *arguments],
        **{"capture_output": True, "text": True, "timeout": 120, **more},
        env=environment,
        cwd=folder,
        check=False,
    )


# What every command does.


def test_without_a_command_there_is_help_and_code_2(run):
    code, out, err = run()
    assert (code, out) == (2, "") and all(name in err for name in COMMANDS)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_explains(run, command):
    code, out, err = run(*filter(None, [command]), "--help")
    assert (code, err) == (0, "") and "usage: tfmp" in out
    assert "--json" in out or not command


def test_the_version(run):
    assert run("--version") == (0, f"{tfmp.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reprot"], "choose from 'info'"),
        (["formats", "ten"], "not a number: 'ten'"),
        (["formats", "--format", "e3m9"], "E4M3"),
        (["report"], "LOG_DIR"),
        (["inspect"], "MODEL.keras"),
        (["inspect", "a.keras", "--require-fp8", "90"], "from 0 to 1: '90'"),
        (["inspect", "a.keras", "--batch-size", "0"], "positive integer: '0'"),
        (["inspect", "a.keras", "--target", "a100"], "h200"),
        (["convert", "a.keras"], "OUT.keras"),
        (["convert", "a.keras", "b.keras", "--policy", "p"], "mixed_float8"),
        (["convert", "a.keras", "b.keras", "--recipe", "x"], "'delayed'"),
        (
            ["convert", "a.keras", "b.keras", "--map=m", "--policy=float32"],
            "--map goes without --policy",
        ),
    ],
)
def test_what_is_not_understood_has_code_2(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and said in err


def test_what_fails_has_code_1_and_no_traceback(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.keras").write_text("no model")
    zipfile.ZipFile(tmp_path / "zip.keras", "w").close()
    (tmp_path / "there.keras").write_text("")
    tried = {
        "report nowhere": "`log_dir` must be a folder",
        "report . --out a.pdf": "`out` must be",
        "inspect a.keras": "there is no file a.keras",
        "inspect a.h5": "must be a .keras file",
        "inspect text.keras": "text.keras is not a .keras file, or is cut",
        "inspect zip.keras": "Keras cannot read zip.keras",
        "inspect zip.keras --import no_such": "No module named 'no_such'",
        "convert a.keras b.h5": "must end in .keras",
        "convert a.keras no/b.keras": "there is no folder no",
        "convert a.keras there.keras": "--force replaces it",
        "convert a.keras b.keras --map m.json": "m.json: No such file",
    }
    for line, said in tried.items():
        code, out, err = run(*line.split())
        assert (code, out) == (1, ""), line
        assert err.startswith(f"tfmp {line.split()[0]}: ") and said in err
        assert "Traceback" not in err
    with pytest.raises(ValueError, match="log_dir"):
        main(["report", "nowhere", "--traceback"])


# formats


def test_formats_is_a_table(run):
    code, out, _ = run("formats")
    assert code == 0 and "E4M3" in out and "448" in out
    found = json.loads(run("formats", "--json")[1])
    every = (*formats.ALL, *formats.BLOCKS)
    assert [each["name"] for each in found] == [f.name for f in every]
    assert found[-1]["bits"] == 4.5 and "NVFP4" in out
    assert found[0]["max"] == 448 and found[0]["min_subnormal"] == 2**-9


def test_numbers_in_the_formats(run):
    code, out, _ = run("formats", "0.1", "-1e5", "1e-9", "--format", "e4m3")
    assert code == 0 and "E5M2" not in out
    assert "0.1015625  0x1d" in out and "clipped" in out and "flushed" in out
    found = json.loads(run("formats", "-1e5", "0", "--json")[1])
    assert [each["number"] for each in found] == [-1e5, 0]
    half = found[0]["formats"][3]
    assert half["nearest"] == "-inf" and half["fate"] == "overflows"


def test_what_is_not_finite_in_the_formats(run):
    words = run("formats", "-nan", "--format", "e4m3")[1].split()
    assert words[-5:] == ["E4M3", "nan", "0xff", "stays", "NaN"]
    found = json.loads(run("formats", "-inf", "--json")[1])[0]
    assert found["number"] == found["formats"][4]["nearest"] == "-inf"
    assert found["formats"][0]["relative_error"] is None


# inspect, convert


def test_names_are_those_of_the_package():
    assert inspect_command.TARGETS == tuple(targets.TARGETS)


def test_convert_writes_a_model_that_inspect_finds_in_float8(
    run, model, tmp_path
):
    out = tmp_path / "fp8.keras"
    code, text, _ = run("convert", model, out)
    assert code == 0 and "net/a" in text and text.endswith(f"wrote {out}\n")
    loaded = keras.models.load_model(out)
    assert loaded.layers[0].dtype_policy.name == "mixed_float8"
    code, text, err = run("inspect", out, "--require-fp8", "0.5")
    assert (code, err) == (0, "") and "100.0% of the FLOPs" in text
    assert sorted(tmp_path.iterdir()) == [out]


def test_a_model_without_float8_misses_what_is_required(run, model):
    arguments = ("inspect", model, "--batch-size", "4", "--json")
    code, out, err = run(*arguments, "--require-fp8", "0.5")
    assert code == 1 and "0.0% of the FLOPs are in FP8" in err
    found = json.loads(out)
    assert found["float8_share"] == 0
    assert found["products"][0]["size"] == "4 x 32 x 32"


def test_convert_by_map_recipe_and_pattern(run, model, tmp_path):
    out, map_ = tmp_path / "out.keras", tmp_path / "map.yaml"
    map_.write_text("a: float32\n")  # and the usual for all others
    found = json.loads(run("convert", model, out, "--map", map_, "--json")[1])
    rows = {row["path"]: row["precision"] for row in found["layers"]}
    assert rows == {"net/a": "float32", "net/b": "float8"}
    more = ("--recipe", "current", "--filter", "a", "--force", "--json")
    found = json.loads(run("convert", model, out, *more)[1])
    rows = {row["path"]: row["recipe"] for row in found["layers"]}
    assert rows == {"net/a": "CurrentScaling()", "net/b": None}
    assert found["path"] == str(out)


def loaded_without_tfmp(*paths):
    """Returns what plain Keras predicts with the models of files."""
    code = """
import sys, keras, numpy as np
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    assert "tfmp" not in sys.modules
    name = model.layers[0].dtype_policy.name
    print("found", name, float(np.sum(model(np.ones([2, 32])))))
"""
    done = forked.run(code, *map(str, paths))
    assert done.returncode == 0, done.stderr
    lines = map(str.split, done.stdout.splitlines())
    return [line[1:] for line in lines if line[:1] == ["found"]]


def test_files_go_back_to_plain_keras(run, model, tmp_path):
    fp8, back, wide, other = (tmp_path / f"{name}.keras" for name in "abcd")
    assert run("convert", model, fp8)[0] == 0
    code, text, _ = run("revert", fp8, back)
    assert code == 0 and text.startswith("layers that were of tfmp: 2\n")
    assert run("revert", fp8, wide, "--policy", "FP32")[0] == 0
    assert run("convert", fp8, other, "--policy", "float32")[0] == 0
    found = loaded_without_tfmp(model, back, wide, other)
    names = ["float32", "mixed_bfloat16", "float32", "float32"]
    assert [name for name, _ in found] == names
    assert found[2] == found[3] == found[0]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_trained_model_goes_back_with_its_optimizer(run, tmp_path, dynamic):
    model = keras.Sequential([keras.Input([16]), keras.layers.Dense(1)])
    tfmp.convert(model, filter="all")
    optimizer = tfmp.optimizers.LossScaleOptimizer("adam", 2.0, dynamic=dynamic)
    model.compile(optimizer, "mse", jit_compile=False)
    x = np.ones([8, 16], "float32")
    model.fit(x, x[:, :1], verbose=0)
    file, out = tmp_path / "fp8.keras", tmp_path / "plain.keras"
    model.save(file)
    assert run("revert", file, out)[0] == 0
    with zipfile.ZipFile(out) as parts:
        assert "tfmp" not in parts.read("config.json").decode()
    plain = keras.models.load_model(out).optimizer
    assert type(plain).__module__.startswith("keras")
    inner = plain.inner_optimizer if dynamic else plain
    for a, b in zip(
        inner.variables, optimizer.inner_optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_revert_is_asked_for_a_file(run, model, tmp_path):
    assert run("revert", model, model)[0] == 1
    assert run("revert", model, tmp_path / "a.keras", "--policy", "fp8")[0] == 2


def test_export_writes_and_runs_a_file(run, model, tmp_path):
    fp8, out = tmp_path / "fp8.keras", tmp_path / "served"
    assert run("convert", model, fp8)[0] == 0
    code, text, _ = run("export", fp8, out)
    assert code == 0 and text.endswith(f"wrote {out}\n")
    assert "FP8 product" in text and (out / "saved_model.pb").is_file()
    code, _, err = run("export", fp8, out)
    assert code == 1 and "--force" in err
    found = json.loads(run("export", fp8, out, "--force", "--json")[1])
    assert found["max_abs_error"] == 0 and found["sqnr"] is None


def test_a_map_that_names_no_layer_writes_nothing(run, model, tmp_path):
    map_ = tmp_path / "map.json"
    map_.write_text('{"a": "float32", "nothere": "float32"}')
    code, out, err = run("convert", model, tmp_path / "o.keras", "--map", map_)
    assert (code, out) == (1, "")
    assert err == "tfmp convert: no layer has a path like 'nothere'\n"
    assert list(tmp_path.iterdir()) == [map_]


# report


def test_report_says_what_it_wrote(run, tmp_path):
    log = scale_logs.write(tmp_path / "log", layers=1, samples=4)
    page = tmp_path / "r.html"
    for done, *force in (("wrote",), ("replaced", "--force")):
        code, out, err = run("report", log, "--out", page, *force)
        assert (code, err) == (0, "") and "good: The loss fell" in out
        assert out.endswith(f"\n{done} {page}, 4 pictures\n")
    more = ("--out", tmp_path / "both.html", "--json")
    found = json.loads(run("report", log, log, *more)[1])
    assert len(found["runs"]) == 2 and len(found["plots"]) == 9
    assert not found["replaced"]


def test_report_asks_before_it_replaces_a_page(run, tmp_path, monkeypatch):
    log = scale_logs.write(tmp_path / "log", layers=1, samples=4)
    page = tmp_path / "r.html"
    page.write_text("mine")
    code, out, err = run("report", log, "--out", page)
    assert (code, out) == (1, "") and "--force replaces it" in err
    for answer in ("n\n", "", "yes\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert page.read_text() == "mine"
        code, out, err = run("report", log, "--out", page)
        assert "Replace it? [y/N]" in err and code == int(answer != "yes\n")
    assert page.read_text() != "mine"


class Terminal(io.StringIO):
    def isatty(self):
        return True


# As a process.


def test_a_process_without_tensorflow():
    code = (
        "import sys, tfmp_command\n"
        "sys.argv = ['tfmp', 'formats', '0.1', '--json']\n"
        "code = tfmp_command.main()\n"
        "heavy = {'tensorflow', 'keras', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)\n"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    assert json.loads(found.stdout)[0]["number"] == 0.1
    assert found.stderr == b""


def test_info_prints_json_and_nothing_else():
    found = start("info", "--json")
    data = json.loads(found.stdout)
    assert found.returncode == 0 and "oneDNN" not in found.stderr
    assert data["versions"]["keras"] == keras.__version__
    assert data["policy"] == hardware.decide(hardware.detect()).policy


def test_whoever_reads_may_stop():
    numbers = [str(n) for n in range(3000)]
    command = [sys.executable, "tfmp_command.py", "formats", *numbers]
    # Unbuffered, Python drops what a pipe does not take, and says nothing.
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout.readline().startswith(b"0 as")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.slow
def test_layers_of_ones_own(run, tmp_path, monkeypatch):
    """Their module finds the package, which the command starts without."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    layers = [keras.Input([16]), importlib.import_module("own").Own(8)]
    keras.Sequential(layers).save(tmp_path / "m.keras")
    arguments = ("convert", "m.keras", "out.keras")
    found = start(*arguments, "--import", "own", "--json", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["layers"][0]["precision"] == "float8"
    del keras.saving.get_custom_objects()["own>Own"]
    err = run("inspect", tmp_path / "m.keras")[2]
    assert "inspect: use --import" in err and "'Own'" in err and len(err) < 300


def test_the_installed_command_is_this_one():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    scripts = config["options.entry_points"]["console_scripts"].split()
    assert scripts == ["tfmp", "=", "tfmp_command:main"]
    assert config["options"]["py_modules"] == "tfmp_command"
    assert "matplotlib" in config["options.extras_require"]["report"]
