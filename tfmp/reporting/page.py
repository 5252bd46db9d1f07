"""The page: one HTML document with everything inside."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Iterable, Sequence

from tfmp.reporting import change_table
from tfmp.reporting.analysis import Analysis
from tfmp.reporting.drawing import Plot
from tfmp.reporting.markup import Html, element, joined, table
from tfmp.reporting.ranking import Standing
from tfmp.reporting.stylesheet import CSS
from tfmp.reporting.verdicts import LOOK, Finding, in_words, number, percent

WORST, WORST_OF_SEVERAL = 20, 8  # rows of a table
TITLES = (
    *("tensor", "format", "badness", "flushed", "clipped", "SQNR"),
    *("lag", "range used", "amax", "scale"),
)
BADNESS = (
    "Badness is the largest of: values flushed to zero / 5 %, values clipped "
    "/ 0.1 %, and noise against that of 20 dB. From 1 on a tensor is worth a "
    "look. Lag: bits by which the scale is too large. Typical of the later "
    "half of the samples."
)


def render(
    analyses: Sequence[Analysis],
    plots: Sequence[Sequence[Plot]],
    compared: Sequence[Plot],
) -> str:
    """Returns the document.

    Args:
        analyses: one a run.
        plots: of each run.
        compared: of all runs together.
    """
    title = f"Training report: {', '.join(each.name for each in analyses)}"
    several = len(analyses) > 1
    body = [
        element("header", element("h1", title)),
        *([_side_by_side(analyses, compared)] if several else []),
        *(
            _run(each, drawn, f"run-{at}", several)
            for at, (each, drawn) in enumerate(
                zip(analyses, plots, strict=True)
            )
        ),
        element("footer", "Written by tfmp report; the page needs no network."),
    ]
    head = [
        element("meta", charset="utf-8"),
        element(
            "meta",
            name="viewport",
            content="width=device-width, initial-scale=1",
        ),
        element("meta", name="generator", content="tfmp report"),
        # Without an icon of its own, a browser asks the server for one.
        Html('<link rel="icon" href="data:,">'),
        element("title", title),
        element("style", Html(CSS)),
    ]
    parts = [element("head", *head), element("body", element("main", *body))]
    return f"<!DOCTYPE html>\n{element('html', *parts, lang='en')}\n"


def _side_by_side(
    analyses: Sequence[Analysis], compared: Sequence[Plot]
) -> Html:
    links = [
        element("a", each.name, href=f"#run-{at}")
        for at, each in enumerate(analyses)
    ]
    worst = [
        element(
            "div", element("h3", each.name), _short_worst(each), class_="card"
        )
        for each in analyses
    ]
    return element(
        "section",
        element("h2", "Side by side"),
        element("nav", *links, aria_label="runs"),
        *map(_figure, compared),
        element("div", _final_numbers(analyses), class_="card"),
        element("div", *worst, class_="columns"),
    )


def _final_numbers(analyses: Sequence[Analysis]) -> Html:
    finals = [each.final_values() for each in analyses]
    keys = dict.fromkeys(key for final in finals for key in final)
    rows = [
        ["samples", *(str(len(a.run.steps)) for a in analyses)],
        ["steps", *(str(a.run.steps[-1]) for a in analyses)],
        *(
            [key, *(number(final.get(key, math.nan)) for final in finals)]
            for key in keys
        ),
        [
            "tensors worth a look",
            *(_share_of_bad(each) for each in analyses),
        ],
    ]
    names = [each.name for each in analyses]
    return table("Final numbers", ["", *names], rows)


def _share_of_bad(analysis: Analysis) -> str:
    known = [each for each in analysis.standings if each.because]
    if not known:
        return "unknown"
    return f"{sum(each.is_bad for each in known)} of {len(known)}"


def _short_worst(analysis: Analysis) -> Html:
    rows = [
        [each.tensor, _badness(each), in_words(each)]
        for each in analysis.standings[:WORST_OF_SEVERAL]
    ]
    return table("Worst tensors", ["tensor", "badness", "because"], rows)


def _run(
    analysis: Analysis, plots: Sequence[Plot], identity: str, several: bool
) -> Html:
    changes = analysis.run.changes
    changed = [change_table.render(changes)] if changes else []
    return element(
        "section",
        *([element("h2", analysis.name)] if several else []),
        element("div", _facts(analysis), _verdict(analysis), class_="card"),
        *(element("div", each, class_="card") for each in changed),
        element("div", _worst(analysis), class_="card"),
        *map(_figure, plots),
        id=identity,
    )


def _facts(analysis: Analysis) -> Html:
    run = analysis.run
    about = {k: str(v) for k, v in run.about.items() if k != "tensors"}
    if "started" in about:
        about["started"] = _date(run.about["started"])
    took = run.seconds[-1] - run.seconds[0]
    facts = {
        **about,
        "samples": str(len(run.steps)),
        "last step": str(run.steps[-1]),
        "tensors": str(len(run.tensors)),
        "logged for": _duration(float(took)),
    }
    pairs = [
        element("div", element("dt", key), element("dd", value))
        for key, value in facts.items()
    ]
    return element("dl", *pairs)


def _date(seconds: object) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(
            float(seconds),  # type: ignore[arg-type]
            datetime.timezone.utc,
        )
    except (OSError, OverflowError, TypeError, ValueError):
        return str(seconds)
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _duration(seconds: float) -> str:
    try:
        passed = datetime.timedelta(seconds=round(seconds))
    except (OverflowError, ValueError):  # not finite, or 2.7 million years
        return "unknown"
    return str(passed) if passed else "under a second"


def _verdict(analysis: Analysis) -> Html:
    notes = [Finding(LOOK, note) for note in analysis.run.notes]
    items = [
        element(
            "li",
            element("span", found.level, class_="level"),
            _with_code(found.text),
            class_=found.level.split()[-1],
        )
        for found in [*analysis.findings, *notes]
    ]
    return element("ul", *items)


def _with_code(text: str) -> Html:
    """Returns a text with what stands in backticks set as code."""
    parts: Iterable[str] = text.split("`")
    return joined(
        element("code", part) if at % 2 else part
        for at, part in enumerate(parts)
    )


def _worst(analysis: Analysis) -> Html:
    rows = [
        (
            *(each.tensor, each.format, _badness(each)),
            *(
                _share(each.measures[name])
                for name in ("underflow_share", "saturation_share")
            ),
            _measured(each, "sqnr", "{:.1f} dB"),
            _measured(each, "lag", "{:+.2f} bit"),
            _share(each.measures["range_share"]),
            *(number(each.amax, 3), number(each.scale)),
        )
        for each in analysis.standings[:WORST]
    ]
    left_out = len(analysis.standings) - len(rows)
    more = f" {left_out} better ones are left out." if left_out > 0 else ""
    return joined(
        [
            element("h3", "Worst tensors first"),
            element("p", f"{BADNESS}{more}", class_="faint"),
            table("The worst tensors", TITLES, rows),
        ]
    )


def _share(value: float) -> str:
    return number(value) if math.isnan(value) else percent(value)


def _measured(standing: Standing, name: str, pattern: str) -> str:
    value = standing.measures[name]
    return number(value) if math.isnan(value) else pattern.format(value)


def _badness(standing: Standing) -> str:
    """Returns it as text, of a tensor worth a look in bold and colour."""
    text = number(standing.badness, 2)
    return element("strong", text) if standing.is_bad else text


def _figure(plot: Plot) -> Html:
    data = base64.b64encode(plot.png).decode()
    return element(
        "figure",
        element("img", src=f"data:image/png;base64,{data}", alt=plot.alt),
        element("figcaption", plot.caption),
        class_="card",
    )
