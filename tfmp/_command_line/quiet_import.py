"""TensorFlow imported without what it logs for information.

It does so before it reads `TF_CPP_MIN_LOG_LEVEL`, straight to file 2.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
INFORMATION = re.compile(r"I\d{4} |WARNING: All log messages before absl::")


def import_tensorflow() -> None:
    """Imports TensorFlow; warnings and errors that it logs are shown.

    All is shown as it comes where `TF_CPP_MIN_LOG_LEVEL` is 0.
    """
    if "tensorflow" in sys.modules or os.environ.get(LEVEL) == "0":
        return
    os.environ.setdefault(LEVEL, "2")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        shown = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            log.seek(0)
            for line in log.read().decode(errors="replace").splitlines():
                if not INFORMATION.match(line):
                    sys.stderr.write(f"{line}\n")
