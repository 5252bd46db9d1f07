"""The training of the monitor's guide, run for the pictures of its report.

    python docs/monitored.py

draws them to `docs/images/`; the test of that guide compares them with what its
training gives today.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from tfmp import reporting

HERE = pathlib.Path(__file__).parent


def draw(folder: pathlib.Path) -> None:
    """Writes the pictures of the guide to `folder/report_<name>.png`."""
    page = (HERE / "guides" / "monitor.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.M)
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(
            [sys.executable, "-c", "".join(blocks)],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        files = reporting.write_report(f"{work}/logs", f"{work}/report.html")
        for plot in files.plots:
            if f"report_{plot.name}" in page:
                shutil.copy(plot, folder / f"report_{plot.name}")


if __name__ == "__main__":
    draw(HERE / "images")
