"""The architecture, held against the code; and each rule, seen to fail."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import importlib
import pathlib
import re
import types

import house
import pytest

import tfmp

# A module imports only from a lower level.  This list is the architecture.
LEVELS = (
    ("_support", "formats", "version"),
    ("_keras", "cost_model", "hardware", "recipes"),
    ("_core", "policies"),
    ("ops",),
    ("layers",),
    ("checkpoints", "optimizers", "unit_scaling"),
    ("conversion",),
    (
        "_configuration",
        "_exporting",
        "_freezing",
        "_inspection",
        "_monitoring",
        "_switching",
        "debug",
    ),
    ("callbacks", "reporting"),
    ("_comparing", "analysis"),
    ("_command_line",),
    ("__init__", "__main__"),
)
# The same within the largest room.
CORE_LEVELS = (
    (
        "bit_rounding",
        "windows",
        "custom_gradients",
        "equations",
        "observations",
        "op_names",
        "scaling",
        "stablehlo_writer",
    ),
    ("convolutions", "cpu_stablehlo", "quantization"),
    ("emulation", "statistics", "stablehlo"),
    ("probes", "product_scales", "unscaling"),
    ("emulated_passes", "float8_passes"),
    ("contractions",),
    ("frozen_passes",),
    ("lengths",),
    ("__init__",),
)
# Rooms and files that import nothing but Python.
PURE = ("_support", "formats", "recipes", "cost_model")
PUBLIC = (
    "analysis",
    "callbacks",
    "checkpoints",
    "debug",
    "formats",
    "layers",
    "ops",
    "optimizers",
    "recipes",
    "reporting",
    "unit_scaling",
)
# Emptied once, never filled again.
STATE = {"_keras/first_use.py": ["_waiting"]}
PRIVATE_IMPORTS = {
    "analysis/libraries.py": ["importlib.import_module"],
    "_command_line/model_files.py": ["importlib.import_module"],
    "_support/plain_values.py": ["importlib.import_module"],
    "reporting/drawing.py": ["importlib.import_module"],
    "_exporting/integer_files.py": ["importlib.import_module"],
    "_exporting/runtimes.py": ["importlib.import_module"],
    "_inspection/jax_compiler.py": ["importlib.import_module"],
    "_core/custom_gradients.py": [
        "tensorflow.python.framework.ops.gradient_registry"
    ],
    "_core/stablehlo.py": ["tensorflow.compiler.tf2xla.python.xla"],
    "_core/lengths.py": ["tensorflow.python.ops.control_flow_util"],
    "_inspection/relowering.py": ["tensorflow.python.eager.context"],
    "_keras/training_pass.py": ["keras.src.backend.common.stateless_scope"],
    "_keras/call_context.py": [
        "keras.src.backend.AutocastScope",
        "keras.src.backend.common.global_state",
    ],
    "_keras/compile_arguments.py": [
        "keras.src.export.export_utils.get_input_signature",
        "keras.src.export.export_utils.make_tf_tensor_spec",
    ],
    "_keras/global_notes.py": ["keras.src.backend.common.global_state"],
    "_keras/layer_calls.py": [
        "keras.src.backend.AutocastScope",
        "keras.src.models.functional.Functional",
    ],
    "_keras/layer_kinds.py": [
        "keras.src.models.functional.Functional",
        "keras.src.saving.keras_saveable.KerasSaveable",
    ],
    "_keras/optimizer_variables.py": ["keras.src.utils.tracking"],
    "_keras/symbolic_calls.py": [
        "keras.src.backend.compute_output_spec",
        "keras.src.backend.common.global_state",
    ],
    "_keras/weights_saving.py": ["keras.src.saving.saving_lib"],
    "_keras/worker_fit.py": ["keras.src.backend.tensorflow.trainer"],
}

# Which modules set an attribute, or call it.
ALONE = {
    "__class__": ["_keras/class_and_policy.py", "_keras/layer_calls.py"],
    "_dtype_policy": ["_keras/class_and_policy.py"],
    "_getframe": [],
    "currentframe": ["_keras/frames.py"],
}

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = {
    path.relative_to(ROOT / "tfmp").as_posix(): path.read_text()
    for path in sorted((ROOT / "tfmp").rglob("*.py"))
}
each_file = pytest.mark.parametrize("path", FILES)


def requirements() -> set[str]:
    """Returns what setup.cfg installs, by the name it is imported by."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    return {re.split("[<>=]", line)[0].removesuffix("-py") for line in lines}


