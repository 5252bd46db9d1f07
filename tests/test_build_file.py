"""Holds BUILD against the tree, by other means than those that wrote it.

BUILD is run as Python with rules that only take notes; the imports are read
from compiled bytecode, where `build_file.py` reads source.
"""

from __future__ import annotations

import dis
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import build_file
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
RULES = ("py_binary", "py_library", "py_test")
FOLDERS = ("tfmp", "tests", "examples", "benchmarks")


def run_build(text: str) -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
    """Runs BUILD; returns its targets and what it loads."""
    targets: list[dict[str, Any]] = []
    loads: list[tuple[str, ...]] = []

    def take_note(kind):
        return lambda **attributes: targets.append({"kind": kind, **attributes})

    rules: dict[str, Any] = {kind: take_note(kind) for kind in RULES}
    rules |= {
        "filegroup": take_note("filegroup"),
        "glob": lambda include, **_: include,
        "load": lambda *names: loads.append(names),
        "package": lambda **_: None,
    }
    exec(compile(text, "BUILD", "exec"), {"__builtins__": {}, **rules})
    return targets, loads


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def imports_of(code: types.CodeType) -> Iterator[tuple[int, str, tuple]]:
    """Yields the level, module and names of each import in the bytecode."""
    for each in code_objects(code):
        constants = []
        for step in dis.get_instructions(each):
            if step.opname == "IMPORT_NAME":
                level, names = constants[-2:]
                yield level, step.argval, tuple(names or ())
            elif "LOAD_CONST" in step.opname or "SMALL_INT" in step.opname:
                constants.append(step.argval)


def file_of(module: str, folders: list[str], root: pathlib.Path) -> str | None:
    """Returns the file that holds a module, None if it is not ours."""
    stem = module.replace(".", "/")
    for folder in folders:
        for end in (".py", "/__init__.py"):
            path = root / folder / (stem + end)
            if stem and path.is_file():
                return path.relative_to(root).as_posix()
    return None


def imported_files(source: str, root: pathlib.Path) -> set[str]:
    """Returns the files of the tree that one file imports."""
    code = compile((root / source).read_text(encoding="utf-8"), source, "exec")
    parents = source.split("/")[:-1]
    folders = ["."] if parents[0] == "tfmp" else [".", parents[0], "examples"]
    found = set()
    for level, module, names in imports_of(code):
        if level:
            up = parents[: len(parents) - level + 1]
            module = ".".join([*up, *filter(None, [module])])
        for name in names or ("",):
            inside = file_of(f"{module}.{name}", folders, root)
            found.add(inside or file_of(module, folders, root))
    return found - {None, source}


def python_files(root: pathlib.Path) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for path in (root / folder).glob("**/*.py")
    }


def kind_of(source: str, root: pathlib.Path) -> str:
    if source.startswith("tests/test_"):
        return "py_test"
    text = (root / source).read_text(encoding="utf-8")
    runs = (
        not source.startswith("tfmp/") and 'if __name__ == "__main__":' in text
    )
    return "py_binary" if runs else "py_library"


def check_target(
    target: dict[str, Any], owner: dict[str, str], root: pathlib.Path
) -> Iterator[str]:
    """Yields what is wrong with one target, but for its sources."""
    *runner, source = target["srcs"]
    name, text = target["name"], (root / source).read_text(encoding="utf-8")
    if target["kind"] != kind_of(source, root):
        yield f"{name}: a {target['kind']}, not a {kind_of(source, root)}"
    wanted = {owner.get(path, path) for path in imported_files(source, root)}
    if target["kind"] == "py_test":
        wanted.add("tests/conftest")
        if runner != ["tests/main.py"] or target["args"] != [source]:
            yield f"{name}: does not run {source} under pytest"
    stated = {label.removeprefix(":") for label in target.get("deps", ())}
    if wanted != stated:
        yield f"{name}: deps {sorted(stated)}, imports {sorted(wanted)}"
    if ("__file__" in text) != (target.get("data") == [":tree"]):
        yield f"{name}: data does not say whether it reads the tree"


