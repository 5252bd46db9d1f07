"""What tfmp changes in Keras, changed once, when tfmp is first used.

`import tfmp` changes nothing.  A module that has to stand before a method of
Keras says so with `on_first_use`; the first policy or optimizer of tfmp that is
made calls `used`.  Before that no model can need it.
"""

from __future__ import annotations

from collections.abc import Callable

_waiting: list[Callable[[], None]] = []


def on_first_use(install: Callable[[], None]) -> None:
    """Has `install` called once, when tfmp is first used."""
    _waiting.append(install)


def used() -> None:
    """Does what waits for this."""
    while _waiting:
        _waiting.pop()()
