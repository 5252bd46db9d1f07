"""The rules of the house as functions: each returns what breaks it.

`test_architecture.py` runs them on tfmp, and on code that is wrong.
"""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

MAX_LINES, MAX_BODY, MAX_PARAMETERS = 300, 45, 8
INSIDE = re.compile(r"\btfmp\._[a-z]\w*")
PRIVATE = ("keras.src", "tensorflow.compiler", "tensorflow.python")
MUTABLE = {"list", "dict", "set", "defaultdict", "deque", "OrderedDict"}
MUTATORS = {"add", "append", "clear", "discard", "extend", "insert", "pop"}
MUTATORS |= {"popitem", "remove", "setdefault", "update"}

Levels = Sequence[Sequence[str]]


def dotted_imports(tree: ast.AST, path: str) -> Iterator[tuple[str, str]]:
    """Yields each import at any depth: the name it binds, and what it names.

    `import a.b` is `("a", "a.b")`, `from a import b as c` is `("c", "a.b")`.

    Args:
        tree: what `ast.parse` made of the file.
        path: the file below tfmp/, such as `layers/dense.py`.
    """
    package = ["tfmp", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield each.asname or each.name.split(".")[0], each.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level]
            base = [
                *(above if node.level else ()),
                *(node.module or "").split(),
            ]
            for each in node.names:
                yield each.asname or each.name, ".".join([*base, each.name])


def third_party(tree: ast.AST, path: str) -> set[str]:
    """Returns what a file imports that is neither tfmp nor Python's own."""
    names = {name.split(".")[0] for _, name in dotted_imports(tree, path)}
    return names - {"tfmp"} - sys.stdlib_module_names


def room(path: str) -> str:
    """Returns the row of the table that a file belongs to."""
    return path.split("/")[0].removesuffix(".py")


def _imported_file(name: str, files: Mapping[str, str]) -> str | None:
    _, *parts = name.split(".")
    for inner in (parts, parts[:-1]):
        stem = "/".join(inner)
        for path in (f"{stem}.py", f"{stem}/__init__.py".lstrip("/")):
            if path in files:
                return path
    return None


