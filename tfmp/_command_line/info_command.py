"""`tfmp info`: the machine, the versions, and what `configure` would do."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import platform
from typing import Any

from tfmp._command_line import quiet_import
from tfmp._command_line.outcome import Command, Outcome
from tfmp._support import tables
from tfmp.version import VERSION

REQUIRED = ("tensorflow", "keras", "numpy")
OPTIONAL = {
    "matplotlib": "tfmp report",
    "tensorboard": "the monitor's TensorBoard files",
    "ai-edge-litert": "tfmp.export to LiteRT",
    "tf2onnx": "tfmp.export to ONNX",
    "onnxruntime": "tfmp.export to ONNX",
    "pyyaml": "precision maps in YAML",
}


def _run(options: argparse.Namespace) -> Outcome:
    quiet_import.import_tensorflow()
    from tfmp import hardware

    machine = hardware.detect()
    decision = hardware.decide(machine)
    fast = {name: name in machine.precisions for name in hardware.SINCE}
    versions = {
        "tfmp": VERSION,
        "python": platform.python_version(),
        **{name: _version(name) for name in REQUIRED},
    }
    data = {
        "versions": versions,
        "optional": {name: _version(name) for name in OPTIONAL},
        "hardware": dataclasses.asdict(machine),
        "fast": fast,
        "policy": decision.policy,
        "reason": decision.reason,
        "warnings": list(decision.warnings),
    }
    return Outcome(_text(data, str(machine)), data)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(data: dict[str, Any], machine: str) -> str:
    versions = [f"{k} {v or 'unknown'}" for k, v in data["versions"].items()]
    rows = [
        ("versions", ", ".join(versions)),
        ("hardware", machine),
        *(
            (name, "fast here" if fast else "right numerics, no speed here")
            for name, fast in data["fast"].items()
        ),
        ("tfmp.configure()", f"would set {data['policy']}"),
        ("because", data["reason"]),
        *(("note", warning) for warning in data["warnings"]),
    ]
    for name, version in data["optional"].items():
        found = version or f"not installed; for {OPTIONAL[name]}"
        rows.append((name, found))
    return "\n".join(tables.lines(rows))


COMMAND = Command(
    "info",
    "show hardware, versions, what is fast here and the policy that suits",
    lambda parser: None,
    _run,
)