def test_modules_import_downwards():
    assert house.check_levels(FILES, LEVELS) == []


def test_the_core_imports_downwards():
    core = {
        path.removeprefix("_core/"): re.sub(
            r"\btfmp(\._core)?\b", lambda m: "tfmp" if m[1] else "other", text
        )
        for path, text in FILES.items()
        if path.startswith("_core/")
    }
    assert house.check_levels(core, CORE_LEVELS) == []


def test_architecture_has_the_same_tables():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    house_table, core_table = text.split("The largest room")
    assert house.level_table(house_table) == list(map(set, LEVELS))
    assert house.level_table(core_table) == list(map(set, CORE_LEVELS))


def test_the_wheel_has_every_file():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    said = config["options.package_data"]["tfmp"].split(",")
    kept = {p for s in said for p in (ROOT / "tfmp").glob(s.strip())}
    files = {p for p in (ROOT / "tfmp").rglob("*.*") if p.is_file()}
    assert kept == {p for p in files if p.suffix not in (".py", ".pyc")}


def test_dir_shows_what_users_use():
    assert set(dir(tfmp)) == {*tfmp.__all__, "__version__"}


@each_file
def test_no_text_names_an_inside(path):
    assert house.insides_named(FILES[path]) == []


def test_every_room_that_users_import_has_all():
    rooms = {house.room(path) for path in FILES if "/" in path}
    public = {name for name in rooms if not name.startswith("_")}
    for name in public:
        assert importlib.import_module(f"tfmp.{name}").__all__


@each_file
def test_only_requirements_are_imported(path):
    found = house.third_party(ast.parse(FILES[path]), path)
    allowed = set() if house.room(path) in PURE else requirements()
    assert found <= allowed


@each_file
def test_private_imports_are_known(path):
    found = house.private_uses(ast.parse(FILES[path]), path)
    assert found == PRIVATE_IMPORTS.get(path, [])


@each_file
def test_files_and_functions_are_small(path):
    assert house.check_sizes(FILES[path]) == []


@each_file
def test_habits(path):
    assert house.check_habits(FILES[path]) == []


@each_file
def test_no_mutable_module_state(path):
    assert house.check_state(FILES[path]) == STATE.get(path, [])


@pytest.mark.parametrize("name", ["tfmp", *(f"tfmp.{n}" for n in PUBLIC)])
def test_public_names_are_documented(name):
    pages = [ROOT / "README.md", ROOT / "ARCHITECTURE.md"]
    pages += sorted((ROOT / "docs").rglob("*.md"))
    prose = "".join(page.read_text() for page in pages)
    names = house.public_names(importlib.import_module(name))
    assert names
    problems = []
    for key, value in names.items():
        problems += house.check_documented(key, value, prose)
    assert problems == []


@pytest.mark.parametrize("name", ALONE)
def test_what_one_module_does_no_other_does(name):
    found = [p for p, text in FILES.items() if house.sets_or_calls(text, name)]
    assert found == ALONE[name]


def test_sets_or_calls_can_fail():
    for text in ("x.a = 1", "x.a, y = 1, 2", "x.a += 1", "x.a()", "a()"):
        assert house.sets_or_calls(text, "a")
    assert not house.sets_or_calls("y = x.a\na = 1\nb(a)", "a")


def test_public_callables_have_few_parameters():
    more = ("conversion", "cost_model", "hardware", "policies")
    names = ["tfmp", *(f"tfmp.{name}" for name in (*PUBLIC, *more))]
    found = house.callables_of({n: importlib.import_module(n) for n in names})
    assert {"tfmp.convert", "tfmp.recipes.Emulated"} <= set(found)
    assert house.check_parameters(found) == []


