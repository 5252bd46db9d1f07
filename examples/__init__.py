"""Trainings on real data, each in four precisions: `python -m examples`."""

import pathlib
import sys

# The scripts here import each other by bare names; `python -m` does not look
# in their folder.
sys.path.append(str(pathlib.Path(__file__).resolve().parent))
