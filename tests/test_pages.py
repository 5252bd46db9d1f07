"""The pages as a reader finds them: short, whole, linked, pictures true."""

from __future__ import annotations

import importlib
import json
import pathlib
import re

import numpy as np
import pytest
from pages import GUIDES, IMAGES, PAGES, ROOT, dead_links, looks_like, read

WORDS, BYTES = 900, 16 * 1024  # of README.md, of ARCHITECTURE.md
OTHERS = ("CONTRIBUTING.md", "docs/index.md", "benchmarks/README.md")


def test_first_pages_are_short():
    assert len(read("README.md").split()) <= WORDS
    assert len(read("ARCHITECTURE.md").encode()) <= BYTES


@pytest.mark.parametrize("page", [*OTHERS, *PAGES, *GUIDES])
def test_links_lead_to_files(page):
    assert dead_links(read(page), (ROOT / page).parent) == []


@pytest.mark.parametrize("page", GUIDES)
def test_guides_are_whole_on_a_code_host(page):
    """It knows no directive of Sphinx, and no file made with the site."""
    assert not re.search(r"^```\{|generated/", read(page), re.MULTILINE)


def test_lists_of_guides_are_complete():
    names = {pathlib.Path(page).stem for page in GUIDES}
    index, readme = read("docs/index.md"), read("README.md")
    assert set(re.findall(r"\]\(guides/(\w+)\.md\)", index)) == names
    assert set(re.findall(r"^guides/(\w+)$", index, re.MULTILINE)) == names
    assert set(re.findall(r"\]\(docs/guides/(\w+)\.md\)", readme)) == names


def test_every_image_is_shown_and_small():
    pages = "".join(read(page) for page in [*PAGES, *GUIDES])
    for path in IMAGES.iterdir():
        assert path.name in pages
        assert path.stat().st_size < 50_000


@pytest.fixture
def of_the_site(monkeypatch):
    """Imports a script of docs/."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module


def test_the_picture_of_the_readme_is_what_was_measured(of_the_site):
    script = of_the_site("fp8_products")
    results = json.loads(script.RESULTS.read_text())
    picture = script.PICTURE.read_text()
    assert script.picture(results) == picture
    found = results["programs"]["layer"]["precisions"]["tfmp delayed"]["triton"]
    found["float8_products"] -= 1
    assert script.picture(results) != picture


def test_tables_of_the_guides_are_what_is_computed(of_the_site):
    tables = of_the_site("tables")
    for page in map(pathlib.Path.read_text, tables.PAGES):
        assert tables.filled(page) == page
        spoilt = tables.TABLE.sub(r"\1\n\n\3", page)
        assert spoilt != page and tables.filled(spoilt) == page


def test_pictures_of_the_guides_are_what_is_computed(of_the_site):
    pictures = of_the_site("pictures")
    for name, numbers in pictures.painted():
        assert numbers
        drawn = pictures.drawn(IMAGES / f"{name}.svg")
        assert np.allclose(drawn, numbers, rtol=0.01, equal_nan=True), name


# From here on: what finds and compares them.


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "a.md").touch()
    page = "[a](a.md), [b](a.md#part), [c](https://x.y), ![d](d.svg), [e](../e)"
    assert dead_links(page, tmp_path) == ["d.svg", "../e"]


def test_another_picture_looks_otherwise():
    first, second = sorted(IMAGES.glob("report_*.png"))
    assert looks_like(first, first) and not looks_like(first, second)
