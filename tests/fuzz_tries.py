"""One try of a bad call, and what may become of it; see `fuzz.py`."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import logging
import os
import pathlib
import re
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import keras
from fuzz_values import Value, of
from hypothesis import strategies as st

import tfmp

ACCEPTED, FINDING = "accepted", "finding"
OUTCOMES = (ACCEPTED, "ValueError", "TypeError", "as Keras", FINDING)
SECONDS = 60
MAX_TEXT = 200
# A checkout's folder may have the library's name too.
LIBRARY = pathlib.Path(tfmp.__file__).parent
# TensorFlow's word on a tensor of a graph that is gone; it cannot be asked.
OUT_OF_SCOPE = "is out of scope and cannot be used here"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing to call, and what to call it with.

    Attributes:
        call: takes the arguments of `good` by name.
        good: makes arguments that are accepted.
        weight: how many tries it gets, in relation to the others; a call
            that compiles gets few.
        stock: the same call without tfmp; an exception that it raises too is
            not tfmp's.  Messages of Keras need not be as tfmp's are.
        raises: what else it may raise, by its docstring.
    """

    call: Callable[..., Any]
    good: Callable[[], Mapping[str, Any]]
    weight: float = 1.0
    stock: Callable[..., Any] | None = None
    raises: tuple[type[BaseException], ...] = ()

    def tries(self) -> st.SearchStrategy[dict[str, Value]]:
        """Returns a strategy of the arguments that are replaced."""
        names = sorted(self.good())
        if not names:
            return st.just({})
        drawn = {name: of(name) for name in names}
        pairs = [(a, b) for a in names for b in names if a < b]
        chosen = st.sampled_from([*([(n,) for n in names] * 3), *pairs])
        return chosen.flatmap(
            lambda some: st.fixed_dictionaries({n: drawn[n] for n in some})
        )


class Hang(BaseException):
    """A try that took longer than `SECONDS`."""


class Records(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one line."""
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Gives the warnings of a block, which ends after `SECONDS`."""

    def stop(*_: Any) -> None:
        raise Hang

    found: list[str] = []
    records, loggers = Records(), [logging.getLogger(n) for n in LOGGERS]
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    for logger in loggers:
        logger.addHandler(records)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        for logger in loggers:
            logger.removeHandler(records)
    found += [
        f"{w.category.__name__}: {w.message}"
        for w in caught
        if LIBRARY not in pathlib.Path(w.filename).parents
        and "tfmp" not in str(w.message)
        and not issubclass(w.category, DeprecationWarning)  # NumPy, to Keras
    ]
    found += [line for line in records.lines if "retracing" not in line]


LOGGERS = ("tensorflow", "absl")


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Puts back what a call may set: policy, Keras' own `Layer.__new__`."""
    policy, new = keras.config.dtype_policy(), keras.Layer.__dict__["__new__"]
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.Layer.__new__ = new


def keys(value: Any) -> set[str]:
    """Returns the keys of dictionaries in dictionaries."""
    if not isinstance(value, dict):
        return set()
    inner = (keys(each) for each in value.values())
    return set().union(map(str, value), *inner)


def judge(error: BaseException, entry: Entry, names: set[str]) -> str:
    """Returns the outcome of an exception.

    Args:
        error: what was raised.
        entry: by whom.
        names: all its arguments, and the keys in dictionaries among them.
    """
    if isinstance(error, entry.raises):
        return type(error).__name__
    if type(error) not in (ValueError, TypeError):
        return FINDING
    if entry.stock is None:
        text = str(error)
        named = re.findall(r"`(\w+)", text)
        ours = names & set(named) and "Received" in text
        if not ours and OUT_OF_SCOPE not in text:
            return FINDING
    return type(error).__name__


def attempt(entry: Entry, changed: Mapping[str, Value]) -> tuple[str, str]:
    """Makes one try.

    Returns:
        One of `OUTCOMES` or a class of `entry.raises`, and of a finding what
        it is.
    """
    made = {name: value() for name, value in changed.items()}
    arguments = {**entry.good(), **made}
    error: BaseException | None = None
    noise: list[str] = []
    try:
        with left_alone(), watched() as noise:
            entry.call(**arguments)
    except (Exception, Hang) as caught:
        error = caught
    given = ", ".join(f"{n}={_text(v)}" for n, v in made.items())
    if error is None and not noise:
        return ACCEPTED, ""
    outcome = FINDING
    if error is not None and not noise:
        outcome = judge(error, entry, keys(arguments))
    if outcome != FINDING:
        return outcome, ""
    if entry.stock and _does(entry.stock, arguments) == (
        type(error),
        bool(noise),
    ):
        return "as Keras", ""
    what = _text(f"{type(error).__name__}: {error} {noise or ''}", str)
    return FINDING, f"{given} => {what}"


def _does(
    stock: Callable[..., Any], arguments: Mapping[str, Any]
) -> tuple[type, bool]:
    """Returns the class of what a call raises, and whether it warns."""
    error, noise = None, []
    try:
        with left_alone(), watched() as noise:
            stock(**arguments)
    except (Exception, Hang) as caught:
        error = caught
    return type(error), bool(noise)


def _text(value: Any, show: Callable[[Any], str] = repr) -> str:
    try:
        text = show(value)
    except Exception as error:
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    text = " ".join(text.encode("ascii", "backslashreplace").decode().split())
    return text if len(text) < MAX_TEXT else text[:MAX_TEXT] + "..."


@dataclasses.dataclass
class Tally:
    """What became of the tries of one entry.

    Attributes:
        counts: by outcome.
        findings: the first example of each kind.
    """

    counts: collections.Counter[str]
    kinds: dict[str, str]

    @property
    def findings(self) -> list[str]:
        """What was found, once each."""
        return list(self.kinds.values())

    @property
    def tries(self) -> int:
        """How many there were."""
        return sum(self.counts.values())


def run(entry: Entry, tries: int, seed: int | None = None) -> Tally:
    """Makes a number of tries.

    Args:
        entry: what to call.
        tries: how many; fewer if there are no more.
        seed: of the values; None for those that are always the same.
    """
    tally = Tally(collections.Counter(), {})

    @hypothesis.settings(
        max_examples=max(1, tries),
        derandomize=seed is None,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(entry.tries())
    def every(changed: dict[str, Value]) -> None:
        outcome, text = attempt(entry, changed)
        tally.counts[outcome] += 1
        if text:
            words = re.findall("[a-zA-Z]{3,}", text.split(" => ")[-1])
            tally.kinds.setdefault(" ".join([*changed, *words[:4]]), text)

    if seed is not None:
        every = hypothesis.seed(seed)(every)
    every()
    return tally


def parameters(value: Any) -> set[str]:
    """Returns the names of a callable's arguments, but for `*args`."""
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(value).parameters.values()
    return {p.name for p in found if p.kind not in many}
