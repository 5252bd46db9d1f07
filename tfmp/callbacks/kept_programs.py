"""Compiled steps of precisions that come back, kept while one `fit` lasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfmp._monitoring.train_functions import standing
from tfmp._switching.switch import Wanted, switch
from tfmp.callbacks.trace_signatures import Signature

NAMES = ("train_function", "test_function")


class KeptPrograms:
    """Gives a model back the step that it had in the same precision.

    Invariant: a step is kept only if its `Signature` has not changed since
    just before its first batch, and comes back only if that is so again.  The
    step that a `fit` begins with is not kept: it may have been traced before.

    Args:
        most: precisions whose steps are kept, the newest ones.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.empty()

    def empty(self) -> None:
        """Forgets all; the next change traces the step."""
        self._is_new = False
        self._traced: Signature | None = None
        self._kept: list[tuple[Signature, dict[str, Any]]] = []

    def step_begins(self, model: keras.Model) -> None:
        """Notes what the step depends on, if it may be traced now."""
        if self._is_new:
            self._is_new, self._traced = False, Signature(model)

    def switch(self, model: keras.Model, wanted: Mapping[str, Wanted]) -> None:
        """Changes a model as `switch` does.

        Args:
            model: built.
            wanted: by path.
        """
        traced, self._traced = self._traced, None
        if traced is not None and traced == Signature(model):
            self._kept.append((traced, _functions(model)))
        switch(model, wanted)
        self._is_new = self._most > 0
        now = Signature(model) if self._kept else None
        for each in list(self._kept):
            if each[0] == now:
                self._kept.remove(each)
                vars(model).update(each[1])
        del self._kept[: max(0, len(self._kept) - self._most)]


def _functions(model: keras.Model) -> dict[str, Any]:
    """Returns what Keras has made, without what callbacks stand before it."""
    return {name: _bare(getattr(model, name)) for name in NAMES}


def _bare(function: Any) -> Any:
    for each in standing(function):
        if hasattr(each, "remove"):  # as callbacks do when they end
            function = each.inner
    return function
