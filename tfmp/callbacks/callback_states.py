"""What callbacks know beside the model, for a backup of their training."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from tfmp._keras import callback_states as of_keras
from tfmp.callbacks import plain_states


@runtime_checkable
class Kept(Protocol):
    """A callback that goes on after a restart where it was.

    What it knows is in the backups of `tfmp.callbacks.BackupAndRestore`.
    """

    def get_state(self) -> dict[str, Any]:
        """Returns what it knows between two steps, as JSON has it."""

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `get_state` returned, the model restored before."""


def before(last: Any, callbacks: Sequence[Any]) -> list[Any]:
    """Returns the callbacks before `last`; warns of what those after it keep.

    They begin a `fit` after it, and so cannot take anything back.
    """
    place = callbacks.index(last) if last in callbacks else len(callbacks)
    late = [type(c).__name__ for c in callbacks[place + 1 :] if _keeps(c)]
    if late:
        warnings.warn(
            f"{type(last).__name__} is not the last of the callbacks: after a "
            f"restart, {', '.join(late)} will start over",
            RuntimeWarning,
            stacklevel=2,
        )
    return list(callbacks[:place])


def gather(callbacks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Returns what callbacks know, by their names.

    Raises:
        ValueError: if `get_state` of one fails, or returns what a backup
            would not give back equal.
    """
    return {
        name: _get(each) if _is_kept(each) else of_keras.get_state(each)
        for name, each in _named(callbacks)
        if _keeps(each)
    }


def give_back(
    callbacks: Iterable[Any],
    known: Mapping[str, Mapping[str, Any]],
    fresh: Mapping[str, Mapping[str, Any]],
) -> dict[str, Mapping[str, Any]]:
    """Has callbacks go on from what `gather` returned.

    One that was not there starts over; of one that is gone nothing is done.
    One that cannot take its state, as of an older version, starts over too,
    and a warning names it.

    Args:
        callbacks: as `gather` was given.
        known: what is in the backup.
        fresh: what `gather` returned as `fit` began.

    Returns:
        What was taken back.
    """
    taken: dict[str, Mapping[str, Any]] = {}
    for name, each in _named(callbacks):
        if name not in known or not _keeps(each):
            continue
        if not _is_kept(each):
            of_keras.set_state(each, known[name])
            taken[name] = known[name]
        elif _takes(each, known[name], fresh[name]):
            taken[name] = known[name]
    return taken


def _takes(
    callback: Any, state: Mapping[str, Any], fresh: Mapping[str, Any]
) -> bool:
    """Whether a callback takes its state; if not, it is as it was before."""
    try:
        callback.set_state(copy.deepcopy(state))
    except Exception as error:  # a callback raises what it happens on
        callback.set_state(copy.deepcopy(fresh))
        warnings.warn(
            f"{type(callback).__name__} starts over: it cannot take back the "
            f"state that the backup holds, {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


class Lost:
    """Notices what callbacks come to know that a backup does not hold.

    Of one that nobody knows, those are attributes that `fit` began with, and
    that have another value since.

    Args:
        callbacks: all of a `fit`, as it begins.
    """

    def __init__(self, callbacks: Iterable[Any] = ()) -> None:
        self._named = [
            (name, each)
            for name, each in _named(callbacks)
            if not _is_kept(each)
        ]
        self._start = {
            name: of_keras.simple_state(each)
            for name, each in self._named
            if not of_keras.is_of_keras(each)
        }

    def words(self) -> dict[str, str]:
        """Returns what a restart from now on will lose, by callback."""
        found = {name: self._of(name, each) for name, each in self._named}
        return {name: said for name, said in found.items() if said}

    def tell(self, words: Mapping[str, str]) -> None:
        """Warns, as a training goes on, of what callbacks do without.

        Args:
            words: of the training that goes on.
        """
        for name, each in self._named:
            if name in words:
                warnings.warn(
                    f"{type(each).__name__} goes on without what the backup "
                    f"does not hold, {words[name]}",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _of(self, name: str, callback: Any) -> str:
        if name not in self._start:
            return of_keras.lost(callback)
        start, now = self._start[name], of_keras.simple_state(callback)
        known = of_keras.get_state(callback)
        changed = [
            f"`{key}`"
            for key, value in now.items()
            if key in start and key not in known and start[key] != value
        ]
        if changed:
            return (
                f"{', '.join(changed)}: with methods `get_state()` and "
                "`set_state(state)` it could keep that"
            )
        return of_keras.lost(callback)


def _keeps(callback: Any) -> bool:
    return _is_kept(callback) or of_keras.keeps(callback)


def _is_kept(callback: Any) -> bool:
    """Whether a callback has both methods, with the arguments of `Kept`."""
    return isinstance(callback, Kept) and (
        plain_states.takes(callback.get_state)
        and plain_states.takes(callback.set_state, {})
    )


def _get(callback: Any) -> dict[str, Any]:
    """Returns a state, checked: those of tfmp take lists for tuples."""
    if Kept in type(callback).__mro__:
        state: dict[str, Any] = callback.get_state()
        return state
    return plain_states.of(callback)


def _named(callbacks: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yields callbacks by their classes' names; of one, by their order."""
    counts: dict[str, int] = {}
    for each in callbacks:
        name = type(each).__name__
        counts[name] = counts.get(name, 0) + 1
        yield f"{name} {counts[name]}", each
