"""What a run's numbers say, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfmp._support import advice
from tfmp.reporting import mended
from tfmp.reporting.logs import Run
from tfmp.reporting.ranking import Standing

GOOD, LOOK, BAD = "good", "worth a look", "bad"
VERY_BAD = 10.0  # times over a limit
MOST_SAID = 20
SKIPPED_LOOK, SKIPPED_BAD = 0.01, 0.1  # shares of the steps
LOST_UPDATES = 0.05


class Finding(NamedTuple):
    """One thing to know: `"good"`, `"worth a look"` or `"bad"`."""

    level: str
    text: str


def findings(run: Run, standings: Sequence[Standing]) -> list[Finding]:
    """Returns what there is to say about a run, the worst first."""
    found = [
        _loss(run),
        *_said(run),
        _rollbacks(run),
        _tensors(run, standings),
        _skipped(run),
        _loss_scale(run),
        _lost_updates(run),
    ]
    present = [finding for finding in found if finding]
    order = (BAD, LOOK, GOOD)
    return sorted(present, key=lambda finding: order.index(finding.level))


def _said(run: Run) -> list[Finding]:
    """Returns what the monitor warned of, and whether that was mended."""
    found = []
    for step, text in run.said[:MOST_SAID]:
        cure = mended.since(run, text)
        end = f"; {cure}" if cure else ""
        level = GOOD if cure else LOOK
        text = mended.without_advice(text) if cure else text
        said = f"The monitor warned at step {step}. {text}{end}."
        found.append(Finding(level, said))
    return found


def _rollbacks(run: Run) -> Finding | None:
    steps = [str(c.step) for c in run.changes if c.kind == "rollback"]
    if not steps:
        return None
    return Finding(
        LOOK,
        f"The training went back to an earlier state at step "
        f"{', '.join(steps[:MOST_SAID])}: see the changes of precision.",
    )


def in_words(standing: Standing) -> str:
    """Returns what is wrong with a tensor, with its number."""
    value = standing.measures.get(standing.because, math.nan)
    return {
        "underflow_share": f"{percent(value)} flushed to zero",
        "saturation_share": f"{percent(value)} clipped",
        "sqnr": f"SQNR {value:.1f} dB",
    }.get(standing.because, "no statistics")


def percent(share: float) -> str:
    """Returns a share in percent, with digits for small ones too.

    >>> percent(0.5), percent(0.0123), percent(2e-6), percent(0)
    ('50 %', '1.2 %', '0.0002 %', '0 %')
    """
    if not share or not math.isfinite(share * 100):
        return f"{share * 100:.0f} %" if share == 0 else "unknown"
    digits = max(0, 1 - math.floor(math.log10(abs(share) * 100) + 1e-9))
    text = f"{share * 100:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def number(value: Any, digits: int = 4) -> str:
    """Returns a number for people, a dash for one that is missing.

    >>> number(32768.0), number(0.123456), number(float("nan"))
    ('32768', '0.1235', '–')
    """  # noqa: RUF002
    if math.isnan(value):
        return "–"  # noqa: RUF001
    if math.isinf(value):
        return "not finite"
    whole = value == int(value) and abs(value) < 10**9
    return str(int(value)) if whole else f"{value:.{digits}g}"


def _loss(run: Run) -> Finding | None:
    if math.isinf(run.last("logs/loss")):
        return Finding(BAD, f"{advice.NOT_FINITE}.")
    seen = run.losses[np.isfinite(run.losses)]
    if not len(seen):
        return None
    first, last = float(seen[0]), float(seen[-1])
    way = f"from {number(first)} to {number(last)}"
    if last < first:
        return Finding(GOOD, f"The loss fell {way}.")
    return Finding(LOOK, f"The loss did not fall: {way}.")


def _tensors(run: Run, standings: Sequence[Standing]) -> Finding | None:
    left = [s for s in standings if mended.has_left(run, s.tensor)]
    known = [s for s in standings if s.because and s not in left]
    if left and not known:
        return Finding(GOOD, "The tensors that were in FP8 have left it since.")
    if not standings:
        return Finding(LOOK, "No layer of the model is in FP8.")
    if not known:
        return Finding(
            LOOK,
            "The log has no statistics of tensors, only amax and scale: what "
            "FP8 costs here cannot be said.",
        )
    many = f"{len(known)} tensors" if len(known) > 1 else "one tensor"
    bad = [each for each in known if each.is_bad]
    if not bad:
        if math.isinf(run.last("logs/loss")):
            return None  # nothing is good about numbers that are none
        return Finding(GOOD, f"FP8 has room for all of the {many}.")
    worst = bad[0]
    level = BAD if worst.badness >= VERY_BAD else LOOK
    return Finding(
        level,
        f"FP8 is tight for {len(bad)} of {many}. The worst is "
        f"{worst.tensor}: {in_words(worst)}. If that is too much: "
        f"{advice.cure(worst.tensor, worst.because, worst.measures)}.",
    )


def _skipped(run: Run) -> Finding | None:
    skipped = run.last("skipped_steps")
    steps = int(run.steps[-1])
    if not math.isfinite(skipped) or steps < 1:
        return None
    if not skipped:
        return Finding(GOOD, f"None of {steps} steps was skipped.")
    share = skipped / steps
    text = f"{skipped:.0f} of {steps} steps were skipped ({percent(share)})"
    if share < SKIPPED_LOOK:
        return Finding(GOOD, f"{text}: a loss scale finding its place.")
    level = BAD if share >= SKIPPED_BAD else LOOK
    help = "`tfmp.debug.find_nonfinite` names the first layer that overflows"
    return Finding(level, f"{text}. {help}.")


def _loss_scale(run: Run) -> Finding | None:
    last = run.last("loss_scale")
    skipped = run.last("skipped_steps") / max(1, int(run.steps[-1]))
    if math.isnan(last) or skipped >= SKIPPED_BAD:
        return None
    if 1 <= last < math.inf:
        ended = "ended at" if run.varies("loss_scale") else "was always"
        return Finding(GOOD, f"The loss scale {ended} {number(last)}.")
    return Finding(
        LOOK, f"The loss scale ended at {number(last)}: gradients overflow."
    )


def _lost_updates(run: Run) -> Finding | None:
    share = run.last("lost_updates_share")
    if not math.isfinite(share):
        return None
    text = f"{percent(share)} of the updates were too small for the variables"
    if share < LOST_UPDATES:
        return Finding(GOOD, f"{text}.")
    help = "variables in float32 (a `mixed_` policy) keep them"
    return Finding(LOOK, f"{text}, which are of 16 bits; {help}.")