# From here on: the rules themselves.

TABLE = (("a",), ("b", "c"), ("p",), ("__init__",))
GOOD = {
    "__init__.py": "from tfmp import a, p\n",
    "a.py": "",
    "b.py": "import tfmp.a\n",
    "c.py": "from tfmp.a import x\n",
    "p/__init__.py": "from tfmp.p.y import Y\nfrom tfmp.p import x\n",
    "p/x.py": "from .y import Y\n",
    "p/y.py": "from tfmp import b\n",
}


def test_levels_of_a_good_tree():
    assert house.check_levels(GOOD, TABLE) == []


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("a.py", "import tfmp.b", "a.py: imports b.py"),
        ("a.py", "def f():\n  from tfmp import b", "a.py: imports b.py"),
        ("a.py", "from . import b", "a.py: imports b.py"),
        ("a.py", "from .b import x", "a.py: imports b.py"),
        ("a.py", "import tfmp.p.y as y", "a.py: imports p/y.py"),
        ("b.py", "from tfmp import c", "b.py: imports c.py"),
        ("a.py", "import tfmp", "a.py: imports __init__.py"),
        ("a.py", "from tfmp import Policy", "a.py: imports __init__.py"),
        ("p/y.py", "from tfmp.p import Y", "p/y.py: imports p/__init__.py"),
        ("p/y.py", "from . import Y", "p/y.py: imports p/__init__.py"),
        ("p/y.py", "from .. import p", "p/y.py: imports p/__init__.py"),
        ("p/y.py", "from . import x", "circle: p/x.py -> p/y.py -> p/x.py"),
        ("d.py", "", "d: not in the table"),
    ],
)
def test_levels_can_fail(path, text, problem):
    assert problem in house.check_levels({**GOOD, path: text}, TABLE)


def test_levels_miss_no_row():
    files = {path: text for path, text in GOOD.items() if path != "c.py"}
    assert house.check_levels(files, TABLE) == ["c: in the table only"]


def test_level_tables_are_read():
    table = "| level |\n|---|\n| 0 | `a` | x |\n| 1 | `b`, `c` | `d` |\n"
    assert house.level_table(table) == [{"a"}, {"b", "c"}]


def test_third_party_can_fail():
    tree = ast.parse("import math, numpy.typing\ndef f():\n  import keras")
    assert house.third_party(tree, "a.py") == {"numpy", "keras"}
    assert "absl" in requirements() and "matplotlib" not in requirements()


@pytest.mark.parametrize(
    "text",
    [
        "import keras.src",
        "from keras.src import ops",
        "from keras import src",
        "def f():\n    import tensorflow.python.eager.context as c",
        "from tensorflow.compiler.tf2xla.python import xla",
        "from keras import _x",
        "from tfmp.recipes import _float8_name",
        "import tensorflow as tf\nx = tf.__internal__.decorator.make(1)",
        "import tensorflow as tf\nx = tf.python.framework.ops",
        "import keras\nx = keras.src.backend.x",
        "import keras as k, math as m\nx = k.src.y",
        "from keras import ops, layers\nx = ops._y",
        "from tfmp import recipes\nx = recipes._float8_name('x')",
        "import importlib\nx = importlib.import_module('keras' + '.src')",
        "x = __import__('keras')",
    ],
)
def test_private_uses_can_fail(text):
    assert len(house.private_uses(ast.parse(text), "a.py")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from __future__ import annotations",
        "import keras\nkeras.__version__, keras.layers.Dense.__init__",
        "import keras_source\nfrom tensorflow import compilers",
        "class A:\n    def f(self):\n        return self._x",
    ],
)
def test_private_uses_let_pass(text):
    assert house.private_uses(ast.parse(text), "a.py") == []


def function(lines: int) -> str:
    return 'def f():\n    """Says."""\n' + "    x = 1\n" * lines


