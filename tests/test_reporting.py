"""The page and its pictures: whole, by itself, and seen by a browser."""

from __future__ import annotations

import html.parser
import json
import pathlib
import shutil
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
import scale_logs

import tfmp
from tfmp import formats
from tfmp.reporting import histograms, logs, write_report
from tfmp.reporting.markup import element

NAME = 'a<script>alert(1)</script>$x^{$&"'
CHROMIUM = next(
    filter(
        None,
        map(shutil.which, ("chromium", "chromium-browser", "google-chrome")),
    ),
    None,
)


class Page(html.parser.HTMLParser):
    """Takes note of all elements, of unclosed ones, and of the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [given for name, given in self.elements if name == tag]


def outside(text):
    """Returns what a page would fetch."""
    links = [
        value
        for _, given in Page(text).elements
        for name, value in given.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    found = [v for v in links if not v.startswith(("data:", "#"))]
    return found + [w for w in ("url(", "@import", "://") if w in text]


def pixels(png):
    """Returns the bytes of a PNG's picture, unpacked."""
    assert png.startswith(b"\x89PNG\r\n")
    at, data = 8, b""
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += size + 12
    return zlib.decompress(data)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """One run with hostile names, and the same beside one of an old log."""
    folder = tmp_path_factory.mktemp("reports")
    one = scale_logs.write(folder / "n<e>w", layers=4, samples=12, model=NAME)
    old = scale_logs.write(folder / "old", 2, 5, statistics=False)
    return [
        write_report(one, folder / "one.html"),
        write_report([str(one), old], folder / "sub" / "two.html"),
    ]


@pytest.fixture(scope="module", params=[0, 1], ids=["one run", "two runs"])
def report(request, reports):
    return reports[request.param]


def text_of(report):
    return report.page.read_text(encoding="utf-8")


def test_a_page_needs_nothing_else(report):
    assert outside(text_of(report)) == []


@pytest.mark.parametrize(
    "text",
    [
        '<img src="a.png">',
        '<link href="https://x">',
        "<style>a { b: url(x) }</style>",
    ],
)
def test_what_a_page_would_fetch_is_found(text):
    assert outside(text)


def test_elements_are_closed_and_names_escaped(report):
    page = Page(text_of(report))
    assert page.open == [] and page.all("script") == []
    assert any(NAME in words for words in page.words)


def test_pictures_have_words_and_lie_beside_the_page(report):
    images = Page(text_of(report)).all("img")
    assert len(images) == len(report.plots) > 3
    assert all(len(image["alt"]) > 40 for image in images)
    assert {path.parent.name for path in report.plots} == {
        f"{report.page.stem}_plots"
    }
    for path in report.plots:
        assert len(set(pixels(path.read_bytes()))) > 50


def test_tables_name_their_columns(report):
    page = Page(text_of(report))
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert all(given["scope"] in ("col", "row") for given in page.all("th"))


def test_the_worst_tensor_is_the_first_row(reports):
    words = Page(text_of(reports[0])).words
    first = words.index("scale") + 1
    assert words[first] == f"{NAME}/block_1/ffn_1/grads"


def test_several_runs_stand_side_by_side(reports):
    words = Page(text_of(reports[1])).words
    assert "Side by side" in words and "Final numbers" in words
    assert words.count("n<e>w") > 2 and words.count("old") > 2
    names = [path.name for path in reports[1].plots]
    assert names[:2] == ["losses.png", "1_loss.png"] and "2_loss.png" in names


def test_what_is_returned_is_json(report):
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    run = found["runs"][0]
    assert run["name"] == "n<e>w" and run["samples"] == 12
    assert run["final"]["skipped_steps"] == 1 and len(run["tensors"]) == 12


def test_an_old_log_says_what_it_lacks(tmp_path):
    folder = scale_logs.write(tmp_path / "old", 2, 5, statistics=False)
    report = write_report(folder, tmp_path / "old.html")
    text = text_of(report)
    assert "There is no run.json" in text and "no statistics" in text
    assert [path.name for path in report.plots] == ["loss.png"]
    assert "E5M2" in text and "NaN" not in text


