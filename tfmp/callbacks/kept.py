"""What callbacks know beside the model, for a backup of their training."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


class Kept(abc.ABC):
    """A callback that goes on after a restart where it was.

    What it knows is in the backups of `tfmp.callbacks.BackupAndRestore`.
    """

    @abc.abstractmethod
    def knowledge(self) -> dict[str, Any]:
        """Returns what it knows between two steps, as JSON has it."""

    @abc.abstractmethod
    def go_on_from(self, knowledge: Mapping[str, Any]) -> None:
        """Takes back what `knowledge` returned, the model restored before."""


def before(last: Any, callbacks: Sequence[Any]) -> list[Any]:
    """Returns the callbacks before `last`; warns of what those after it keep.

    They begin a `fit` after it, and so cannot take anything back.
    """
    place = callbacks.index(last) if last in callbacks else len(callbacks)
    late = [type(c).__name__ for c in callbacks[place:] if isinstance(c, Kept)]
    if late:
        warnings.warn(
            f"{type(last).__name__} is not the last of the callbacks: after a "
            f"restart, {', '.join(late)} will begin anew",
            RuntimeWarning,
            stacklevel=2,
        )
    return list(callbacks[:place])


def gather(callbacks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Returns what callbacks know, by their names."""
    return {name: each.knowledge() for name, each in _named(callbacks)}


def give_back(
    callbacks: Iterable[Any], known: Mapping[str, Mapping[str, Any]]
) -> None:
    """Has callbacks go on from what `gather` returned.

    One that was not there begins anew; of one that is gone nothing is done.
    """
    for name, each in _named(callbacks):
        if name in known:
            each.go_on_from(known[name])


def _named(callbacks: Iterable[Any]) -> Iterator[tuple[str, Kept]]:
    """Yields those with something to keep; of one class, by their order."""
    counts: dict[str, int] = {}
    for each in callbacks:
        if isinstance(each, Kept):
            name = type(each).__name__
            counts[name] = counts.get(name, 0) + 1
            yield f"{name} {counts[name]}", each
