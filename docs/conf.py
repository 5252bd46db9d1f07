"""The documentation site: `sphinx-build -W --keep-going docs .build/docs`.

Pages are Markdown, and the reference comes from the docstrings.  Tables of the
reference are made at each build.  Pictures and tables of the guides are in the
repository, and tests hold them against the library's own functions.
"""

from __future__ import annotations

import pathlib
import re
import sys
from typing import Any

HERE = pathlib.Path(__file__).parent
# Links to files that are no page here, and to pages at the top of the tree.
SOURCE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)*(?:tfmp|tests|benchmarks|examples)/.*?\)"
)
TOP = re.compile(r"\]\(\.\./\.\./(?=[A-Z]+\.md)")
sys.path[:0] = [str(HERE.parent), str(HERE)]

import commands  # noqa: E402
import docstrings  # noqa: E402
import links  # noqa: E402
import tables  # noqa: E402

import tfmp  # noqa: E402

project = "tfmp"
author = "The tfmp Authors"
project_copyright = "The tfmp Authors"
version = release = tfmp.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated/*.md"]  # included by others

myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3

nitpicky = True
smartquotes_action = "D"  # dashes: `""` is an empty string
default_role = "code"
highlight_language = "none"  # what is indented in a docstring; not examples
add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the docstrings say more than `Any`
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"tfmp {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def _generate(app: Any) -> None:
    """Writes the tables that the pages of the reference include."""
    target = HERE / "generated"
    target.mkdir(exist_ok=True)
    tables.write(target)
    commands.write(target)


def _link(app: Any, *read: Any) -> None:
    """Changes links that a code host follows into those of the site."""
    content = read[-1]
    content[0] = SOURCE.sub(r"\1", TOP.sub("](../project/", content[0]))


def setup(app: Any) -> dict[str, bool]:
    """Registers what this site adds to Sphinx."""
    app.connect("builder-inited", _generate)
    app.connect("source-read", _link)
    app.connect("include-read", _link)
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)
    app.connect("doctree-resolved", links.link_literals)
    app.connect("env-check-consistency", links.check_reference)
    return {"parallel_read_safe": True}
