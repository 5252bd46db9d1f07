"""Everything public: it has a place in the reference, and links lead there."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable

DIRECTIVE = re.compile(r"^\.\. (currentmodule|auto\w+):: ([\w.]+)$")
NAME = re.compile(r"(tfmp\.[\w.]+|[A-Z]\w+)(\(.*\))?", re.DOTALL)
EXCLUDED = re.compile(r"^   :exclude-members: (.*)$")


def public_modules() -> list[str]:
    """Returns `tfmp` and the modules that it exports.

    >>> "tfmp.layers" in public_modules()
    True
    """
    package = importlib.import_module("tfmp")
    inside = [
        f"tfmp.{name}"
        for name in package.__all__
        if inspect.ismodule(getattr(package, name))
    ]
    return ["tfmp", *inside]


def public_names(module: str) -> dict[str, object]:
    """Returns the functions and classes of a module, by name.

    >>> "Format" in public_names("tfmp.formats")
    True
    """
    loaded = importlib.import_module(module)
    exported = getattr(loaded, "__all__", None)
    return {
        name: value
        for name, value in vars(loaded).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and (
            value.__module__ == module and not name.startswith("_")
            if exported is None
            else name in exported
        )
    }


def missing(known: Iterable[str]) -> list[str]:
    """Returns what is public and under none of its names among the known.

    >>> "tfmp.convert" in missing([])
    True
    >>> "tfmp.convert" in missing(["tfmp.conversion.convert"])
    False
    """
    names: dict[int, list[str]] = {}
    for module in public_modules():
        for name, value in public_names(module).items():
            names.setdefault(id(value), []).append(f"{module}.{name}")
    known = set(known)
    return [group[0] for group in names.values() if not known & {*group}]


def find(text: str, known: Iterable[str]) -> str | None:
    """Returns the known name that a literal stands for, None if not one.

    >>> find("Policy(name)", ["tfmp.Policy", "tfmp.layers.Dense"])
    'tfmp.Policy'
    >>> find("Dense", ["tfmp.layers.Dense", "tfmp.other.Dense"]) is None
    True
    """
    match = NAME.fullmatch(text)
    if match is None:
        return None
    name = match[1]
    found = [k for k in known if k == name or k.endswith(f".{name}")]
    return name if name in found else found[0] if len(found) == 1 else None


def documented(page: str) -> set[str]:
    r"""Returns what the directives of a page document, with all names.

    >>> documented(".. currentmodule:: tfmp\n.. autoclass:: Policy")
    {'tfmp.Policy'}
    >>> "tfmp.ops.amax" in documented(".. automodule:: tfmp.ops")
    True
    """
    found: set[str] = set()
    module, lines = "", page.splitlines()
    for line, option in zip(lines, [*lines[1:], ""], strict=True):
        match = DIRECTIVE.match(line)
        if match is None:
            continue
        kind, name = match.groups()
        if kind == "currentmodule":
            module = name
        elif kind != "automodule":
            found.add(name if "." in name else f"{module}.{name}")
        elif ":no-members:" not in option:
            excluded = EXCLUDED.match(option)
            left_out = excluded[1].split(", ") if excluded else []
            members = set(public_names(name)) - set(left_out)
            found |= {f"{name}.{member}" for member in members}
    return found
