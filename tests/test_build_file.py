"""Holds BUILD against the tree: files, imports between rooms, tests, scripts.

Starlark is close to Python: BUILD runs here, with rules that only take notes.
"""

from __future__ import annotations

import ast
import collections
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import house
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
RULES = ("py_binary", "py_library", "py_test")
RUNNER = "tests/main.py"
# Besides tfmp/, and in the order in which one may import another.
FOLDERS = ("examples", "benchmarks", "tests")

Targets = dict[str, dict[str, Any]]


def run_build(root: pathlib.Path) -> Targets:
    """Runs BUILD on a tree; returns the attributes of its targets by name."""
    targets: Targets = {}

    def glob(
        include: Sequence[str],
        exclude: Sequence[str] = (),
        allow_empty: bool = False,
    ) -> list[str]:
        def paths(patterns: Sequence[str]) -> set[str]:
            found = {path for each in patterns for path in root.glob(each)}
            return {path.relative_to(root).as_posix() for path in found}

        names = sorted(paths(include) - paths(exclude))
        if not (names or allow_empty):
            raise ValueError(f"BUILD: no file for {include}")
        return names

    def take_note(kind: str):
        def rule(name: str, **attributes: Any) -> None:
            if name in targets:
                raise ValueError(f"BUILD: {name} is there twice")
            targets[name] = {"kind": kind, **attributes}

        return rule

    names: dict[str, Any] = {
        kind: take_note(kind) for kind in (*RULES, "filegroup")
    }
    names |= {"glob": glob, "len": len}
    names |= {"load": lambda *_: None, "package": lambda **_: None}
    code = compile((root / "BUILD").read_text(), "BUILD", "exec")
    exec(code, {"__builtins__": {}, **names})
    return targets


def python_files(root: pathlib.Path) -> dict[str, str]:
    """Returns the text of each source file, by its path."""
    found = {p for f in ("tfmp", *FOLDERS) for p in (root / f).rglob("*.py")}
    return {p.relative_to(root).as_posix(): p.read_text() for p in found}


def library_of(path: str) -> str:
    """Returns the library that a file belongs to, its name in BUILD."""
    folder, *inner = path.removesuffix(".py").split("/")
    if folder != "tfmp" or inner == ["__init__"]:
        return folder
    return f"tfmp/{inner[0]}"


@functools.cache
def imported_names(path: str, text: str) -> frozenset[str]:
    """Returns all that a file imports, as dotted names."""
    inner = path.removeprefix("tfmp/")
    found = house.dotted_imports(ast.parse(text), inner)
    return frozenset(name for _, name in found)


def imports(files: dict[str, str]) -> dict[str, set[str]]:
    """Returns for each library the libraries that its files import."""
    found = collections.defaultdict(set)
    for path, text in files.items():
        library = library_of(path)
        for name in imported_names(path, text):
            imported = map(library_of, _files_of(name, library, files))
            found[library] |= {*imported} - {library}
    return found


def _files_of(name: str, library: str, files: dict[str, str]) -> Iterator[str]:
    """Yields the file that holds an imported name, if it is one of ours."""
    stem = name.replace(".", "/")
    beside = FOLDERS if library in FOLDERS else ()
    for start in ("", *(f"{folder}/" for folder in beside)):
        for inner in (stem, stem.rpartition("/")[0]):
            for path in (f"{start}{inner}.py", f"{start}{inner}/__init__.py"):
                if inner and path in files:
                    yield path
                    return


def reach(targets: Targets, name: str) -> set[str]:
    """Returns a target and all that it depends on."""
    target = targets.get(name, {})
    deps = {label.removeprefix(":") for label in target.get("deps", ())}
    return {name}.union(*(reach(targets, dep) for dep in deps))


def check_sources(targets: Targets, files: dict[str, str]) -> Iterator[str]:
    """Yields the files that are not in one library or test."""
    owners = collections.defaultdict(list)
    for name, target in targets.items():
        for path in target["srcs"]:
            if target["kind"] in ("py_library", "py_test") and path != RUNNER:
                owners[path].append(name)
    for path in files.keys() - {RUNNER}:
        test = path.startswith("tests/test_")
        wanted = path.removesuffix(".py") if test else library_of(path)
        if owners[path] != [wanted]:
            yield f"{path}: in {owners[path]}, not in {wanted}"