def imports_within(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Returns, for each file of tfmp, the files of tfmp that it imports."""
    return {
        path: {
            found
            for _, name in dotted_imports(ast.parse(text), path)
            if name.split(".")[0] == "tfmp"
            and (found := _imported_file(name, files)) not in (None, path)
        }
        for path, text in files.items()
    }


def check_levels(files: Mapping[str, str], levels: Levels) -> list[str]:
    """A file imports from lower levels, or beside it in its own package.

    Nothing in a package imports the package itself, and no files import one
    another in a circle.
    """
    level = {name: at for at, names in enumerate(levels) for name in names}
    rooms = {room(path) for path in files}
    problems = [f"{name}: not in the table" for name in rooms - set(level)]
    problems += [f"{name}: in the table only" for name in set(level) - rooms]
    graph = imports_within(files)
    for path, targets in graph.items():
        for target in sorted(targets):
            here, there = room(path), room(target)
            beside = here == there and not target.endswith("__init__.py")
            if not beside and level.get(here, 0) <= level.get(there, 0):
                problems.append(f"{path}: imports {target}")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1][:0:-1]
        first = circle.index(min(circle))
        circle = [*circle[first:], *circle[:first], circle[first]]
        problems.append(f"circle: {' -> '.join(circle)}")
    return sorted(problems)


def _is_private(name: str) -> bool:
    parts = name.split(".")
    if parts[0] == "tfmp":
        parts = parts[2:]  # the rooms of tfmp know one another
    hidden = any(re.match(r"_(?!_)|__internal__$", part) for part in parts)
    return hidden or f"{name}.".startswith(tuple(f"{p}." for p in PRIVATE))


def insides_named(text: str) -> list[str]:
    """Returns each text of a file, of an error or a docstring, with an inside.

    What a user reads names what a user can import.
    """
    strings = (
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return [name for each in strings for name in INSIDE.findall(each)]


def _attribute_name(node: ast.AST, known: Mapping[str, str]) -> str:
    """Returns `a.b.c` with `a` as it was imported; empty for all else."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = _attribute_name(node.value, known)
        return base and f"{base}.{node.attr}"
    return ""


def private_uses(tree: ast.AST, path: str) -> list[str]:
    """Returns each import and attribute of another's private parts.

    An import by computed name counts as one: nobody can tell.
    """
    imports = list(dotted_imports(tree, path))
    found = [name for _, name in imports if _is_private(name)]
    # `import a.b` binds `a`, all else binds what it names.
    known = {
        bound: bound if name.split(".")[0] == bound else name
        for bound, name in imports
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            outer = _attribute_name(node.value, known)
            if _is_private(f"{outer}.{node.attr}") and not _is_private(outer):
                found += [f"{outer}.{node.attr}"] if outer else []
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.split(".")[-1] in ("__import__", "import_module"):
                found.append(called)
    return found


def check_sizes(text: str) -> list[str]:
    """A file has at most 300 lines, a function's body at most 45."""
    lines = len(text.splitlines())
    problems = [f"{lines} lines"] if lines > MAX_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            has_more = ast.get_docstring(node) and len(node.body) > 1
            first = node.body[1 if has_more else 0]
            size = (node.end_lineno or 0) - first.lineno + 1
            if size > MAX_BODY:
                problems.append(f"{node.name}: {size} lines of body")
    return problems


def check_habits(text: str) -> list[str]:
    """No assert, bare except, print, global, or note to do it later."""
    marks = re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", text)
    for node in ast.walk(ast.parse(text)):
        bare = isinstance(node, ast.ExceptHandler) and node.type is None
        prints = isinstance(node, ast.Call) and (
            isinstance(node.func, ast.Name) and node.func.id == "print"
        )
        if bare or prints or isinstance(node, ast.Assert | ast.Global):
            marks.append(f"{node.lineno}: {ast.unparse(node).splitlines()[0]}")
    return marks


def _module_containers(tree: ast.Module) -> Iterator[str]:
    displays = ast.List | ast.Dict | ast.Set
    displays |= ast.ListComp | ast.DictComp | ast.SetComp
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not node.value:
            continue
        made = isinstance(node.value, ast.Call) and (
            ast.unparse(node.value.func).split(".")[-1] in MUTABLE
        )
        if made or isinstance(node.value, displays):
            many = isinstance(node, ast.Assign)
            for target in node.targets if many else [node.target]:
                yield ast.unparse(target)


def _changed_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            if not isinstance(node.ctx, ast.Load):
                yield ast.unparse(node.value)
        elif isinstance(node, ast.AugAssign):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.Call) and isinstance(
            node.func, ast.Attribute
        ):
            if node.func.attr in MUTATORS:
                yield ast.unparse(node.func.value)


def check_state(text: str) -> list[str]:
    """A module's containers are constants: upper case, and never changed."""
    tree = ast.parse(text)
    changed = set(_changed_names(tree))
    return [
        name
        for name in _module_containers(tree)
        if name != "__all__" and (name != name.upper() or name in changed)
    ]


def level_table(text: str) -> list[set[str]]:
    """Returns the names in each level of a Markdown table of levels."""
    levels: dict[int, set[str]] = {}
    for level, names in re.findall(r"^\| (\d+) \| (.*?) \|", text, re.M):
        levels.setdefault(int(level), set()).update(
            re.findall(r"`(\w+)`", names)
        )
    return [levels[level] for level in sorted(levels)]


def public_names(module: types.ModuleType) -> dict[str, object]:
    """Returns what `__all__` lists, or else tfmp's functions and classes."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and (value.__module__ or "").split(".")[0] == "tfmp"
    }


def check_documented(name: str, value: object, prose: str) -> list[str]:
    """A public name has its docstring, an example, and a word in the prose."""
    problems = []
    if not re.search(rf"\b{re.escape(name)}\b", prose):
        problems.append(f"{name}: in no page")
    is_module, is_class = inspect.ismodule(value), inspect.isclass(value)
    if not (is_module or is_class or callable(value)):
        return problems
    text = (vars(value) if is_class else {"__doc__": value.__doc__})["__doc__"]
    if not text or (is_class and text.startswith(f"{value.__name__}(")):
        problems.append(f"{name}: no docstring of its own")
    elif not is_module and not re.search(r"^\s*(>>> |```)", text, re.MULTILINE):
        problems.append(f"{name}: no example in its docstring")
    return problems


def callables_of(
    modules: Mapping[str, types.ModuleType],
) -> dict[str, Callable[..., Any]]:
    """Returns each public function, class and method that is tfmp's own.

    What a class has from Keras has Keras' signature, and is left out.
    """
    found = {}
    for module_name, module in modules.items():
        for name, value in public_names(module).items():
            if not callable(value):
                continue
            found[f"{module_name}.{name}"] = value
            if inspect.isclass(value):
                for key in dir(value):
                    member = getattr(value, key)
                    if not key.startswith("_") and callable(member):
                        found[f"{module_name}.{name}.{key}"] = member
    return {
        name: value
        for name, value in found.items()
        if (getattr(value, "__module__", "") or "").split(".")[0] == "tfmp"
    }


def results_of(callables: Mapping[str, Callable[..., Any]]) -> set[str]:
    """Returns the names of classes that tfmp makes, and users only read.

    They are what a function returns, or a field of such a result holds.
    """
    classes = [c for c in callables.values() if dataclasses.is_dataclass(c)]
    said = [
        str(getattr(value, "__annotations__", {}).get("return", ""))
        for value in callables.values()
    ]
    said += [str(f.type) for c in classes for f in dataclasses.fields(c)]
    named = set(re.findall(r"\w+", " ".join(said)))
    return {c.__name__ for c in classes} & named


def check_parameters(
    callables: Mapping[str, Callable[..., Any]],
) -> list[str]:
    """A public callable has at most eight parameters, `**kwargs` as one."""
    results, problems = results_of(callables), []
    for name, value in callables.items():
        if inspect.isclass(value) and value.__name__ in results:
            continue
        names = [n for n in inspect.signature(value).parameters if n != "self"]
        if len(names) > MAX_PARAMETERS:
            problems.append(f"{name}: {len(names)} parameters")
    return problems


def sets_or_calls(text: str, name: str) -> bool:
    """Whether code gives an attribute a value, or calls a function, so named.

    >>> sets_or_calls("layer.__class__ = kind", "__class__")
    True
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr == name:
            if isinstance(node.ctx, ast.Store):
                return True
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func).split(".")[-1] == name:
                return True
    return False
