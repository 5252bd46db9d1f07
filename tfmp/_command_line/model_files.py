"""Models from `.keras` files, and back into them."""

from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import re
import sys
import tempfile
import zipfile
from typing import Any

from tfmp._command_line import overwriting, quiet_import

SUFFIX = ".keras"
UNKNOWN = re.compile(
    "(?:Could not (?:locate|deserialize) \\w+ '|"
    "Cannot deserialize object of type `)([^'`]+)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what every command has that reads a model, and takes sizes."""
    add_model(parser)
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=32,
        metavar="N",
        help="to assume for an open first length (32)",
    )
    parser.add_argument(
        "--length",
        type=positive,
        default=512,
        metavar="N",
        help="to assume for any other open length (512)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds what every command has that reads a model."""
    parser.add_argument("model", metavar="MODEL.keras", help="the model's file")
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="import this first, for layers of your own; may be repeated",
    )


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds what every command has that writes a model."""
    parser.add_argument("out", metavar="OUT.keras", help="the file to write")
    overwriting.add_argument(parser, "OUT.keras")


def checked_out(text: str, force: bool) -> pathlib.Path:
    """Returns the path of a file to write, which has to be free."""
    out = pathlib.Path(text)
    if out.suffix != SUFFIX:
        raise ValueError(f"OUT.keras must end in {SUFFIX}; it is {text}")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent}")
    overwriting.check(out, force)
    return out


def positive(text: str) -> int:
    """Returns the number of an argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a positive integer: {text!r}")
    return int(text)


def load(path: str, modules: list[str]) -> Any:
    """Returns the model of a file.

    Args:
        path: of the file.
        modules: to import before, from the current folder too.

    Raises:
        ValueError: if there is no such file, it is broken, or Keras cannot
            read it.
        ImportError: if a module is not there.
    """
    if not path.endswith(SUFFIX):
        raise ValueError(f"the model must be a {SUFFIX} file, not {path}")
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a {SUFFIX} file, or is cut short")
    quiet_import.import_tensorflow()
    run_package()
    sys.path.append(os.getcwd())
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        sys.path.remove(os.getcwd())
    import keras

    try:
        return keras.models.load_model(path)
    except Exception as error:
        raise ValueError(_in_words(path, str(error))) from error


def _in_words(path: str, error: str) -> str:
    """Keras says in a page that a class of the user's is missing."""
    if unknown := UNKNOWN.search(error):
        return (
            "use --import MODULE to name the module that registers "
            f"{unknown[1]!r}, which {path} needs"
        )
    return f"Keras cannot read {path}: {error}"


def run_package() -> None:
    """Runs `tfmp/__init__.py`, if the command has started without it.

    The layers are then registered with Keras, and the modules of users find
    the package as they know it.
    """
    package = sys.modules["tfmp"]
    if not hasattr(package, "__all__"):
        package.__spec__.loader.exec_module(package)  # type: ignore[union-attr]


def save(model: Any, path: pathlib.Path) -> None:
    """Writes a model's file in one step."""
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}-"
    ) as folder:
        draft = pathlib.Path(folder, path.name)
        model.save(draft)
        os.replace(draft, path)
