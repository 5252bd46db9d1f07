"""Programs in new processes that have Keras and TensorFlow at once.

To import them takes four seconds.  A server does that and nothing else, and a
program's process is forked from it: it has what `import keras` leaves, and not
tfmp.  What is said of an import itself has to run in a `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import types

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 300
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["keras"])


class Program:
    """Python code that runs in a process of its own.

    Args:
        code: What it runs, as `python -c` does.
        *arguments: What follows the code on such a line.
        folder: Where it runs.
        path: Folders that it imports from, before those of Python.
        **environment: Variables that it has, besides those of this process.
    """

    def __init__(
        self,
        code: str,
        *arguments: str,
        folder: pathlib.Path = ROOT,
        path: tuple[pathlib.Path, ...] = (ROOT,),
        **environment: str,
    ) -> None:
        self.arguments = arguments
        self.written = tempfile.TemporaryDirectory()
        places = [str(each) for each in path]
        self.process = CONTEXT.Process(
            target=_run,
            args=(code, arguments, folder, places, environment, self.files),
        )
        self.process.start()

    @property
    def files(self) -> list[pathlib.Path]:
        folder = pathlib.Path(self.written.name)
        return [folder / "output", folder / "errors"]

    def wait(
        self, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Waits for its end; one that takes longer is killed."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, seconds)
        texts = [file.read_text(encoding="utf-8") for file in self.files]
        self.written.cleanup()
        return subprocess.CompletedProcess(
            self.arguments, self.process.exitcode, *texts
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def run(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Runs a `Program` to its end."""
    return Program(code, *arguments, **options).wait()


def _run(
    code: str,
    arguments: tuple[str, ...],
    folder: pathlib.Path,
    path: list[str],
    environment: dict[str, str],
    files: list[pathlib.Path],
) -> None:
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2)
    )
    os.chdir(folder)
    os.environ.update(environment)
    # Not the folders that pytest adds to those of this process.
    known = [each for each in sys.path if not _ours(each)]
    sys.path[:] = ["", *path, *known]
    sys.argv[:] = ["-c", *arguments]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), vars(main))


def _ours(folder: str) -> bool:
    places = [ROOT, *(ROOT / each for each in ("tests", "examples"))]
    places.append(ROOT / "benchmarks")
    return pathlib.Path(folder).resolve() in places