def check_build(text: str, root: pathlib.Path) -> list[str]:
    """Returns all that is not so in BUILD."""
    targets, loads = run_build(text)
    problems = [f"loads {n}" for n, *_ in loads if "@rules_python//" not in n]
    code = [target for target in targets if target["kind"] in RULES]
    names = [target["name"] for target in targets]
    problems += [f"{n}: twice" for n in set(names) if names.count(n) > 1]
    owner = {target["srcs"][-1]: target["name"] for target in code}
    sources = {path for target in code for path in target["srcs"]}
    for path in sorted(sources ^ python_files(root)):
        problems.append(f"{path}: in BUILD or in the tree, not in both")
    for target in code:
        if (root / target["srcs"][-1]).is_file():
            problems += check_target(target, owner, root)
    return problems


def test_build_says_what_the_tree_is():
    assert check_build((ROOT / "BUILD").read_text(), ROOT) == []


def test_build_is_as_the_script_writes_it():
    same = (ROOT / "BUILD").read_text() == build_file.render(ROOT)
    assert same, "run: python tests/build_file.py --write"


def test_there_is_one_build_file():
    folders = [ROOT / folder for folder in FOLDERS]
    found = [
        p for f in folders for n in ("BUILD*", "*/BUILD*") for p in f.glob(n)
    ]
    assert found == []


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A small tree that uses every way to import."""
    files = {
        "tfmp/__init__.py": "from tfmp import layers\nfrom .a import one\n",
        "tfmp/a.py": "import math\none = 1\n",
        "tfmp/b.py": "def f():\n    import tfmp.a\n    return tfmp\n",
        "tfmp/layers/__init__.py": "from tfmp.layers.dense import Dense\n",
        "tfmp/layers/dense.py": "from .. import b\nfrom ..a import one\n",
        "examples/data.py": "import tfmp\n",
        "tests/main.py": "",
        "tests/conftest.py": "",
        "tests/helper.py": 'from tfmp.a import (\n  one,\n)\nx = "__main__"\n',
        "tests/test_x.py": "import data, helper, numpy\nprint(__file__)\n",
        "benchmarks/run.py": 'import tfmp\nif __name__ == "__main__":\n    1\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_script_writes_a_true_build_file(tree):
    text = build_file.render(tree)
    assert check_build(text, tree) == []
    by_name = {target["name"]: target for target in run_build(text)[0]}
    assert by_name["tfmp"]["deps"] == [":tfmp/a", ":tfmp/layers"]
    assert "deps" not in by_name["tfmp/a"]
    assert by_name["tfmp/layers/dense"]["deps"] == [":tfmp/a", ":tfmp/b"]
    assert by_name["tests/test_x"]["deps"] == [
        ":examples/data",
        ":tests/conftest",
        ":tests/helper",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@rules_python//", "@other//", "loads @other//"),
        ('    deps = [":tfmp/a"],\n', "", "tfmp/b: deps []"),
        (':tfmp/layers/dense"', ':tfmp/b"', "tfmp/layers: deps"),
        ("tfmp/layers/dense.py", "tfmp/layers/gone.py", "layers/gone.py: in"),
        ('args = ["tests/test_x.py"]', "args = []", "test_x: does not run"),
        ('    data = [":tree"],\n', "", "test_x: data"),
        ("py_binary(", "py_library(", "benchmarks/run: a py_library"),
        ('name = "tfmp/b"', 'name = "tfmp/a"', "tfmp/a: twice"),
    ],
)
def test_check_can_fail(tree, old, new, message):
    text = build_file.render(tree)
    assert old in text
    problems = check_build(text.replace(old, new), tree)
    assert any(message in problem for problem in problems), problems


def test_check_sees_a_new_file_and_a_new_import(tree):
    text = build_file.render(tree)
    (tree / "tfmp/new.py").write_text("")
    (tree / "tfmp/a.py").write_text("from tfmp import new\n")
    problems = check_build(text, tree)
    assert [p.split(":")[0] for p in problems] == ["tfmp/new.py", "tfmp/a"]


def test_bazel_has_the_version():
    from tfmp.version import VERSION

    assert f'version = "{VERSION}"' in (ROOT / "MODULE.bazel").read_text()
