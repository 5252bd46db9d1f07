"""What the documents and docstrings say is run.

A `python` block of a page that is no guide runs in a process of its own.  The
line before it may be `<!-- no-run -->`, or `<!-- continues -->`: then the
block before it runs first, in the same process.

All `python` blocks of a guide in docs/ are one program, and its `text` blocks
are what it prints, `...` standing for anything.  The commands `tfmp ...` of its
`bash` blocks run after it, in the same folder.
"""

from __future__ import annotations

import doctest
import importlib
import pathlib
import re
import shlex
import subprocess
import types

import forked
import pytest
from pages import GUIDES, IMAGES, PAGES, ROOT, blocks, looks_like, read

MARKS = ("no-run", "continues")
COMMAND = "import sys, tfmp_command; sys.exit(tfmp_command.main())"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    )
    for path in (ROOT / "tfmp").rglob("*.py")
)


def programs(page: str) -> dict[int, str]:
    """Returns the programs of a page, by the line each one starts at."""
    found, text = {}, ""
    for block in blocks(page):
        if block.language != "python" or block.mark == "no-run":
            continue
        text = text + block.text if block.mark == "continues" else block.text
        found[block.line] = text
    return found


def guide(page: str) -> tuple[str, str]:
    """Returns the one program of a guide, and what it is to print."""
    parts = {
        language: [
            block.text
            for block in blocks(page)
            if block.language == language and block.mark != "no-run"
        ]
        for language in ("python", "text")
    }
    return "".join(parts["python"]), "".join(parts["text"])


def shell_lines(page: str) -> list[str]:
    """Returns the commands of a page's shell blocks."""
    return [
        line.removeprefix("$ ").strip()
        for block in blocks(page)
        if block.language in ("bash", "console", "sh", "shell")
        for line in block.text.splitlines()
    ]


def run(
    program: str, folder: pathlib.Path, *arguments: str
) -> subprocess.CompletedProcess:
    return forked.run(program, *arguments, folder=folder, MPLBACKEND="agg")


def prints(said: str, printed: str) -> bool:
    """Whether a page says what a program printed."""
    return doctest.OutputChecker().check_output(said, printed, FLAGS)


def failed_examples(module: types.ModuleType) -> int:
    """Runs the docstrings' examples; a failure is printed."""
    return doctest.testmod(module, optionflags=FLAGS).failed


PROGRAMS = [
    pytest.param(text, id=f"{page}:{line}")
    for page in PAGES
    for line, text in programs(read(page)).items()
]


@pytest.mark.slow_but("README")
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_the_pages_run(program, tmp_path):
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow_but(
    "coming_from", "numerics", "precision.md", "emulation", "recipes", "formats"
)
@pytest.mark.parametrize("page", GUIDES)
def test_guides_print_what_they_say(page, tmp_path):
    program, said = guide(read(page))
    assert program and said
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert prints(said, done.stdout), done.stdout
    for line in shell_lines(read(page)):
        if line.startswith("tfmp "):
            done = run(COMMAND, tmp_path, *shlex.split(line)[1:])
            assert done.returncode == 0, done.stderr[-4000:]
    for name in re.findall(r"\.\./images/report_(\w+\.png)", read(page)):
        [made] = tmp_path.rglob(name)
        assert looks_like(IMAGES / f"report_{name}", made)


def test_readme_has_programs():
    assert programs(read("README.md"))


@pytest.mark.parametrize("page", [*PAGES, *GUIDES])
def test_marks_are_known(page):
    assert {block.mark for block in blocks(read(page))} <= {"", *MARKS}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    assert failed_examples(module) == 0


@pytest.mark.parametrize(
    "name",
    [
        "commands",
        "docstrings",
        "fp8_products",
        "measure",
        "public",
        "tables",
    ],
)
def test_examples_of_the_site(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    assert failed_examples(importlib.import_module(name)) == 0


def test_everything_public_has_a_place_in_the_reference(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    public = importlib.import_module("public")
    documented = set()
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        documented |= public.documented(page.read_text(encoding="utf-8"))
    assert public.missing(documented) == []
    assert public.missing(documented - {"tfmp.export"}) == ["tfmp.export"]


def test_ci_runs_the_test_command_of_the_readme():
    example, tests = shell_lines(read("README.md"))
    set_up = "python3 -m venv .venv && .venv/bin/pip install -q -e"
    train = ".venv/bin/python examples/fashion_mnist.py"
    assert example == f"{set_up} '.[report]' && {train}"
    test = ".venv/bin/python -m pytest"
    assert tests == f"{set_up} '.[examples,test]' && {test}"
    done = [line.strip() for line in read(".ci/run").splitlines()]
    assert tests in done


# From here on: what finds and runs them.


PAGE = """
```python
x = 1
```
Text.

<!-- continues -->
```python
assert x == 1
```

<!-- no-run -->
```python
raise ValueError
```

```python
y = x
```

```bash
$ python -m pytest
```
"""


def test_programs_are_found():
    assert programs(PAGE) == {
        3: "x = 1\n",
        9: "x = 1\nassert x == 1\n",
        18: "y = x\n",
    }
    assert shell_lines(PAGE) == ["python -m pytest"]


def test_a_program_can_fail(tmp_path):
    codes = [run(text, tmp_path).returncode for text in programs(PAGE).values()]
    assert codes == [0, 0, 1]


def test_a_guide_is_one_program():
    program, said = guide(PAGE + "```text\n1\n```\n```{image} x\n```\n")
    assert program == "x = 1\nassert x == 1\ny = x\n"
    assert prints(said, "1\n") and not prints(said, "2\n")


def test_an_example_can_fail():
    examples = ">>> 1 + 1\n3\n>>> 'a   b'\n'a ...'\n"
    assert failed_examples(types.ModuleType("wrong", examples)) == 1
