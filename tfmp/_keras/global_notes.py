"""Notes in Keras' global state: that the user converts, and the global seed.

Keras has one place for what holds for a whole program, which
`keras.utils.clear_session` empties.  Whether to warn of stock layers is such a
note.  The seed that layers without one share is another; looking at it must
not make it.  `tests/test_stock_layers.py` and `tests/test_debug.py` tell.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

from keras.src.backend.common import global_state

KNOWN = "tfmp_conversion_known"


def conversion_is_known() -> bool:
    """Whether stock layers are in FP8 hands already, or soon will be."""
    return bool(global_state.get_global_attribute(KNOWN))


def conversion_known(known: bool = True) -> None:
    """Says that the user converts: no need to tell how."""
    global_state.set_global_attribute(KNOWN, known)


@contextlib.contextmanager
def converting_children() -> Iterator[None]:
    """Says that the stock layers made inside are about to be converted."""
    before = conversion_is_known()
    conversion_known()
    try:
        yield
    finally:
        conversion_known(before)


@contextlib.contextmanager
def seed_kept() -> Iterator[Any]:
    """Gives the variable of Keras' global seed, and forgets a new one.

    A new one would have been drawn from Python's random numbers.
    """
    name, python = "global_seed_generator", random.getstate()
    before = global_state.get_global_attribute(name)
    try:
        yield None if before is None else before.state
    finally:
        global_state.set_global_attribute(name, before)
        random.setstate(python)