def test_sizes_can_fail():
    assert house.check_sizes("x = 1\n" * 300 + "x = 1") == ["301 lines"]
    assert house.check_sizes(function(46)) == ["f: 46 lines of body"]
    assert house.check_sizes(function(45) + "x = 1\n" * 253) == []


@pytest.mark.parametrize(
    "text",
    [
        "assert 1",
        "try:\n    1\nexcept:\n    2",
        "def f():\n    print(1)",
        "def f():\n    global x\n    x = 1",
        "# " + "TO" + "DO: later",
    ],
)
def test_habits_can_fail(text):
    assert len(house.check_habits(text)) == 1


def test_habits_let_pass():
    text = "try:\n    x.print()\nexcept ValueError:\n    raise\n"
    assert house.check_habits(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "cache = {}",
        "_seen: set[str] = set()",
        "x = collections.defaultdict(list)",
        "NAMES = []\ndef f():\n    NAMES.append(1)",
        "NAMES = {}\ndef f():\n    NAMES['a'] = 1",
        "NAMES = {}\ndef f():\n    del NAMES['a']",
    ],
)
def test_state_can_fail(text):
    assert len(house.check_state(text)) == 1


def test_state_lets_pass():
    text = "__all__ = ['A']\nA = {'a': 1}\n_B = [1]\nc = (1,)\n"
    assert (
        house.check_state(text + "def f():\n    d = []\n    d.append(1)") == []
    )


class Documented:
    """Has an example.

    >>> 1 + 1
    2
    """


class Inherits(Documented):
    pass


@dataclasses.dataclass
class Generated:
    x: int


def no_example():
    """Says something."""


@pytest.mark.parametrize(
    "text",
    [
        '"""Uses `tfmp._core.scaling`."""',
        "x = f'see tfmp._keras.replicas, {y}'",
        "raise ValueError('tfmp._core failed')",
    ],
)
def test_insides_named_can_fail(text):
    assert len(house.insides_named(text)) == 1


def test_insides_named_lets_pass():
    text = (
        "from tfmp._core import scaling\nx = 'tfmp.recipes, tfmp.__version__'"
    )
    assert house.insides_named(text) == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (Inherits, "no docstring of its own"),
        (Generated, "no docstring of its own"),
        (lambda: 0, "no docstring of its own"),
        (types.ModuleType("x"), "no docstring of its own"),
        (no_example, "no example in its docstring"),
    ],
)
def test_documented_can_fail(value, problem):
    assert house.check_documented("x", value, "x") == [f"x: {problem}"]


def eight(a, b, c, d, e, f, g, **kwargs):
    pass


def nine(a, b, c, d, e, f, g, h, **kwargs):
    pass


NINE = [(name, int) for name in "abcdefghi"]
Read = dataclasses.make_dataclass("Read", NINE)
Given = dataclasses.make_dataclass("Given", NINE)
Holds = dataclasses.make_dataclass("Holds", [("rows", "tuple[Read, ...]")])


def makes() -> Holds:
    pass


def test_parameters_can_be_too_many():
    found = {"eight": eight, "nine": nine, "Given": Given, "Read": Read}
    found |= {"Holds": Holds, "makes": makes}
    assert house.results_of(found) == {"Read", "Holds"}
    assert house.check_parameters(found) == [
        "nine: 9 parameters",
        "Given: 9 parameters",
    ]


def test_documented_looks_for_whole_words():
    assert house.check_documented("Dense", Documented, "a `Dense` layer") == []
    missing = house.check_documented("Dense", 1.0, "an EinsumDense layer")
    assert missing == ["Dense: in no page"]


def test_public_names_without_all():
    from tfmp import formats

    assert set(house.public_names(formats)) == {
        "BlockFormat",
        "Format",
        "get",
        "get_plain",
        "serialize",
    }
    module = types.ModuleType("x")
    module.__all__, module.y = ["y"], 1
    assert house.public_names(module) == {"y": 1}