@pytest.mark.slow
def test_a_real_training(tmp_path):
    """What is read is what the monitor writes."""
    layer = tfmp.layers.Dense(8, dtype="mixed_float8", name="wide")
    model = keras.Sequential([keras.Input([16]), layer], name="net")
    monitor = tfmp.callbacks.ScaleMonitor(tmp_path / "log", every=1)
    x = np.random.default_rng(0).normal(size=[48, 16])
    keras.utils.set_random_seed(0)
    optimizer = tfmp.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3))
    model.compile(optimizer, "mse")
    model.fit(x, x[:, :8], batch_size=16, verbose=0, callbacks=[monitor])
    run = logs.read(tmp_path / "log")
    assert run.notes == () and run.steps.tolist() == [1, 2, 3]
    assert run.tensors == tuple(f"net/wide/{role}" for role in logs.ROLES)
    assert set(run.histograms) == set(run.tensors)
    for measure in (*logs.MEASURES, "loss_scale", "logs/loss"):
        key = f"net/wide/inputs/{measure}"
        key = key if key in run.series else measure
        assert np.isfinite(run.values(key)).any(), measure
    report = write_report(tmp_path / "log", tmp_path / "r.html")
    assert len(report.plots) == 4 and report.runs[0]["name"] == "log"
    assert report.runs[0]["about"]["model"] == "net"


def test_a_log_of_steps_alone(tmp_path):
    (tmp_path / "scales.jsonl").write_text('{"step": 3}\n', encoding="utf-8")
    report = write_report([tmp_path, tmp_path], tmp_path / "r.html")
    assert report.plots == () and Page(text_of(report)).open == []


@pytest.mark.slow
def test_many_layers_and_samples_stay_legible(tmp_path):
    folder = scale_logs.write(tmp_path / "log", layers=45, samples=122)
    text = text_of(write_report(folder, tmp_path / "r.html"))
    assert "5 layers with smaller shares are left out" in text
    assert "115 better ones are left out" in text
    assert "123 better tensors are left out" in text
    assert "A column is the largest value of several samples" in text
    assert ", of gpt/block_22/ffn_0/grads." in text


def test_a_report_is_replaced_and_leaves_nothing_else(tmp_path):
    folder = scale_logs.write(tmp_path / "log", 1, 2)
    for _ in range(2):
        write_report(folder, tmp_path / "r.html")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log", "r.html", "r_plots"]


@pytest.mark.parametrize(
    ("log_dirs", "out", "error"),
    [
        ("log", "report.pdf", "`out` must be a file that ends in .html"),
        ("log", 3, "`out`"),
        ([], "r.html", "`log_dirs` must be a folder, or a list"),
        ([3], "r.html", "`log_dirs` must be a folder, or a list"),
        ("nowhere", "r.html", "`log_dir` must be a folder"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, log_dirs, out, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=error):
        write_report(log_dirs, out)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(tmp_path, monkeypatch):
    folder = scale_logs.write(tmp_path / "log", 1, 2)
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'tfmp\[report\]'"):
        write_report(folder, tmp_path / "r.html")


@pytest.mark.parametrize("format", formats.FLOAT8, ids=lambda f: f.name)
def test_the_fate_of_every_exponent_is_that_of_its_values(format):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = getattr(ml_dtypes, format.dtype)
    for exponent in range(-24, 20):
        value = min(1.25 * 2.0**exponent, format.max)
        found = float(dtype(value))
        if exponent > format.max_exponent:
            expected = "clipped"
        elif found == 0:
            expected = "flushed"
        else:
            low = found < format.min_normal
            expected = "subnormal" if low else "normal"
        assert histograms.fate(exponent, format) == expected
    histogram = logs.Histogram(1, format.max_exponent, (3.0, 1.0))
    shares = histograms.fates(histogram, format)
    assert shares["normal"] == 0.75 and shares["clipped"] == 0.25


def test_attributes_are_escaped():
    assert element("a", "<", href='"') == '<a href="&quot;">&lt;</a>'


def browse(page: pathlib.Path, *flags: str) -> str:
    """Opens a page in Chromium, which finds no network; returns the DOM."""
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu"),
        f"--user-data-dir={page.parent / 'profile'}",
        "--proxy-server=127.0.0.1:9",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        *("--hide-scrollbars", "--window-size=1000,1600", *flags),
        page.as_uri(),
    ]
    run = subprocess.run(
        command, capture_output=True, check=True, text=True, timeout=60
    )
    return run.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_without_a_network_shows_the_page(reports, tmp_path):
    shot = tmp_path / "shot.png"
    page = reports[1].page
    probe = page.with_name("probe.html")
    # A picture that cannot be decoded has no width.
    script = (
        "<script>onload = () => document.title = [...document.images]"
        ".filter(i => i.naturalWidth > 500).length</script></body>"
    )
    probe.write_text(text_of(reports[1]).replace("</body>", script))
    dom = browse(probe, "--dump-dom", f"--screenshot={shot}")
    assert f"<title>{len(reports[1].plots)}</title>" in dom
    assert "Side by side" in dom and dom.rstrip().endswith("</html>")
    seen = pixels(shot.read_bytes())
    assert len(seen) > 1000 * 1600 * 3 and len(set(seen)) > 100
