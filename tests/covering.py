"""Tells which tests to run after a change of a module, nearest first.

    python tests/covering.py tfmp/_core/scaling.py
    pytest -n 0 $(python tests/covering.py --steps 1 tfmp/cost_model.py)

A test file covers what it imports and the module that it is named after, and,
a step further, what these import.  `import tfmp` alone counts as nothing: it
imports all.
"""

from __future__ import annotations

import argparse
import ast
import pathlib
from collections.abc import Collection, Iterator

import house

ROOT = pathlib.Path(__file__).resolve().parent.parent
WHOLE = "tfmp/__init__.py"


def graph(root: pathlib.Path) -> dict[str, set[str]]:
    """Returns the files of tfmp and of the tests, and what each imports."""
    paths = [
        *sorted((root / "tfmp").rglob("*.py")),
        *sorted((root / "tests").glob("*.py")),
    ]
    names = {path.relative_to(root).as_posix(): path for path in paths}
    known = set(names) - {WHOLE}
    return {
        name: known.intersection({*_imports(path, root), *_named(path, known)})
        - {name}
        for name, path in names.items()
    }


def _named(path: pathlib.Path, known: Collection[str]) -> list[str]:
    """Returns the files of tfmp that a test file is named after."""
    test, _, stem = path.stem.partition("test_")
    endings = f"/{stem}.py", f"/_{stem}.py"
    mine = [name for name in known if name.endswith(endings)]
    return [name for name in mine if not test and name.startswith("tfmp/")]


def _imports(path: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = path.relative_to(root).as_posix().partition("/")[2]
    for _, name in house.dotted_imports(tree, inside):
        parts = name.split(".")
        for stem in ("/".join(parts), "/".join(parts[:-1])):
            for file in (f"{stem}.py", f"{stem}/__init__.py"):
                yield from {file, f"tests/{file}"} if stem else ()


def covering(
    changed: set[str], imports: dict[str, set[str]], steps: int
) -> list[list[str]]:
    """Returns the test files by distance from what was changed.

    Args:
        changed: files relative to the root.
        imports: of `graph`.
        steps: how many imports a test may be away.
    """
    reached, found = set(changed), []
    for _ in range(steps):
        new = {file for file, theirs in imports.items() if theirs & reached}
        new -= reached
        reached |= new
        tests = (file for file in new if file.startswith("tests/test_"))
        found.append(sorted(tests))
    return found


def main() -> None:
    """Prints the test files, one a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("changed", nargs="+", help="files, from the root")
    parser.add_argument("--steps", type=int, default=2, help="of imports")
    args = parser.parse_args()
    imports = graph(ROOT)
    unknown = sorted(set(args.changed) - set(imports))
    if unknown:
        parser.error(f"not a file of tfmp or of the tests: {unknown}")
    for tests in covering(set(args.changed), imports, args.steps):
        print("\n".join(tests)) if tests else None


if __name__ == "__main__":
    main()
