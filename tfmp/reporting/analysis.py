"""Everything that a report says about one run."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfmp.reporting import curves, heat_maps, histograms, logs, ranking
from tfmp.reporting.drawing import Plot
from tfmp.reporting.logs import Run
from tfmp.reporting.ranking import Standing
from tfmp.reporting.verdicts import Finding, findings


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A run, and what its numbers say.

    Attributes:
        name: of the run, short.
        run: its log.
        standings: its tensors, the worst first.
        findings: in words, the worst first.
    """

    name: str
    run: Run
    standings: list[Standing]
    findings: list[Finding]

    def plots(self, prefix: str) -> list[Plot]:
        """Returns the pictures; a log without statistics has fewer."""
        drawn = [
            curves.draw({self.name: self.run}, f"{prefix}loss"),
            *(
                heat_maps.draw(self.run, measure, f"{prefix}{measure}")
                for measure in heat_maps.TITLES
            ),
            histograms.draw(self.run, self.standings, f"{prefix}histograms"),
        ]
        return [plot for plot in drawn if plot]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-serialisable values."""
        final = self.final_values()
        return {
            "name": self.name,
            "log_dir": str(self.run.folder),
            "about": {
                k: v for k, v in self.run.about.items() if k != "tensors"
            },
            "samples": len(self.run.steps),
            "steps": int(self.run.steps[-1]),
            "final": {
                k: v if np.isfinite(v) else None for k, v in final.items()
            },
            "findings": [found._asdict() for found in self.findings],
            "said": [list(each) for each in self.run.said],
            "changes": [each.to_dict() for each in self.run.changes],
            "tensors": [each.to_dict() for each in self.standings],
            "notes": list(self.run.notes),
        }

    def final_values(self) -> dict[str, float]:
        """Returns the newest value of all that is not about one tensor."""
        about = {f"{t}/{m}" for t in self.run.tensors for m in logs.MEASURES}
        return {
            key.removeprefix("logs/"): self.run.last(key)
            for key in self.run.series
            if key not in about
        }


def analyse(log_dirs: list[Any]) -> list[Analysis]:
    """Reads and judges several runs.

    Raises:
        TypeError: if one of `log_dirs` is no path.
        ValueError: if one of them has no samples.
    """
    runs = [logs.read(log_dir) for log_dir in log_dirs]
    found = []
    for name, run in zip(logs.names(runs), runs, strict=True):
        standings = ranking.rank(run)
        judged = findings(run, standings)
        found.append(Analysis(name, run, standings, judged))
    return found
