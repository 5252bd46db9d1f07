"""Writes BUILD from the files and their imports.

    python tests/build_file.py --write

One `py_library` a module, one `py_test` a test file, one `py_binary` a script;
a target is named by its file, without `.py` (a package by its folder).
`test_build_file.py` holds BUILD against the tree by other means.
"""

from __future__ import annotations

import argparse
import ast
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("tfmp", "tests", "examples", "benchmarks")
RUNNER = "tests/main.py"
# What a file that reads the tree itself (through `__file__`) finds there.
TREE = ("*.cfg", "*.md", "*.toml", ".ci/run", "BUILD", "LICENSE", "docs/**")
TREE += (
    "MODULE.bazel",
    "setup.py",
    "tfmp_command.py",
    *(f"{folder}/**" for folder in FOLDERS),
)

HEADER = '''"""Targets of tfmp, written by `python tests/build_file.py --write`.

TensorFlow, Keras, NumPy and pytest come from the interpreter that Bazel finds
(see MODULE.bazel): none of them is a dependency here.
"""

load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

filegroup(
    name = "tree",
    srcs = glob(
        [
{patterns}
        ],
        allow_empty = True,
        exclude = ["**/__pycache__/**"],
    ),
)
'''


def source_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the Python files of the tree, sorted, relative to `root`."""
    found = [p for folder in FOLDERS for p in (root / folder).rglob("*.py")]
    return sorted(path.relative_to(root) for path in found)


def target_name(path: pathlib.Path) -> str:
    """Returns the target of a file: its path, or its folder's if a package."""
    stem = path.parent if path.name == "__init__.py" else path.with_suffix("")
    return stem.as_posix()


def imported_names(path: pathlib.Path, text: str) -> Iterator[tuple[str, ...]]:
    """Yields all that a file imports, as dotted names taken apart.

    `from a import b` yields `(a, b)`: whether `b` is a module, the files tell.
    """
    package = path.parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (tuple(name.name.split(".")) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = package[: len(package) + 1 - node.level] + base
            yield from ((*base, name.name) for name in node.names)


def search_path(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders that a file's absolute imports start from."""
    if path.parts[0] == "tfmp":
        return [pathlib.Path()]
    return [pathlib.Path(), path.parent, pathlib.Path("examples")]


def resolve(
    name: tuple[str, ...], starts: list[pathlib.Path], targets: set[str]
) -> str | None:
    """Finds the target of an imported name; None if it is not ours.

    The name's last part may be a module or something inside of one.
    """
    for start in starts:
        for parts in filter(None, (name, name[:-1])):
            target = start.joinpath(*parts).as_posix()
            if target in targets:
                return target
    return None


def dependencies(path: pathlib.Path, text: str, targets: set[str]) -> list[str]:
    """Returns the labels of what a file imports, sorted."""
    starts = search_path(path)
    names = imported_names(path, text)
    found = {resolve(name, starts, targets) for name in names}
    return sorted(f":{target}" for target in found - {None, target_name(path)})


def is_script(text: str) -> bool:
    """Whether a file asks for its `__name__`, to run as a program."""
    return any(
        isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        for node in ast.parse(text).body
    )


def rule(kind: str, **attributes: str | list[str]) -> str:
    """Renders one target as buildifier would, without its empty lists."""
    lines = [f"{kind}("]
    for name, value in attributes.items():
        if isinstance(value, str):
            lines.append(f'    {name} = "{value}",')
        elif len(value) == 1:
            lines.append(f'    {name} = ["{value[0]}"],')
        elif value:
            lines.append(f"    {name} = [")
            lines += [f'        "{item}",' for item in value]
            lines.append("    ],")
    return "\n".join([*lines, ")"]) + "\n"


def render_file(path: pathlib.Path, text: str, targets: set[str]) -> str:
    """Renders the target of one file."""
    name, deps = target_name(path), dependencies(path, text, targets)
    srcs, data = [path.as_posix()], [":tree"] if "__file__" in text else []
    if path.parts[0] == "tests" and path.name.startswith("test_"):
        return rule(
            "py_test",
            name=name,
            srcs=[RUNNER, *srcs],
            args=srcs,
            data=data,
            main=RUNNER,
            deps=sorted({*deps, ":tests/conftest"}),
        )
    imports = [] if path.parts[0] == "tfmp" else [path.parent.as_posix()]
    kind = "py_binary" if imports and is_script(text) else "py_library"
    return rule(
        kind, name=name, srcs=srcs, data=data, imports=imports, deps=deps
    )


def render(root: pathlib.Path) -> str:
    """Returns what BUILD has to say about the tree at `root`."""
    files = [p for p in source_files(root) if p.as_posix() != RUNNER]
    targets = {target_name(path) for path in files}
    rules = [
        render_file(path, (root / path).read_text(encoding="utf-8"), targets)
        for path in files
    ]
    patterns = "\n".join(f'            "{pattern}",' for pattern in TREE)
    return "\n".join([HEADER.format(patterns=patterns), *rules])


def main() -> int:
    """Writes BUILD, or says whether it is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write BUILD")
    build = ROOT / "BUILD"
    text = render(ROOT)
    if parser.parse_args().write:
        build.write_text(text, encoding="utf-8")
        return 0
    same = build.exists() and build.read_text(encoding="utf-8") == text
    print("BUILD is up to date" if same else "BUILD is out of date: --write")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