def check_imports(targets: Targets, files: dict[str, str]) -> Iterator[str]:
    """Yields the libraries whose `deps` are not what they import."""
    for name, wanted in imports(files).items():
        if name not in targets:
            continue
        deps = {x.removeprefix(":") for x in targets[name].get("deps", ())}
        # Other folders may reach a room of tfmp through another.
        if name in FOLDERS and wanted <= reach(targets, name):
            continue
        if deps != wanted:
            yield f"{name}: deps {sorted(deps)}, imports {sorted(wanted)}"


def check_programs(targets: Targets, files: dict[str, str]) -> Iterator[str]:
    """Yields the tests that pytest does not run, and what is no script."""
    for name, target in targets.items():
        path = f"{name}.py"
        if target["kind"] == "py_test" and (
            target["srcs"] != [RUNNER, path] or target["args"] != [path]
        ):
            yield f"{name}: does not run {path} under pytest"
    binaries = {n for n, t in targets.items() if t["kind"] == "py_binary"}
    scripts = {
        path.removesuffix(".py")
        for path, text in files.items()
        if path.startswith(FOLDERS)
        and path != RUNNER
        and '\nif __name__ == "__main__":' in text
    }
    for name in sorted(binaries ^ scripts):
        yield f"{name}: a script or in SCRIPTS, not both"


def check_build(root: pathlib.Path) -> list[str]:
    """Returns all that is not so in BUILD."""
    targets, files = run_build(root), python_files(root)
    return [
        *check_sources(targets, files),
        *check_imports(targets, files),
        *check_programs(targets, files),
    ]


def test_build_says_what_the_tree_is():
    assert check_build(ROOT) == []


def test_build_is_short():
    assert len((ROOT / "BUILD").read_text()) < 10_000


def test_there_is_one_build_file():
    folders = [ROOT / folder for folder in ("tfmp", *FOLDERS)]
    assert [p for f in folders for p in f.rglob("BUILD*")] == []


def test_each_target_has_sources():
    assert all(target["srcs"] for target in run_build(ROOT).values())


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """The tree's Python files and its BUILD, to be changed."""
    files = {**python_files(ROOT), "BUILD": (ROOT / "BUILD").read_text()}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "examples/data").mkdir()
    (tmp_path / "examples/data/images.gz").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"cost_model": ["_support"]', '"cost_model": []', "tfmp/cost_model:"),
        ('"formats": []', '"formats": ["_support"]', "tfmp/formats: deps"),
        ('    "version": [],\n', "", "tfmp/version.py: in []"),
        ('        ":tfmp/__main__",\n', "", "tests: deps"),
        ('        ":tfmp/ops",\n', "", "tfmp: deps"),
        ("args = [path]", "args = []", "does not run"),
        ('    "tests/fuzz",\n', "", "tests/fuzz: a script"),
        (
            '    "tests/fuzz",\n',
            '    "tests/house",\n',
            "tests/house: a script",
        ),
        (
            '            "tests/test_*.py",\n',
            "",
            "in ['tests', 'tests/test_ops'",
        ),
    ],
)
def test_check_can_fail(tree, old, new, message):
    text = (tree / "BUILD").read_text()
    assert old in text
    (tree / "BUILD").write_text(text.replace(old, new))
    problems = check_build(tree)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("tfmp/new.py", "", "tfmp/new.py: in [], not in tfmp/new"),
        ("tfmp/formats/new.py", "from tfmp import recipes", "tfmp/formats:"),
        ("tfmp/formats/new.py", "from ..recipes import x", "tfmp/formats:"),
        ("examples/new.py", "def f():\n  import house", "examples: deps"),
        ("benchmarks/new.py", "import tfmp.__main__", "benchmarks: deps"),
    ],
)
def test_check_sees_a_new_file_and_a_new_import(tree, path, text, message):
    (tree / path).write_text(text)
    problems = check_build(tree)
    assert [p for p in problems if p.startswith(message)], problems


def test_check_sees_a_target_twice(tree):
    with (tree / "BUILD").open("a") as file:
        file.write('\npy_library(name = "tfmp", srcs = [])\n')
    with pytest.raises(ValueError, match="tfmp is there twice"):
        check_build(tree)


def test_bazel_has_the_version():
    from tfmp.version import VERSION

    assert f'version = "{VERSION}"' in (ROOT / "MODULE.bazel").read_text()
